"""What waits for a person? Read it, take it up again, or drop it."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Literal, cast

from msgspec import Struct
from redis.asyncio import Redis

from service.accept.sources import Source
from service.backlog.again import Anew, Left, take_up
from service.backlog.failure import Failed, encode_failure, read_aside, read_failed
from service.backlog.ticket import encode_ticket
from service.store.group import Argument, GroupCommit
from service.store.keys import Keys
from service.store.script import load_script, read_lua

BATCH = 100
_PATIENCE_S = 10.0

Span = tuple[float, float]
"""From and until when (Redis ms) something was given up."""


class Fate(Struct, frozen=True):
    """What became of one failure; ``detail`` is why, or the job that it is now."""

    job: str
    fate: Literal["queued", "waits", "left", "gone", "dropped"]
    detail: str = ""


class FailedOnes:
    """The failures of one namespace, for a person to look at and to settle.

    ``new_token`` names each act, so that one sent twice is known again.
    """

    def __init__(
        self, client: Redis, group: GroupCommit, *, keys: Keys, new_token: Callable[[], str]
    ) -> None:
        self._client = client
        self._group = group
        self._keys = keys
        self._new_token = new_token
        failures = read_lua(__package__, "failures")
        self._retry, self._drop = (
            load_script(__package__, name, prelude=failures) for name in ("retry", "drop")
        )

    async def tell_time(self) -> int:
        """Give Redis's time, by which failures are dated, in ms."""
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def read(self, jobs: Iterable[str]) -> list[Failed]:
        """Read those of these jobs that have failed."""
        wanted = list(dict.fromkeys(jobs))
        if not wanted:
            return []
        moments = await self._client.zmscore(self._keys.failed, wanted)
        return await self._fill(
            [
                (job, moment)
                for job, moment in zip(wanted, moments, strict=True)
                if moment is not None
            ]
        )

    async def list_newest(self, span: Span) -> AsyncIterator[Failed]:
        """List what was given up in a span of time, the newest first."""
        pairs = await self._client.zrevrangebyscore(
            self._keys.failed, span[1], span[0], withscores=True
        )
        dated = [
            (_read_text(job), float(moment))
            for job, moment in cast("list[tuple[bytes, float]]", pairs)
        ]
        for at in range(0, len(dated), BATCH):
            for failed in await self._fill(dated[at : at + BATCH]):
                yield failed

    async def read_page(self, first: int, count: int) -> tuple[list[Failed], int]:
        """Read so many, the newest first, from a rank on; gives also how many there are in all."""
        keys, last = self._keys, first + count - 1
        pairs = await self._client.zrevrange(keys.failed, first, last, withscores=True)
        dated = [
            (_read_text(job), float(moment))
            for job, moment in cast("list[tuple[bytes, float]]", pairs)
        ]
        return await self._fill(dated), int(await self._client.zcard(keys.failed))

    async def retry(self, batch: Sequence[Failed], sources: Mapping[str, Source]) -> list[Fate]:
        """Put up to BATCH of them back into the backlog, in one act; they are due at once.

        What cannot be is left, with the new reason. Raises Unavailable.
        """
        plans = [(failed, take_up(failed, sources)) for failed in batch]
        asked = [pair for pair in plans if not (isinstance(pair[1], Left) and not pair[1].failure)]
        keys = self._keys
        told = await self._submit(
            "retry",
            keys=(
                *(keys.backlog, keys.tickets, keys.failed, keys.failures, keys.bell),
                *(keys.repair(self._new_token()), keys.counts),
                *(self._name_mark(failed) for failed, _ in asked),
            ),
            args=[part for failed, plan in asked for part in _write_order(failed, plan)],
        )
        fates = dict(zip((failed.job for failed, _ in asked), told, strict=True))
        return [_tell_fate(failed, plan, fates.get(failed.job)) for failed, plan in plans]

    async def drop(self, batch: Sequence[Failed]) -> list[Fate]:
        """Forget up to BATCH of them, in one act; raises Unavailable."""
        keys = self._keys
        told = await self._submit(
            "drop",
            keys=(keys.failed, keys.failures, keys.repair(self._new_token()), keys.counts),
            args=[part for failed in batch for part in (failed.job, failed.digest)],
        )
        return [
            Fate(failed.job, cast('Literal["dropped", "gone"]', fate))
            for failed, fate in zip(batch, told, strict=True)
        ]

    async def _fill(self, dated: Sequence[tuple[str, float]]) -> list[Failed]:
        if not dated:
            return []
        stored = await self._client.hmget(self._keys.failures, [job for job, _ in dated])
        return [
            read_failed(job, moment, cast("bytes | None", kept))
            for (job, moment), kept in zip(dated, stored, strict=True)
        ]

    async def _submit(
        self, act: Literal["retry", "drop"], *, keys: Sequence[str], args: Sequence[Argument]
    ) -> list[str]:
        if not args:
            return []
        script = self._retry if act == "retry" else self._drop
        reply = await self._group.submit(
            script, keys=keys, args=args, durable=True, patience_s=_PATIENCE_S
        )
        return [_read_text(fate) for fate in cast("list[bytes]", reply)]

    def _name_mark(self, failed: Failed) -> str:
        """Name the mark of the delivery, whose repeats are to be duplicates of the new job."""
        source, delivery = read_aside(failed.job) or ("", failed.job)
        return self._keys.delivery(source, delivery)


def _write_order(failed: Failed, plan: Anew | Left) -> tuple[str | bytes, ...]:
    if isinstance(plan, Anew):
        return failed.job, failed.digest, plan.job, encode_ticket(plan.ticket, job=plan.job)
    assert plan.failure is not None  # noqa: S101 - narrows for the type checker
    return failed.job, failed.digest, "", encode_failure(plan.failure)


def _tell_fate(failed: Failed, plan: Anew | Left, told: str | None) -> Fate:
    if isinstance(plan, Left):
        return Fate(failed.job, "gone" if told == "gone" else "left", plan.reason)
    detail = plan.job if plan.job != failed.job else ""
    return Fate(failed.job, cast('Literal["queued", "waits", "gone"]', told), detail)


def _read_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
