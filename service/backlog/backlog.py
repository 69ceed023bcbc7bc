"""The backlog: tickets that wait or are leased, in a Redis sorted set."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, cast

from msgspec import Struct
from msgspec.structs import replace
from redis.exceptions import RedisError

from service.accept.large_bodies import run_aside
from service.accept.mapping import BacklogFull, DeploymentEvent, Duplicate, Queued, Unmappable
from service.backlog.failures import (
    UNMAPPABLE,
    FailureRecord,
    compress_raw,
    encode_failure,
    parked_job,
)
from service.backlog.lines import load_lines_lua
from service.backlog.ticket import (
    CorruptTicket,
    Lease,
    QueuedEvent,
    Ticket,
    decode_lease,
    encode_attempted,
    encode_event_list,
    encode_ticket,
    job_key,
    ticket_from_event,
)
from service.log import EventLogger
from service.store.encoded_command import Chunks
from service.store.group_commit import GroupCommit, ScriptArgument, ScriptReply
from service.store.keys import Keys
from service.store.script import Script, load_script, read_lua

PostponeStatus = Literal["postponed", "superseded", "lease_lost"]
FailStatus = Literal["failed", "oldest_dropped", "superseded", "lease_lost"]


class BacklogConfig(Struct, frozen=True, kw_only=True):
    """Settings of the backlog: lifetimes (ms), maximum tickets, rate-limit share (0 to 1).

    ``enqueue_timeout_s`` is how long ``add`` and ``park`` wait for Redis.
    """

    lease_ms: int
    delivery_ttl_ms: int
    failed_ttl_ms: int
    call_ttl_ms: int
    max_tickets: int
    rate_limit_share: float
    enqueue_timeout_s: float = 8.0


_ALL_EVENTS = 1 << 31  # more than any ticket holds
_EXPIRE_INTERVAL_S = 60.0
_TICKET_FULL = "too many webhooks of this version wait already"
_MAX_LEADERS, _MAX_FOLLOWERS = 64, 150
"""The most tickets that one call of claim.lua leases: with a call of their own, and without."""


class Claimed(Struct, frozen=True):
    """The leases of one claim, and how long to sleep (s) afterwards; None: until a wakeup."""

    leases: list[Lease | CorruptTicket]
    sleep_s: float | None


class Backlog:
    """The tickets of one namespace. ``budget_lua`` defines how many calls are available.

    ``new_token`` names each script call that may be repeated, so that Redis recognises the repeat.
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
        failures_lua = read_lua(__package__, "lib_failures")
        tickets_lua = read_lua(__package__, "lib_lines", "lib_tickets")
        hand_over_lua = read_lua(__package__, "lib_hand_over")
        add_lua = budget_lua + failures_lua + tickets_lua + hand_over_lua
        self._add: Script = load_script(__package__, "add", prelude=add_lua)
        self._park: Script = load_script(__package__, "park", prelude=failures_lua)
        claim_lua = budget_lua + load_lines_lua() + hand_over_lua
        self._claim: Script = load_script(__package__, "claim", prelude=claim_lua)
        self._renew: Script = load_script(__package__, "renew")
        self._postpone: Script = load_script(__package__, "postpone", prelude=tickets_lua)
        self._fail: Script = load_script(__package__, "fail", prelude=failures_lua + tickets_lua)
        self._expire: Script = load_script(__package__, "expire_failed", prelude=failures_lua)

    async def add(self, event: DeploymentEvent) -> Queued | Duplicate | BacklogFull:
        """Store a delivery and its ticket; return once Redis has them as durably as configured.

        On an idle system the ticket is leased at once, to the worker that the wakeup list wakes.
        Raise :class:`service.store.RedisUnavailable` if that takes too long.
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
                    keys.failed_raw,
                    keys.budget_calls,
                    keys.budget_waiting,
                    keys.turns,
                    keys.waiting_worker,
                ),
                args=(
                    self._new_token(),
                    job,
                    encode_ticket(ticket_from_event(event), job=job),
                    self._config.delivery_ttl_ms,
                    self._config.max_tickets,
                    self._config.lease_ms,
                    self._config.call_ttl_ms,
                    self._config.rate_limit_share,
                ),
                durable=True,
                timeout_s=self._config.enqueue_timeout_s,
            ),
        )
        if isinstance(job_or_wait_s, int):
            wait_s = min(max(job_or_wait_s, 1), 3600)
            return BacklogFull(wait_s) if status == b"full" else BacklogFull(wait_s, _TICKET_FULL)
        job = job_or_wait_s.decode("utf-8", "replace")  # a repeated delivery may have another job
        return Queued(job=job) if status == b"queued" else Duplicate(job=job)

    async def park(self, source: str, event: Unmappable) -> bool:
        """Store an unmappable event for a person; return False if it was stored before."""
        delivery = event.delivery
        stored_raw = await run_aside(len(event.raw), compress_raw, event.raw)
        failure = FailureRecord(
            reason=UNMAPPABLE,
            detail=event.reason,
            raw=event.raw,
            replay_context=event.replay_context,
        )
        reply = await self._group_commit.submit(
            self._park,
            keys=(
                self._keys.delivery(source, delivery),
                self._keys.failed,
                self._keys.failed_data,
                self._keys.counts,
                self._keys.failed_raw,
            ),
            args=(
                self._new_token(),
                parked_job(source, delivery),
                encode_failure(failure),
                self._config.delivery_ttl_ms,
                Chunks((stored_raw,)),
            ),
            durable=True,
            timeout_s=self._config.enqueue_timeout_s,
        )
        return reply == 1

    async def claim(self, limit: int, *, followers: int = 0, waits: bool = False) -> Claimed:
        """Lease up to ``limit`` tickets that are due, each with its first call.

        Lease up to ``followers`` more that one of these calls can serve too: see claim.lua. One
        script leases a bounded number, so that it blocks Redis briefly. A shared call needs all its
        followers before it begins, so the script is called again while more of them are due.

        ``waits``: the caller waits for a wakeup if it could take more, and can then be handed a
        ticket that is added.
        """
        leases: list[Lease | CorruptTicket] = []
        leaders, batch = 0, ("", 0.0)
        while True:
            try:
                claimed, leader = await self._claim_slice(
                    min(limit - leaders, _MAX_LEADERS),
                    min(followers - (len(leases) - leaders), _MAX_FOLLOWERS),
                    batch=batch,
                    waits=waits,
                )
            except Exception:
                if not leases:
                    raise
                return Claimed(leases=leases, sleep_s=0.0)  # they are leased: work on them
            leases += claimed.leases
            leaders += sum(_has_call(lease) for lease in claimed.leases)
            if not leader or len(leases) - leaders >= followers:
                return Claimed(leases=leases, sleep_s=claimed.sleep_s)
            fence = next(lease.fence for lease in leases if lease.job == leader)
            batch = (leader, fence)

    async def _claim_slice(
        self, limit: int, followers: int, *, batch: tuple[str, float], waits: bool
    ) -> tuple[Claimed, str]:
        """Call claim.lua once; return its leases and the job of which more followers are due.

        ``batch`` is the job and fence of the leader whose followers come first.
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
                keys.script_reply(self._new_token()),
                keys.counts,
                keys.turns,
                keys.waiting_worker,
            ),
            args=(
                limit,
                self._config.lease_ms,
                self._config.call_ttl_ms,
                self._config.rate_limit_share,
                followers,
                *batch,
                int(waits),
            ),
        )
        now, sleep_ms, *rest = cast("list[int]", reply)
        leader, *parts = cast("list[bytes]", rest)
        leases = [
            decode_lease(job, fence=fence, stored=stored, leader=leader, now=now)
            for job, fence, stored, leader in zip(
                *(parts[offset::4] for offset in range(4)), strict=True
            )
        ]
        claimed = Claimed(leases=leases, sleep_s=None if sleep_ms < 0 else sleep_ms / 1000)
        return claimed, leader.decode("utf-8", "replace")

    async def renew(
        self, job_fences: Sequence[tuple[str, float]], by_ms: int
    ) -> list[float | None]:
        """Extend leases; return the new fence of each, None for a lost lease."""
        job_fence_args: list[ScriptArgument] = [
            part for job_fence in job_fences for part in job_fence
        ]
        reply = await self._group_commit.submit(
            self._renew, keys=(self._keys.backlog,), args=(by_ms, *job_fence_args)
        )
        fences = cast("list[bytes]", reply)
        return [float(fence) if fence else None for fence in fences]

    async def postpone(
        self, lease: Lease, ticket: Ticket, *, delay_s: float, round_up_s: float = 0.0
    ) -> PostponeStatus:
        """Put a ticket back for ``delay_s``; ``superseded``: a newer event makes it due now.

        Its due time is rounded up to a multiple of ``round_up_s``. Raise
        :class:`service.store.RedisRefused` if Redis refuses the write for now.
        """
        keys = self._keys
        reply: ScriptReply = await self._group_commit.submit(
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
                encode_attempted(lease, ticket),
                int(round_up_s * 1000),
            ),
            patient=False,
        )
        return cast("PostponeStatus", cast("bytes", reply).decode())

    async def fail(self, lease: Lease | CorruptTicket, failure: FailureRecord) -> FailStatus:
        """Move a ticket to the failed ones; ``superseded`` if a newer event arrived meanwhile.

        ``oldest_dropped``: it failed, and the oldest of the failed events of its job is dropped,
        because a record holds 16. If the ticket has several events of a version, only the one of
        the lease fails. Raise :class:`service.store.RedisRefused` if Redis refuses the write for
        now.
        """
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
                keys.failed_raw,
            ),
            args=(
                lease.job,
                lease.fence,
                lease.generation,
                encode_failure(failure),
                *_failed_event_args(lease),
                compress_raw(failure.raw),
            ),
            durable=True,
            patient=False,
        )
        return cast("FailStatus", cast("bytes", reply).decode())

    async def expire_failed(self) -> int:
        """Delete the failed tickets and parked events that are no longer kept; return how many.

        Other scripts are executed between two slices. Raise a RedisError.
        """
        keys, count, has_more = self._keys, 0, 1
        while has_more:
            reply = await self._group_commit.submit(
                self._expire,
                keys=(keys.failed, keys.failed_data, keys.counts, keys.failed_raw),
                args=(self._config.failed_ttl_ms,),
            )
            deleted, has_more = cast("tuple[int, int]", reply)
            count += deleted
        return count

    async def expire_failed_periodically(self, log: EventLogger) -> None:
        """Delete what is no longer kept, each minute until cancelled; log errors of Redis."""
        while True:
            try:
                if count := await self.expire_failed():
                    log.info("failed_tickets_expired", tickets=count)
            except RedisError as error:
                log.warning("expiry_failed", reason=str(error))
            await asyncio.sleep(_EXPIRE_INTERVAL_S)


def _failed_event_args(lease: Lease | CorruptTicket) -> tuple[bytes, int, int]:
    """Return the event of a lease as a list, to retry it later, and which events fail."""
    if isinstance(lease, CorruptTicket):
        return b"", 1, _ALL_EVENTS
    if lease.job.startswith("id:"):
        return b"", *lease.settled_events
    ticket = replace(lease.ticket, attempts=0, reason=None, received_at=lease.received_at)
    event = QueuedEvent(ticket, lease.received_at)
    return encode_event_list((event,), job=lease.job), *lease.settled_events


def _has_call(lease: Lease | CorruptTicket) -> bool:
    return isinstance(lease, CorruptTicket) or lease.leader is None
