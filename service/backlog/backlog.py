"""What still waits, and who has it in hand? Add, claim, renew, wait, give up."""

from collections.abc import Callable, Sequence
from typing import Literal, cast

from msgspec import Struct

from service.accept.events import BacklogFull, DeploymentCompleted, Duplicate, Queued, Unmappable
from service.backlog.failure import (
    UNMAPPABLE,
    FailureRecord,
    build_failure_record,
    encode_failure,
    parked_job,
)
from service.backlog.ticket import (
    CorruptTicket,
    Lease,
    Ticket,
    decode_lease,
    encode_ticket,
    job_key,
    ticket_from_event,
)
from service.store.group import GroupCommit, ScriptArgument, ScriptReply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua


class BacklogConfig(Struct, frozen=True, kw_only=True):
    """How long things last, in ms, how much may wait, and which share of the quota is ours."""

    lease_ms: int
    delivery_ttl_ms: int
    failed_ttl_ms: int
    call_ttl_ms: int
    max_tickets: int
    rate_limit_share: float
    enqueue_timeout_s: float = 2.0


class Claimed(Struct, frozen=True):
    """What claiming handed out, and how long to sleep (s) if that was all; None: till the bell."""

    leases: list[Lease | CorruptTicket]
    sleep_s: float | None


class Backlog:
    """The tickets of one namespace. ``room`` is Lua that says how many calls may be made now.

    ``new_token`` names each act of the door and each claim, so that one sent twice is known again.
    """

    def __init__(
        self,
        group_commit: GroupCommit,
        *,
        keys: Keys,
        config: BacklogConfig,
        budget_lua: str,
        new_token: Callable[[], str],
    ) -> None:
        self._group_commit = group_commit
        self._keys = keys
        self._config = config
        self._new_token = new_token
        self._renew, self._postpone = (load_script(__package__, name) for name in ("renew", "wait"))
        failures_lua = read_lua(__package__, "failures")
        self._add, self._park = (
            load_script(__package__, name, prelude=failures_lua) for name in ("add", "set_aside")
        )
        tickets_lua = read_lua(__package__, "ending")
        self._fail: Script = load_script(__package__, "give_up", prelude=failures_lua + tickets_lua)
        self._claim: Script = load_script(__package__, "claim", prelude=budget_lua)

    async def add(self, event: DeploymentCompleted) -> Queued | Duplicate | BacklogFull:
        """Remember a delivery and its ticket; returns once they are kept.

        Raises :class:`service.store.Unavailable` when Redis cannot promise that in time.
        """
        keys, job = self._keys, job_key(event)
        status, job_or_wait_s = cast(
            "tuple[bytes, bytes | int]",
            await self._group_commit.submit(
                self._add,
                keys=(
                    keys.delivery(event.source, event.delivery),
                    keys.backlog,
                    keys.tickets,
                    keys.failed,
                    keys.failed_data,
                    keys.wakeup,
                    keys.budget,
                    keys.counts,
                ),
                args=(
                    self._new_token(),
                    job,
                    encode_ticket(ticket_from_event(event), job=job),
                    self._config.delivery_ttl_ms,
                    self._config.max_tickets,
                ),
                durable=True,
                timeout_s=self._config.enqueue_timeout_s,
            ),
        )
        if isinstance(job_or_wait_s, int):
            return BacklogFull(retry_after_s=min(max(job_or_wait_s, 1), 3600))
        job = job_or_wait_s.decode("utf-8", "replace")  # of a repeated delivery it may be another
        return Queued(job=job) if status == b"queued" else Duplicate(job=job)

    async def park(self, source: str, event: Unmappable) -> bool:
        """Keep an event that cannot be mapped for a person; False when it was kept before."""
        delivery = event.delivery
        failure = build_failure_record(
            UNMAPPABLE, detail=event.reason, raw=event.raw, clues=event.replay_context
        )
        reply = await self._group_commit.submit(
            self._park,
            keys=(
                self._keys.delivery(source, delivery),
                self._keys.failed,
                self._keys.failed_data,
                self._keys.counts,
            ),
            args=(
                self._new_token(),
                parked_job(source, delivery),
                encode_failure(failure),
                self._config.delivery_ttl_ms,
                self._config.failed_ttl_ms,
            ),
            durable=True,
            timeout_s=self._config.enqueue_timeout_s,
        )
        return reply == 1

    async def claim(self, limit: int, *, followers: int = 0) -> Claimed:
        """Lease up to ``limit`` tickets that are due, each with the one call it begins with.

        Up to ``company`` more come along that one of those calls can serve too: see claim.lua.
        """
        keys = self._keys
        reply = await self._group_commit.submit(
            self._claim,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.budget,
                keys.budget_calls,
                keys.budget_waiting,
                keys.wakeup,
                keys.claim_reply(self._new_token()),
                keys.counts,
            ),
            args=(
                limit,
                self._config.lease_ms,
                self._config.call_ttl_ms,
                self._config.rate_limit_share,
                followers,
            ),
        )
        now, sleep_ms, *rest = cast("list[int]", reply)
        parts = cast("list[bytes]", rest)
        leases = [
            decode_lease(job, fence=fence, stored=stored, leader=leader, now=now)
            for job, fence, stored, leader in zip(
                *(parts[offset::4] for offset in range(4)), strict=True
            )
        ]
        return Claimed(leases=leases, sleep_s=None if sleep_ms < 0 else sleep_ms / 1000)

    async def renew(
        self, job_fences: Sequence[tuple[str, float]], by_ms: int
    ) -> list[float | None]:
        """Lengthen leases; gives the new fence of each, None where the lease is lost."""
        job_fence_args: list[ScriptArgument] = [
            part for job_fence in job_fences for part in job_fence
        ]
        reply = await self._group_commit.submit(
            self._renew, keys=(self._keys.backlog,), args=(by_ms, *job_fence_args)
        )
        fences = cast("list[bytes]", reply)
        return [float(fence) if fence else None for fence in fences]

    async def postpone(self, lease: Lease, ticket: Ticket, *, delay_s: float) -> bool:
        """Put a ticket back for so long; False when the lease was lost by then."""
        keys = self._keys
        reply = await self._group_commit.submit(
            self._postpone,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.budget_calls,
                keys.budget_waiting,
                keys.wakeup,
                keys.counts,
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                int(delay_s * 1000),
                encode_ticket(ticket, job=lease.job),
            ),
        )
        return reply == b"waiting"

    async def fail(
        self, lease: Lease | CorruptTicket, failure: FailureRecord
    ) -> Literal["given up", "again", "lost"]:
        """Move a ticket to the failed ones; ``again`` when a newer event came meanwhile."""
        keys = self._keys
        reply: ScriptReply = await self._group_commit.submit(
            self._fail,
            keys=(
                keys.backlog,
                keys.tickets,
                keys.failed,
                keys.failed_data,
                keys.budget_calls,
                keys.budget_waiting,
                keys.wakeup,
                keys.counts,
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                encode_failure(failure),
                self._config.failed_ttl_ms,
            ),
            durable=True,
        )
        return cast('Literal["given up", "again", "lost"]', cast("bytes", reply).decode())
