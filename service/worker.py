"""The worker: claim, enrich, publish, settle. Only this module connects the stages."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeGuard, TypeVar, assert_never

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.backlog import Backlog
from service.backlog.failures import FailureRecord
from service.backlog.leases import Capacity, HeldLease, LeaseKeeper
from service.backlog.refreshes import Refreshes
from service.backlog.ticket import (
    LOG_EVENTS,
    CorruptTicket,
    Lease,
    lease_log_fields,
    select_event,
)
from service.backlog.wakeup import Wakeup
from service.enrich.step_runner import StepRunner
from service.enrich.verdict import Ended, Fail, Found, Retry, Shared, Unreported, Verdict
from service.log import EventLogger
from service.publish.entry import Entry, EntryBuilder
from service.publish.stream import PublishResult
from service.reporting import Reporting
from service.store import RedisRefused

T = TypeVar("T")

_STOP_TIMEOUT_S = 2.0
_RELEASE_TIMEOUT_S = 2.0
_ERROR_PAUSE_S = 1.0
_MAX_SLEEP_S = 3600.0
_MAX_TAKEN = 16
_REFUSED_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds between two tries to settle while Redis refuses the write; the last one repeats."""


class WorkerDependencies(Struct, frozen=True, kw_only=True):
    """The objects that a worker uses: the stages, a clock (monotonic seconds), the log."""

    backlog: Backlog
    share_lists: Callable[[Sequence[Lease]], None]
    enrich: Callable[[Lease], Awaitable[Verdict]]
    on_internal_error: Callable[[Lease, Exception], Retry | Fail]
    on_taken: Callable[[Lease], Retry]
    release_memory: Callable[[Lease], None]
    entry_builder: EntryBuilder
    step_runner: StepRunner
    append_and_settle: Callable[[Entry, Lease], Awaitable[PublishResult]]
    refreshes: Refreshes
    wakeup: Wakeup
    clock: Callable[[], float]
    log: EventLogger
    trace_attempt: Callable[[Lease], AbstractContextManager[object]] = nullcontext
    reporting: Reporting | None = None


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """Settings of a worker: tickets at once, lease and shutdown timeout in seconds.

    ``followers`` is how many more tickets it may hold that share a call with one of these. A ticket
    whose lease ran out ``max_crashes`` times fails as poison, because it seems to kill its workers.
    """

    concurrency: int
    lease_s: float
    shutdown_timeout_s: float
    followers: int = 1000
    max_crashes: int = 8  # it is leased alone from the fourth on: see MAX_BATCHES in claim.lua


class BuiltEntry(Struct, frozen=True):
    """A found deployment as an entry of the output stream, and the calls it cost."""

    entry: Entry
    calls: int
    event_index: int | None = None


Outcome = BuiltEntry | Retry | Fail | Ended
"""How an attempt ended; each member has one way to settle the ticket."""

Settlement = tuple[str, dict[str, object]]
"""How a ticket was settled: the log event and its fields."""


