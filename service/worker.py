"""Where do the stages meet? Claim, enrich, publish, settle: here and nowhere else."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeGuard, TypeVar, assert_never

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.backlog import Backlog
from service.backlog.failure import record_failure
from service.backlog.holding import Hand, Holding, Room
from service.backlog.looks import Looks
from service.backlog.ticket import FACTS, Lease, Unreadable, describe_lease
from service.enrich.verdict import Found, Later, Never, Verdict
from service.log import FactLog
from service.publish.stream import Settled
from service.publish.writing import Entry, Writer

T = TypeVar("T")

_LAST_CLAIM_S = 2.0
_LAST_WORD_S = 2.0
_REST_S = 1.0
_LONG_S = 3600.0


class Collaborators(Struct, frozen=True, kw_only=True):
    """All that a worker is handed: the stages as verbs, a clock (monotonic s), the log."""

    backlog: Backlog
    expect: Callable[[Sequence[Lease]], None]
    enrich: Callable[[Lease], Awaitable[Verdict]]
    judge_accident: Callable[[Lease, Exception], Later | Never]
    writer: Writer
    append_and_settle: Callable[[Entry, Lease], Awaitable[Settled]]
    looks: Looks
    listen: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]
    log: FactLog
    attempt: Callable[[Lease], AbstractContextManager[object]] = nullcontext


class Manner(Struct, frozen=True, kw_only=True):
    """How a worker works: tickets at once, seconds of a lease, seconds of grace at the end.

    ``company`` is how many more it has in hand that share a call with one of these. A ticket whose
    lease ran out ``crashes`` times is taken for what kills its workers.
    """

    concurrency: int
    lease_s: float
    grace_s: float
    company: int = 1000
    crashes: int = 5


class Worker:
    """Works on up to ``concurrency`` tickets at once, and their company, until told to stop."""

    def __init__(self, hands: Collaborators, manner: Manner) -> None:
        self._do = hands
        self._manner = manner
        self._holding = Holding(
            hands.backlog.renew,
            room=Room(manner.concurrency, manner.company),
            lease_s=manner.lease_s,
            clock=hands.clock,
            log=hands.log,
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim no more; finish what is in hand."""
        self._stopping.set()

    def count_in_hand(self) -> int:
        """Say how many tickets are being worked on."""
        return len(self._holding)

    async def run(self) -> None:
        """Work until stopped, then finish within the grace time and hand the rest back."""
        renewing = asyncio.create_task(self._holding.keep_renewed(), name="renew-leases")
        try:
            while not self._stopping.is_set():
                await self._claim_or_rest()
            await self._finish()
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _claim_or_rest(self) -> None:
        """Claim what there is room for; else wait for room, or for something to do."""
        if not self._holding.has_room():
            await self._until_stopped(self._holding.wait_for_room())
            return
        room = self._holding.measure_room()
        try:
            # A claim cut short would leave its tickets leased to nobody: it may take its time.
            claimed = await self._until_stopped(
                self._do.backlog.claim(room.leads, company=room.company),
                longer_s=_LAST_CLAIM_S,
            )
        except Exception:  # whatever it is, a worker that ends in silence is worse
            self._do.log.exception("claiming_failed")
            await self._until_stopped(asyncio.sleep(_REST_S))
            return
        if claimed is None:
            return
        self._begin(claimed.leases)
        is_idle = self._holding.measure_room().leads > 0 and claimed.sleep_s != 0
        if is_idle and not self._stopping.is_set():
            await self._until_stopped(self._look_again_or_sleep(claimed.sleep_s))

    async def _look_again_or_sleep(self, sleep_s: float | None) -> None:
        """Take up looks that are due, if there is leave; else sleep until there is work."""
        try:
            look_s = await self._do.looks.look_again()
        except Exception:  # as claiming: looks can wait
            self._do.log.exception("looking_again_failed")
            look_s = _REST_S
        nap_s = min(each for each in (sleep_s, look_s, _LONG_S) if each is not None)
        if nap_s > 0:
            await self._do.listen(nap_s)

    def _begin(self, leases: Sequence[Lease | Unreadable]) -> None:
        """Take what was claimed in hand, and say first who came with whom."""
        self._do.expect([lease for lease in leases if self._is_to_be_tried(lease)])
        for lease in leases:
            hand = self._holding.take(lease)
            hand.task = asyncio.create_task(self._handle(hand), name=lease.job)

    def _is_to_be_tried(self, lease: Lease | Unreadable) -> TypeGuard[Lease]:
        return isinstance(lease, Lease) and lease.crashes < self._manner.crashes

    async def _until_stopped(self, doing: Awaitable[T], *, longer_s: float = 0.0) -> T | None:
        """Wait for something, but once stopped only ``longer_s`` more; None when it was cut."""
        task = asyncio.ensure_future(doing)
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not task.done() and longer_s:
            await asyncio.wait((task,), timeout=longer_s)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        return task.result()

    async def _handle(self, hand: Hand) -> None:
        """See one ticket through; whatever happens, the hand is free afterwards."""
        try:
            match hand.lease:
                case Lease() as lease:
                    with self._do.attempt(lease):
                        await self._attempt(hand, lease)
                case Unreadable(raw=raw):
                    await self._holding.begin_settling(hand)
                    held = hand.lease  # its fence may be another by now
                    failure = record_failure("unreadable_ticket", raw=raw, fence=held.fence)
                    await self._do.backlog.give_up(held, failure)
                    self._do.log.error("ticket_unreadable", job=held.job)
        except asyncio.CancelledError:
            if isinstance(hand.lease, Lease) and self._stopping.is_set():
                await self._do.backlog.wait(hand.lease, hand.lease.ticket, for_s=0.0)
                self._do.log.info("deployment_handed_back", **describe_lease(hand.lease))
        except Exception:  # settling failed for good: the lease runs out by itself
            self._do.log.exception("settling_failed", job=hand.lease.job)
        finally:
            self._holding.let_go(hand)

    async def _attempt(self, hand: Hand, lease: Lease) -> None:
        """Try once, settle as the verdict says, and write one line about it."""
        begun = self._do.clock()
        verdict = await self._try(lease, begun)
        await self._holding.begin_settling(hand)
        event, facts = await self._settle(verdict, hand)
        took_ms = round((self._do.clock() - begun) * 1000)
        facts = describe_lease(lease) | facts | {"took_ms": took_ms}
        if lease.ticket.look is None:
            facts["since_webhook_ms"] = max(0, lease.now - lease.queued_at) + took_ms
        self._do.log.info(event, **facts)

    async def _try(self, lease: Lease, begun: float) -> "_Written | Later | Never":
        if not self._is_to_be_tried(lease):
            return Never(reason="poison", detail=f"{lease.crashes} workers ended holding it")
        try:
            verdict = await self._do.enrich(lease)
            if isinstance(verdict, Found):
                now_ms = lease.now + round((self._do.clock() - begun) * 1000)
                entry = self._do.writer.write(verdict, lease, now_ms=now_ms)
                return entry if isinstance(entry, Never) else _Written(entry, verdict.calls)
        except Exception as error:  # our own mistake must not lose the ticket
            self._do.log.exception("attempt_crashed", job=lease.job)
            return self._do.judge_accident(lease, error)
        return verdict

    async def _settle(
        self, verdict: "_Written | Later | Never", hand: Hand
    ) -> tuple[str, dict[str, object]]:
        """Do what the verdict says; gives the fact to log."""
        lease = hand.lease
        assert isinstance(lease, Lease)  # noqa: S101 - narrows for the type checker
        match verdict:
            case _Written(entry=entry, calls=calls):
                settled = await self._do.append_and_settle(entry, lease)
                facts = {"deployment_id": entry.deployment_id, "calls": calls}
                if entry.left_out:
                    return FACTS[settled.fate], facts | {"reason": entry.left_out}
                facts |= {"revision": settled.revision, "complete": entry.complete}
                return FACTS[settled.fate], facts
            case Later(reason=reason, wait_s=wait_s, counts=counts):
                ticket = lease.ticket
                tried = replace(ticket, attempts=ticket.attempts + counts, reason=reason)
                kept = await self._do.backlog.wait(lease, tried, for_s=wait_s)
                fact = "deployment_postponed" if kept else "lease_lost"
                return fact, {"reason": reason, "wait_s": round(wait_s, 3), "counted": counts}
            case Never(reason=reason, detail=detail) if lease.ticket.look is not None:
                left = await self._do.looks.skip(lease, reason)
                return FACTS[left], {"reason": reason, "detail": detail}
            case Never(reason=reason, detail=detail, raw=raw):
                failure = record_failure(
                    reason, detail=detail, raw=raw, ticket=lease.ticket, fence=lease.fence
                )
                fate = await self._do.backlog.give_up(lease, failure)
                return FACTS[fate], {"reason": reason, "detail": detail}
            case _:
                assert_never(verdict)

    async def _finish(self) -> None:
        """Let what is in hand end within the grace time; hand the rest back at once."""
        tasks = self._holding.list_tasks()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._manner.grace_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_WORD_S)


class _Written(Struct, frozen=True):
    """A deployment found and written as an entry, and the calls it cost."""

    entry: Entry
    calls: int
