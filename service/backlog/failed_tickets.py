"""The failed tickets and parked events, which a person reads, retries or drops."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

from msgspec import Struct
from redis.asyncio import Redis

from service.accept.large_bodies import run_aside
from service.accept.sources import Source
from service.backlog.failures import (
    FailedTicket,
    Requeue,
    Skip,
    decode_failed_ticket,
    encode_failure,
    parse_parked_job,
    plan_retry,
    with_raw,
)
from service.backlog.ticket import encode_ticket
from service.store.exchange import decode_text
from service.store.group_commit import GroupCommit, ScriptArgument
from service.store.keys import Keys
from service.store.redis_clock import read_clock
from service.store.script import Script, load_script, read_lua

MAX_BATCH = 25
_TIMEOUT_S = 10.0

FailedTimeRange = tuple[float, float]
"""Start and end (Redis ms) of the time in which tickets failed."""


class RetryResult(Struct, frozen=True):
    """How a retry or a drop of one failed ticket ended; ``detail`` is the reason or the new job."""

    job: str
    status: Literal["queued", "superseded", "skipped", "gone", "dropped"]
    detail: str = ""


class FailedTickets:
    """The failed tickets of one namespace.

    Lists leave out the raw responses and bodies, which may be large. ``new_token`` names each
    script call, so that Redis recognises a repeat.
    """

    def __init__(
        self, client: Redis, group_commit: GroupCommit, *, keys: Keys, new_token: Callable[[], str]
    ) -> None:
        self._client = client
        self._group_commit = group_commit
        self._keys = keys
        self._new_token = new_token
        failures_lua = read_lua(__package__, "lib_failures")
        tickets_lua = read_lua(__package__, "lib_lines", "lib_tickets")
        self._retry: Script = load_script(__package__, "retry", prelude=failures_lua + tickets_lua)
        self._drop: Script = load_script(__package__, "drop", prelude=failures_lua)

    async def read_time_ms(self) -> int:
        """Return the time of the scripts, which dates failures, in ms."""
        return (await read_clock(self._client, self._keys.clock)).now_ms

    async def read(self, jobs: Iterable[str]) -> list[FailedTicket]:
        """Return the failed tickets of these jobs; jobs that have not failed are left out."""
        unique_jobs = list(dict.fromkeys(jobs))
        if not unique_jobs:
            return []
        times_ms = await self._client.zmscore(self._keys.failed, unique_jobs)
        return await self._read_tickets(
            [
                (job, at_ms)
                for job, at_ms in zip(unique_jobs, times_ms, strict=True)
                if at_ms is not None
            ]
        )

    async def read_whole(self, job: str) -> FailedTicket | None:
        """Return a failed ticket with its raw response or body; None if the job has not failed."""
        tickets = await self.read([job])
        return await self._read_raw(tickets[0]) if tickets else None

    async def plan_retry(
        self, failed: FailedTicket, sources: Mapping[str, Source]
    ) -> Requeue | Skip:
        """Decide whether a failed ticket can be retried; the body of a parked event is read."""
        if parse_parked_job(failed.job) is not None:
            failed = await self._read_raw(failed)
        size = failed.failure.raw_size if failed.failure else 0
        return await run_aside(size, plan_retry, failed, sources)

    async def list_newest(self, time_range: FailedTimeRange) -> AsyncIterator[FailedTicket]:
        """Iterate over the tickets that failed in a range of time, the newest first."""
        pairs = await self._client.zrevrangebyscore(
            self._keys.failed, time_range[1], time_range[0], withscores=True
        )
        jobs_and_times = [
            (decode_text(job), float(at_ms))
            for job, at_ms in cast("list[tuple[bytes, float]]", pairs)
        ]
        for start in range(0, len(jobs_and_times), MAX_BATCH):
            for failed in await self._read_tickets(jobs_and_times[start : start + MAX_BATCH]):
                yield failed

    async def read_page(self, first: int, count: int) -> tuple[list[FailedTicket], int]:
        """Return ``count`` failed tickets from rank ``first``, the newest first, and the total."""
        keys, last = self._keys, first + count - 1
        pairs = await self._client.zrevrange(keys.failed, first, last, withscores=True)
        jobs_and_times = [
            (decode_text(job), float(at_ms))
            for job, at_ms in cast("list[tuple[bytes, float]]", pairs)
        ]
        return await self._read_tickets(jobs_and_times), int(await self._client.zcard(keys.failed))

    async def retry(
        self, batch: Sequence[FailedTicket], sources: Mapping[str, Source]
    ) -> list[RetryResult]:
        """Queue up to ``MAX_BATCH`` failed tickets in one script; they are due at once.

        A ticket that cannot be retried stays, with its new reason. Raise RedisUnavailable.
        """
        plans = [(failed, await self.plan_retry(failed, sources)) for failed in batch]
        submitted = [
            pair for pair in plans if not (isinstance(pair[1], Skip) and not pair[1].failure)
        ]
        keys = self._keys
        replies = await self._submit(
            "retry",
            keys=(
                *(keys.backlog, keys.tickets, keys.failed, keys.failed_data, keys.wakeup),
                *(keys.script_reply(self._new_token()), keys.counts, keys.failed_raw),
                *(self._delivery_key(failed) for failed, _ in submitted),
            ),
            args=[arg for failed, plan in submitted for arg in _retry_args(failed, plan)],
        )
        reply_by_job = dict(zip((failed.job for failed, _ in submitted), replies, strict=True))
        return [_retry_result(failed, plan, reply_by_job.get(failed.job)) for failed, plan in plans]

    async def drop(self, batch: Sequence[FailedTicket]) -> list[RetryResult]:
        """Delete up to ``MAX_BATCH`` failed tickets in one script; raise RedisUnavailable."""
        keys = self._keys
        replies = await self._submit(
            "drop",
            keys=(
                *(keys.failed, keys.failed_data, keys.script_reply(self._new_token())),
                *(keys.counts, keys.failed_raw),
            ),
            args=[arg for failed in batch for arg in (failed.job, failed.digest)],
        )
        return [
            RetryResult(failed.job, cast('Literal["dropped", "gone"]', status))
            for failed, status in zip(batch, replies, strict=True)
        ]

    async def _read_tickets(
        self, jobs_and_times: Sequence[tuple[str, float]]
    ) -> list[FailedTicket]:
        if not jobs_and_times:
            return []
        values = await self._client.hmget(
            self._keys.failed_data, [job for job, _ in jobs_and_times]
        )
        return [
            decode_failed_ticket(job, at_ms, cast("bytes | None", value))
            for (job, at_ms), value in zip(jobs_and_times, values, strict=True)
        ]

    async def _read_raw(self, failed: FailedTicket) -> FailedTicket:
        """Return a failed ticket with its raw response or body, which is read only once."""
        if failed.failure is None or failed.failure.raw or not failed.failure.raw_size:
            return failed
        reply = self._client.hget(self._keys.failed_raw, failed.job)
        stored = cast("bytes | None", await cast("Awaitable[object]", reply))
        return await run_aside(failed.failure.raw_size, with_raw, failed, stored)

    async def _submit(
        self,
        action: Literal["retry", "drop"],
        *,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
    ) -> list[str]:
        if not args:
            return []
        script = self._retry if action == "retry" else self._drop
        reply = await self._group_commit.submit(
            script, keys=keys, args=args, durable=True, timeout_s=_TIMEOUT_S
        )
        return [decode_text(status) for status in cast("list[bytes]", reply)]

    def _delivery_key(self, failed: FailedTicket) -> str:
        """Return the key of the delivery mark; repeats become duplicates of the new job."""
        source, delivery = parse_parked_job(failed.job) or ("", failed.job)
        return self._keys.delivery(source, delivery)


def _retry_args(failed: FailedTicket, plan: Requeue | Skip) -> tuple[str | bytes, ...]:
    if isinstance(plan, Requeue):
        return failed.job, failed.digest, plan.job, encode_ticket(plan.ticket, job=plan.job)
    assert plan.failure is not None  # noqa: S101 - narrows for the type checker
    return failed.job, failed.digest, "", encode_failure(plan.failure)


def _retry_result(failed: FailedTicket, plan: Requeue | Skip, reply: str | None) -> RetryResult:
    if isinstance(plan, Skip):
        return RetryResult(failed.job, "gone" if reply == "gone" else "skipped", plan.reason)
    detail = plan.job if plan.job != failed.job else ""
    return RetryResult(failed.job, cast('Literal["queued", "superseded", "gone"]', reply), detail)