class Worker:
    """Works on up to ``concurrency`` tickets at once, and their followers, until stopped."""

    def __init__(self, dependencies: WorkerDependencies, config: WorkerConfig) -> None:
        self._dependencies = dependencies
        self._config = config
        self._clock = dependencies.clock
        self._lease_keeper = LeaseKeeper(
            dependencies.backlog.renew,
            capacity=Capacity(config.concurrency, config.followers),
            lease_s=config.lease_s,
            clock=dependencies.clock,
            log=dependencies.log,
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim no more tickets; finish those in progress."""
        self._stopping.set()

    def count_in_progress(self) -> int:
        """Return the number of tickets in progress."""
        return len(self._lease_keeper)

    async def run(self) -> None:
        """Work until stopped, then finish within the shutdown timeout and release the rest."""
        renew_task = asyncio.create_task(
            self._lease_keeper.renew_until_cancelled(), name="renew-leases"
        )
        end_wait_task = asyncio.create_task(self._end_wait_when_stopped(), name="end-wait")
        try:
            while not self._stopping.is_set():
                await self._claim_or_wait()
            await self._finish()
        finally:
            renew_task.cancel()
            end_wait_task.cancel()
            await asyncio.gather(renew_task, end_wait_task, return_exceptions=True)

    async def _end_wait_when_stopped(self) -> None:
        await self._stopping.wait()
        await self._dependencies.wakeup.end()

    async def _claim_or_wait(self) -> None:
        """Claim as many tickets as the capacity allows; else wait for capacity or a wakeup."""
        if not self._lease_keeper.has_capacity():
            await self._until_stopped(self._lease_keeper.wait_for_capacity())
            return
        capacity = self._lease_keeper.free_capacity()
        try:
            # A cancelled claim would leave leases that no worker knows, so it gets extra time.
            claimed = await self._until_stopped(
                self._dependencies.backlog.claim(
                    capacity.leaders, followers=capacity.followers, waits=True
                ),
                extra_s=_STOP_TIMEOUT_S,
            )
        except Exception:  # a worker that ends silently would be worse than any error
            self._dependencies.log.exception("claim_failed")
            await self._until_stopped(asyncio.sleep(_ERROR_PAUSE_S))
            return
        if claimed is None:
            return
        self._start_tasks(claimed.leases)
        is_idle = self._lease_keeper.free_capacity().leaders > 0 and claimed.sleep_s != 0
        if is_idle and not self._stopping.is_set():
            # A cancelled wait could leave such a lease too.
            await self._until_stopped(
                self._refresh_or_sleep(claimed.sleep_s), extra_s=_STOP_TIMEOUT_S
            )

    async def _refresh_or_sleep(self, sleep_s: float | None) -> None:
        """Queue the refreshes that are due, if there are spare calls; else sleep.

        A ticket that is handed over meanwhile is begun at once, before the next claim.
        """
        try:
            refresh_in_s = await self._dependencies.refreshes.enqueue_due()
        except Exception:  # as for a claim; refreshes can wait
            self._dependencies.log.exception("refresh_failed")
            refresh_in_s = _ERROR_PAUSE_S
        wait_s = min(
            delay_s for delay_s in (sleep_s, refresh_in_s, _MAX_SLEEP_S) if delay_s is not None
        )
        handed_over = await self._dependencies.wakeup.wait(wait_s) if wait_s > 0 else None
        if handed_over is not None:
            self._start_tasks([handed_over])

    def _start_tasks(self, leases: Sequence[Lease | CorruptTicket]) -> None:
        """Start a task per lease; first register which leases share a list call."""
        try:
            self._dependencies.share_lists([lease for lease in leases if self._can_attempt(lease)])
        except Exception:  # each reads a list of its own; a lease without a task would run out
            self._dependencies.log.exception("share_lists_failed")
        for lease in leases:
            held_lease = self._lease_keeper.add(lease)
            held_lease.task = asyncio.create_task(self._process(held_lease), name=lease.job)

    def _can_attempt(self, lease: Lease | CorruptTicket) -> TypeGuard[Lease]:
        return isinstance(lease, Lease) and lease.crashes < self._config.max_crashes

    async def _until_stopped(self, awaitable: Awaitable[T], *, extra_s: float = 0.0) -> T | None:
        """Await until done, or ``extra_s`` after a stop; return None if it was cancelled then."""
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

    async def _finish(self) -> None:
        """Wait for the tickets in progress until the shutdown timeout; release the rest."""
        tasks = self._lease_keeper.list_tasks()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._config.shutdown_timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_RELEASE_TIMEOUT_S)

    async def _process(self, held_lease: HeldLease) -> None:
        """Process one leased ticket to its end; free its capacity in any case."""
        try:
            match held_lease.lease:
                case Lease() as lease:
                    with self._dependencies.trace_attempt(lease):
                        await self._attempt_and_settle(held_lease, lease)
                case CorruptTicket() as corrupt:
                    await self._fail_corrupt(held_lease, corrupt)
        except asyncio.CancelledError:  # by a stop, or because the lease is lost
            if self._stopping.is_set():
                await self._release(held_lease)
        except Exception:  # the lease runs out, and another worker claims the ticket
            self._dependencies.log.exception("settle_failed", job=held_lease.lease.job)
        finally:
            self._lease_keeper.remove(held_lease)

    async def _attempt_and_settle(self, held_lease: HeldLease, lease: Lease) -> None:
        """Attempt a ticket once, settle it as the outcome says, and log how it ended."""
        started_at = self._clock()
        try:
            outcome = await self._attempt(held_lease, lease, started_at)
            held = held_lease.lease  # what was reported has changed its ticket
            attempted = held if isinstance(held, Lease) else lease
            if not isinstance(outcome, Retry) and outcome.event_index is not None:
                attempted = select_event(attempted, outcome.event_index)
            event, fields = await self._until_accepted(
                held_lease, lambda fence: self._settle(outcome, replace(attempted, fence=fence))
            )
        finally:
            self._dependencies.release_memory(lease)
        self._log_attempt(event, fields, lease=attempted, started_at=started_at)

    async def _until_accepted(
        self, held_lease: HeldLease, settle: Callable[[float], Awaitable[T]]
    ) -> T:
        """Settle a ticket with the fence of its lease, and return the result.

        While Redis refuses the write (its memory is full), the lease is renewed and the result of
        the attempt is kept: a ticket of a live worker is never taken for that of a dead one.
        """
        for wait_s in itertools.chain(_REFUSED_WAITS_S, itertools.repeat(_REFUSED_WAITS_S[-1])):
            fence = await self._lease_keeper.begin_settling(held_lease)
            try:
                return await settle(fence)
            except RedisRefused:
                self._lease_keeper.resume_renewing(held_lease)
            await asyncio.sleep(wait_s)
        raise AssertionError("unreachable")

    async def _attempt(self, held_lease: HeldLease, lease: Lease, started_at: float) -> Outcome:
        """Enrich a ticket and build its entry; an internal error becomes a Retry or a Fail."""
        if not self._can_attempt(lease):
            return Fail(reason="poison", detail=f"{lease.crashes} workers ended holding it")
        event_index: int | None = None
        try:
            verdict = await self._dependencies.enrich(lease)
            if isinstance(verdict, Retry | Fail | Ended):
                return verdict
            event_index = verdict.event_index
            if isinstance(verdict, Unreported):
                return await self._report(held_lease, verdict, started_at)
            if isinstance(verdict, Shared):
                entry = Entry(deployment_id=verdict.deployment_id, digest="", is_shared=True)
                return BuiltEntry(entry, verdict.calls, verdict.event_index)
            return await self._build_entry(verdict, lease, started_at)
        except Exception as error:  # a defect of this program must not lose the ticket
            self._dependencies.log.exception("attempt_error", job=lease.job)
            failed = self._dependencies.on_internal_error(lease, error)
            return replace(failed, event_index=event_index) if isinstance(failed, Fail) else failed

    async def _report(
        self, held_lease: HeldLease, verdict: Unreported, started_at: float
    ) -> Retry | Fail | Ended:
        """Report a deployment to LaunchDarkly, so that a later attempt finds it."""
        reporting, lease = self._dependencies.reporting, held_lease.lease
        assert reporting is not None and isinstance(lease, Lease)  # noqa: PT018, S101
        claimed_at_ms = lease.now
        return await reporting.report(
            held_lease,
            verdict,
            lease_keeper=self._lease_keeper,
            until_accepted=self._until_accepted,
            read_now_ms=lambda: claimed_at_ms + round((self._clock() - started_at) * 1000),
        )

    async def _build_entry(
        self, found: Found, lease: Lease, started_at: float
    ) -> BuiltEntry | Fail:
        """Build the entry of the event that the deployment belongs to."""
        index = found.event_index
        lease = lease if index is None else select_event(lease, index)
        now_ms = lease.now + round((self._clock() - started_at) * 1000)
        builder = self._dependencies.entry_builder
        steps = builder.build_in_steps(found, lease, now_ms=now_ms)
        entry = await self._dependencies.step_runner.run(steps)
        if isinstance(entry, Fail):
            return replace(entry, event_index=index)
        return BuiltEntry(entry, found.calls, index)

    async def _settle(self, outcome: Outcome, lease: Lease) -> Settlement:
        """Publish, postpone, skip or fail the ticket, as the outcome says."""
        match outcome:
            case BuiltEntry():
                return await self._publish(outcome, lease)
            case Retry():
                return await self._postpone(outcome, lease)
            case Ended():
                return await self._end_start(outcome, lease)
            case Fail() if lease.ticket.refresh is not None:
                return await self._skip_refresh(outcome, lease)
            case Fail():
                return await self._fail(outcome, lease)
            case _:
                assert_never(outcome)

    async def _publish(self, built: BuiltEntry, lease: Lease) -> Settlement:
        """Append the record and settle the ticket in one script."""
        entry = built.entry
        result = await self._dependencies.append_and_settle(entry, lease)
        if result.status == "taken":
            return await self._postpone_taken(entry.deployment_id, lease)
        fields = {"deployment_id": entry.deployment_id, "calls": built.calls}
        if entry.filtered_because:
            return LOG_EVENTS[result.status], fields | {"reason": entry.filtered_because}
        fields |= {"revision": result.revision, "complete": entry.complete}
        if entry.unreadable_fields:
            fields["unreadable_fields"] = entry.unreadable_fields
        return LOG_EVENTS[result.status], fields

    async def _postpone_taken(self, deployment_id: str, lease: Lease) -> Settlement:
        """Put the ticket back: its source reported the deployment by another event before."""
        taken = (*lease.ticket.taken, deployment_id)[-_MAX_TAKEN:]
        retry = self._dependencies.on_taken(lease)
        return await self._postpone(
            retry, replace(lease, ticket=replace(lease.ticket, taken=taken))
        )

    async def _postpone(self, retry: Retry, lease: Lease) -> Settlement:
        """Put the ticket back into the backlog, due again after the wait."""
        attempts = lease.ticket.attempts + retry.counts_as_attempt
        ticket = replace(lease.ticket, attempts=attempts, reason=retry.reason)
        status = await self._dependencies.backlog.postpone(
            lease, ticket, delay_s=retry.wait_s, round_up_s=retry.round_up_s
        )
        return LOG_EVENTS[status], {
            "reason": retry.reason,
            "wait_s": round(retry.wait_s, 3),
            "counted": retry.counts_as_attempt,
        }

    async def _skip_refresh(self, failed: Fail, lease: Lease) -> Settlement:
        """End a failed refresh; the next one is scheduled, unless the reason is final."""
        status = await self._dependencies.refreshes.skip(lease, failed.reason)
        return LOG_EVENTS[status], {"reason": failed.reason, "detail": failed.detail}

    async def _end_start(self, ended: Ended, lease: Lease) -> Settlement:
        """End the ticket of a start: there is no record of it."""
        reporting = self._dependencies.reporting
        assert reporting is not None  # noqa: S101 - only a report ends so
        status = await reporting.reports.end_start(lease)
        ended_as = "start_reported" if ended.is_reported else "start_dropped"
        return LOG_EVENTS[ended_as if status == "ended" else status], {}

    async def _fail(self, failed: Fail, lease: Lease) -> Settlement:
        """Move the ticket to the failed ones, for a person."""
        reason, detail = failed.reason, failed.detail
        ticket = replace(lease.ticket, received_at=lease.received_at)
        failure = FailureRecord(
            reason=reason, detail=detail, raw=failed.raw, ticket=ticket, fence=lease.fence
        )
        status = await self._dependencies.backlog.fail(lease, failure)
        fields: dict[str, object] = {"reason": reason, "detail": detail}
        if status == "oldest_dropped":
            fields["oldest_dropped"] = True
        return LOG_EVENTS[status], fields

    async def _fail_corrupt(self, held_lease: HeldLease, corrupt: CorruptTicket) -> None:
        """Move bytes that are not a ticket to the failed ones, for a person."""

        async def fail(fence: float) -> None:
            failure = FailureRecord(reason="corrupt_ticket", raw=corrupt.raw, fence=fence)
            await self._dependencies.backlog.fail(replace(corrupt, fence=fence), failure)

        await self._until_accepted(held_lease, fail)
        self._dependencies.log.error("ticket_corrupt", job=corrupt.job)

    async def _release(self, held_lease: HeldLease) -> None:
        """Make a ticket due now, so that another worker can claim it."""
        fence = await self._lease_keeper.begin_settling(held_lease)
        lease = held_lease.lease
        if not isinstance(lease, Lease):
            return
        lease = replace(lease, fence=fence)
        with suppress(RedisRefused):  # then the lease runs out
            status = await self._dependencies.backlog.postpone(lease, lease.ticket, delay_s=0.0)
            event = "lease_lost" if status == "lease_lost" else "deployment_released"
            self._dependencies.log.info(event, **lease_log_fields(lease))

    def _log_attempt(
        self, event: str, fields: dict[str, object], *, lease: Lease, started_at: float
    ) -> None:
        """Log one event about an attempt: how it was settled and how long it took."""
        took_ms = round((self._clock() - started_at) * 1000)
        fields = lease_log_fields(lease) | fields | {"took_ms": took_ms}
        if lease.ticket.refresh is None:
            fields["since_webhook_ms"] = max(0, lease.now - lease.queued_at) + took_ms
        self._dependencies.log.info(event, **fields)
