"""What still waits, and who has it in hand? Add, claim, renew, wait, give up."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from msgspec import Struct

from service.accept.events import DeploymentCompleted, Duplicate, Full, Queued, Unmappable
from service.backlog.failure import (
    UNMAPPABLE,
    Failure,
    encode_failure,
    name_aside,
    record_failure,
)
from service.backlog.ticket import (
    Lease,
    Ticket,
    Unreadable,
    encode_ticket,
    name_job,
    read_lease,
    write_ticket,
)
from service.store.group import Argument, GroupCommit, Reply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua


class Terms(Struct, frozen=True, kw_only=True):
    """How long things last, in ms, how much may wait, and which share of the quota is ours."""

    lease_ms: int
    mark_ms: int
    failed_ms: int
    call_ms: int
    limit: int
    share: float
    door_patience_s: float = 2.0


class Claimed(Struct, frozen=True):
    """What claiming handed out, and how long to sleep (s) if that was all; None: till the bell."""

    leases: list[Lease | Unreadable]
    sleep_s: float | None


class Backlog:
    """The tickets of one namespace. ``room`` is Lua that says how many calls may be made now.

    ``new_token`` names each act of the door and each claim, so that one sent twice is known again.
    """

    def __init__(
        self,
        group: GroupCommit,
        *,
        keys: Keys,
        terms: Terms,
        room: str,
        new_token: Callable[[], str],
    ) -> None:
        self._group = group
        self._keys = keys
        self._terms = terms
        self._new_token = new_token
        self._renew, self._wait = (load_script(__package__, name) for name in ("renew", "wait"))
        failures = read_lua(__package__, "failures")
        self._add, self._set_aside = (
            load_script(__package__, name, prelude=failures) for name in ("add", "set_aside")
        )
        ending = read_lua(__package__, "ending")
        self._give_up: Script = load_script(__package__, "give_up", prelude=failures + ending)
        self._claim: Script = load_script(__package__, "claim", prelude=room)

    async def add(self, event: DeploymentCompleted) -> Queued | Duplicate | Full:
        """Remember a delivery and its ticket; returns once they are kept.

        Raises :class:`service.store.Unavailable` when Redis cannot promise that in time.
        """
        keys, job = self._keys, name_job(event)
        status, told = cast(
            "tuple[bytes, bytes | int]",
            await self._group.submit(
                self._add,
                keys=(
                    keys.delivery(event.source, event.delivery),
                    keys.backlog,
                    keys.tickets,
                    keys.failed,
                    keys.failures,
                    keys.bell,
                    keys.budget,
                    keys.counts,
                ),
                args=(
                    self._new_token(),
                    job,
                    encode_ticket(write_ticket(event), job=job),
                    self._terms.mark_ms,
                    self._terms.limit,
                ),
                durable=True,
                patience_s=self._terms.door_patience_s,
            ),
        )
        if isinstance(told, int):
            return Full(retry_after_s=min(max(told, 1), 3600))
        job = told.decode("utf-8", "replace")  # of a repeated delivery it may be another
        return Queued(job=job) if status == b"queued" else Duplicate(job=job)

    async def set_aside(self, source: str, event: Unmappable) -> bool:
        """Keep an event that cannot be mapped for a person; False when it was kept before."""
        delivery = event.delivery
        failure = record_failure(UNMAPPABLE, detail=event.reason, raw=event.raw, clues=event.clues)
        kept = await self._group.submit(
            self._set_aside,
            keys=(
                self._keys.delivery(source, delivery),
                self._keys.failed,
                self._keys.failures,
                self._keys.counts,
            ),
            args=(
                self._new_token(),
                name_aside(source, delivery),
                encode_failure(failure),
                self._terms.mark_ms,
                self._terms.failed_ms,
            ),
            durable=True,
            patience_s=self._terms.door_patience_s,
        )
        return kept == 1

    async def claim(self, limit: int, *, company: int = 0) -> Claimed:
        """Lease up to ``limit`` tickets that are due, each with the one call it begins with.

        Up to ``company`` more come along that one of those calls can serve too: see claim.lua.
        """
        keys = self._keys
        reply = await self._group.submit(
            self._claim,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.budget,
                keys.calls,
                keys.callers,
                keys.bell,
                keys.claim(self._new_token()),
                keys.counts,
            ),
            args=(limit, self._terms.lease_ms, self._terms.call_ms, self._terms.share, company),
        )
        now, sleep_ms, *rest = cast("list[int]", reply)
        parts = cast("list[bytes]", rest)
        leases = [
            read_lease(job, fence=fence, stored=stored, lead=lead, now=now)
            for job, fence, stored, lead in zip(*(parts[n::4] for n in range(4)), strict=True)
        ]
        return Claimed(leases=leases, sleep_s=None if sleep_ms < 0 else sleep_ms / 1000)

    async def renew(self, held: Sequence[tuple[str, float]], by_ms: int) -> list[float | None]:
        """Lengthen leases; gives the new fence of each, None where the lease is lost."""
        pairs: list[Argument] = [part for pair in held for part in pair]
        reply = await self._group.submit(
            self._renew, keys=(self._keys.backlog,), args=(by_ms, *pairs)
        )
        fences = cast("list[bytes]", reply)
        return [float(fence) if fence else None for fence in fences]

    async def wait(self, lease: Lease, ticket: Ticket, *, for_s: float) -> bool:
        """Put a ticket back for so long; False when the lease was lost by then."""
        keys = self._keys
        reply = await self._group.submit(
            self._wait,
            keys=(keys.backlog, keys.tickets, keys.calls, keys.callers, keys.bell, keys.counts),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                int(for_s * 1000),
                encode_ticket(ticket, job=lease.job),
            ),
        )
        return reply == b"waiting"

    async def give_up(
        self, lease: Lease | Unreadable, failure: Failure
    ) -> Literal["given up", "again", "lost"]:
        """Move a ticket to the failed ones; ``again`` when a newer event came meanwhile."""
        keys = self._keys
        reply: Reply = await self._group.submit(
            self._give_up,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.failed,
                keys.failures,
                keys.calls,
                keys.callers,
                keys.bell,
                keys.counts,
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                encode_failure(failure),
                self._terms.failed_ms,
            ),
            durable=True,
        )
        return cast('Literal["given up", "again", "lost"]', cast("bytes", reply).decode())
