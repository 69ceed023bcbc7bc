"""Where do the stages meet? Claim, enrich, publish, settle: here and nowhere else."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard, TypeVar, assert_never

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.backlog import Backlog
from service.backlog.failures import build_failure_record
from service.backlog.leases import Capacity, HeldLease, LeaseKeeper
from service.backlog.refreshes import Refreshes
from service.backlog.ticket import LOG_EVENTS, CorruptTicket, Lease, lease_log_fields
from service.enrich.verdict import Fail, Found, Retry, Verdict
from service.log import EventLogger
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import PublishResult

T = TypeVar("T")

_STOP_CLAIM_TIMEOUT_S = 2.0
_RELEASE_TIMEOUT_S = 2.0
_ERROR_PAUSE_S = 1.0
_MAX_SLEEP_S = 3600.0


class WorkerDependencies(Struct, frozen=True, kw_only=True):
    """All that a worker is handed: the stages as verbs, a clock (monotonic s), the log."""

    backlog: Backlog
    share_lists: Callable[[Sequence[Lease]], None]
    enrich: Callable[[Lease], Awaitable[Verdict]]
    on_internal_error: Callable[[Lease, Exception], Retry | Fail]
    entry_builder: EntryBuilder
    append_and_settle: Callable[[Entry, Lease], Awaitable[PublishResult]]
    refreshes: Refreshes
    wait_for_wakeup: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]
    log: EventLogger
    trace_attempt: Callable[[Lease], AbstractContextManager[object]] = nullcontext


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """How a worker works: tickets at once, seconds of a lease, seconds of grace at the end.

    ``company`` is how many more it has in hand that share a call with one of these. A ticket whose
    lease ran out ``crashes`` times is taken for what kills its workers.
    """

    concurrency: int
    lease_s: float
    shutdown_timeout_s: float
    followers: int = 1000
    max_crashes: int = 5


class Worker:
    """Works on up to ``concurrency`` tickets at once, and their company, until told to stop."""

    def __init__(self, dependencies: WorkerDependencies, config: WorkerConfig) -> None:
        self._dependencies = dependencies
        self._config = config
        self._lease_keeper = LeaseKeeper(
            dependencies.backlog.renew,
            capacity=Capacity(config.concurrency, config.followers),
            lease_s=config.lease_s,
            clock=dependencies.clock,
            log=dependencies.log,
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim no more; finish what is in hand."""
        self._stopping.set()

    def count_in_progress(self) -> int:
        """Say how many tickets are being worked on."""
        return len(self._lease_keeper)

    async def run(self) -> None:
        """Work until stopped, then finish within the grace time and hand the rest back."""
        renew_task = asyncio.create_task(
            self._lease_keeper.renew_until_cancelled(), name="renew-leases"
        )
        try:
            while not self._stopping.is_set():
                await self._claim_or_wait()
            await self._finish()
        finally:
            renew_task.cancel()
            await asyncio.gather(renew_task, return_exceptions=True)

    async def _claim_or_wait(self) -> None:
        """Claim what there is room for; else wait for room, or for something to do."""
        if not self._lease_keeper.has_capacity():
            await self._until_stopped(self._lease_keeper.wait_for_capacity())
            return
        capacity = self._lease_keeper.free_capacity()
        try:
            # A claim cut short would leave its tickets leased to nobody: it may take its time.
            claimed = await self._until_stopped(
                self._dependencies.backlog.claim(capacity.leaders, followers=capacity.followers),
                extra_s=_STOP_CLAIM_TIMEOUT_S,
            )
        except Exception:  # whatever it is, a worker that ends in silence is worse
            self._dependencies.log.exception("claim_failed")
            await self._until_stopped(asyncio.sleep(_ERROR_PAUSE_S))
            return
        if claimed is None:
            return
        self._start_tasks(claimed.leases)
        is_idle = self._lease_keeper.free_capacity().leaders > 0 and claimed.sleep_s != 0
        if is_idle and not self._stopping.is_set():
            await self._until_stopped(self._refresh_or_sleep(claimed.sleep_s))

    async def _refresh_or_sleep(self, sleep_s: float | None) -> None:
        """Take up looks that are due, if there is leave; else sleep until there is work."""
        try:
            refresh_in_s = await self._dependencies.refreshes.enqueue_due()
        except Exception:  # as claiming: looks can wait
            self._dependencies.log.exception("refresh_failed")
            refresh_in_s = _ERROR_PAUSE_S
        wait_s = min(
            delay_s for delay_s in (sleep_s, refresh_in_s, _MAX_SLEEP_S) if delay_s is not None
        )
        if wait_s > 0:
            await self._dependencies.wait_for_wakeup(wait_s)

    def _start_tasks(self, leases: Sequence[Lease | CorruptTicket]) -> None:
        """Take what was claimed in hand, and say first who came with whom."""
        self._dependencies.share_lists([lease for lease in leases if self._can_attempt(lease)])
        for lease in leases:
            held_lease = self._lease_keeper.add(lease)
            held_lease.task = asyncio.create_task(self._handle(held_lease), name=lease.job)

    def _can_attempt(self, lease: Lease | CorruptTicket) -> TypeGuard[Lease]:
        return isinstance(lease, Lease) and lease.crashes < self._config.max_crashes

    async def _until_stopped(self, awaitable: Awaitable[T], *, extra_s: float = 0.0) -> T | None:
        """Wait for something, but once stopped only ``longer_s`` more; None when it was cut."""
        task = asyncio.ensure_future(awaitable)
        stop_task = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stop_task), return_when=asyncio.FIRST_COMPLETED)
        stop_task.cancel()
        if not task.done() and extra_s:
            await asyncio.wait((task,), timeout=extra_s)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    async def _handle(self, held_lease: HeldLease) -> None:
        """See one ticket through; whatever happens, the hand is free afterwards."""
        try:
            match held_lease.lease:
                case Lease() as lease:
                    with self._dependencies.trace_attempt(lease):
                        await self._attempt_and_settle(held_lease, lease)
                case CorruptTicket(raw=raw):
                    await self._lease_keeper.begin_settling(held_lease)
                    current_lease = held_lease.lease  # its fence may be another by now
                    failure = build_failure_record(
                        "corrupt_ticket", raw=raw, fence=current_lease.fence
                    )
                    await self._dependencies.backlog.fail(current_lease, failure)
                    self._dependencies.log.error("ticket_corrupt", job=current_lease.job)
        except asyncio.CancelledError:
            if isinstance(held_lease.lease, Lease) and self._stopping.is_set():
                await self._dependencies.backlog.postpone(
                    held_lease.lease, held_lease.lease.ticket, delay_s=0.0
                )
                self._dependencies.log.info(
                    "deployment_released", **lease_log_fields(held_lease.lease)
                )
        except Exception:  # settling failed for good: the lease runs out by itself
            self._dependencies.log.exception("settle_failed", job=held_lease.lease.job)
        finally:
            self._lease_keeper.remove(held_lease)

    async def _attempt_and_settle(self, held_lease: HeldLease, lease: Lease) -> None:
        """Try once, settle as the verdict says, and write one line about it."""
        started_at = self._dependencies.clock()
        verdict = await self._enrich(lease, started_at)
        await self._lease_keeper.begin_settling(held_lease)
        event, fields = await self._settle(verdict, held_lease)
        took_ms = round((self._dependencies.clock() - started_at) * 1000)
        fields = lease_log_fields(lease) | fields | {"took_ms": took_ms}
        if lease.ticket.refresh is None:
            fields["since_webhook_ms"] = max(0, lease.now - lease.queued_at) + took_ms
        self._dependencies.log.info(event, **fields)

    async def _enrich(self, lease: Lease, started_at: float) -> "_Built | Retry | Fail":
        if not self._can_attempt(lease):
            return Fail(reason="poison", detail=f"{lease.crashes} workers ended holding it")
        try:
            verdict = await self._dependencies.enrich(lease)
            if isinstance(verdict, Found):
                now_ms = lease.now + round((self._dependencies.clock() - started_at) * 1000)
                entry = self._dependencies.entry_builder.build(verdict, lease, now_ms=now_ms)
                return entry if isinstance(entry, Fail) else _Built(entry, verdict.calls)
        except Exception as error:  # our own mistake must not lose the ticket
            self._dependencies.log.exception("attempt_error", job=lease.job)
            return self._dependencies.on_internal_error(lease, error)
        return verdict

    async def _settle(
        self, verdict: "_Built | Retry | Fail", held_lease: HeldLease
    ) -> tuple[str, dict[str, object]]:
        """Do what the verdict says; gives the fact to log."""
        lease = held_lease.lease
        assert isinstance(lease, Lease)  # noqa: S101 - narrows for the type checker
        match verdict:
            case _Built(entry=entry, calls=calls):
                result = await self._dependencies.append_and_settle(entry, lease)
                fields = {"deployment_id": entry.deployment_id, "calls": calls}
                if entry.filtered_because:
                    return LOG_EVENTS[result.status], fields | {"reason": entry.filtered_because}
                fields |= {"revision": result.revision, "complete": entry.complete}
                return LOG_EVENTS[result.status], fields
            case Retry(reason=reason, wait_s=wait_s, counts_as_attempt=counts_as_attempt):
                ticket = lease.ticket
                updated_ticket = replace(
                    ticket, attempts=ticket.attempts + counts_as_attempt, reason=reason
                )
                postpone_status = await self._dependencies.backlog.postpone(
                    lease, updated_ticket, delay_s=wait_s
                )
                return LOG_EVENTS[postpone_status], {
                    "reason": reason,
                    "wait_s": round(wait_s, 3),
                    "counted": counts_as_attempt,
                }
            case Fail(reason=reason, detail=detail) if lease.ticket.refresh is not None:
                skip_status = await self._dependencies.refreshes.skip(lease, reason)
                return LOG_EVENTS[skip_status], {"reason": reason, "detail": detail}
            case Fail(reason=reason, detail=detail, raw=raw):
                failure = build_failure_record(
                    reason, detail=detail, raw=raw, ticket=lease.ticket, fence=lease.fence
                )
                fail_status = await self._dependencies.backlog.fail(lease, failure)
                return LOG_EVENTS[fail_status], {"reason": reason, "detail": detail}
            case _:
                assert_never(verdict)

    async def _finish(self) -> None:
        """Let what is in hand end within the grace time; hand the rest back at once."""
        tasks = self._lease_keeper.list_tasks()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._config.shutdown_timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_RELEASE_TIMEOUT_S)


class _Built(Struct, frozen=True):
    """A deployment found and written as an entry, and the calls it cost."""

    entry: Entry
    calls: int
