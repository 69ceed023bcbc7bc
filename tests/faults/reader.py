"""Who reads the output? A consumer group that notes every record, and what is left at the end."""

import asyncio
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.store.connect import AWAY
from service.store.keys import Keys
from tests.faults.oracle import Left, Record
from tests.faults.traffic import ASKED_BY_ID

GROUP = "oracle"
_BATCH = 500

FindEpoch = Callable[[str, int], int | None]


class _Data(Struct):
    deployment: Raw


class _Facts(Struct, rename="camel"):
    id: str
    started_at: int = 0
    application_version: str = ""


class Reader:
    """Reads the stream through a group, so that what is read may be trimmed.

    A record is noted once the server says that it is on its disk: what a kill takes back again
    was never there. ``noted_at`` are the moments (monotonic s) at which records came.
    """

    def __init__(self, redis: Redis, keys: Keys, find_epoch: FindEpoch) -> None:
        self.records: dict[bytes, Record] = {}
        self.noted_at: list[float] = []
        self._redis = redis
        self._keys = keys
        self._find_epoch = find_epoch
        self._is_stopped = False

    def stop(self) -> None:
        """Read no more."""
        self._is_stopped = True

    async def read_on(self) -> None:
        """Read until told to stop, whatever becomes of the server.

        A flag and no cancellation: asyncio.wait_for, which redis-py sends through, may swallow one
        before Python 3.12.
        """
        since = "0"  # what was delivered and not yet noted, then ">" for what is new
        while not self._is_stopped:
            try:
                await self._make_group()
                count = await self._read_batch(since)
                since = ">" if count < _BATCH else since
                if not count:
                    await asyncio.sleep(0.01)
            except (*AWAY, RedisError):
                since = "0"
                await asyncio.sleep(0.05)

    async def _make_group(self) -> None:
        if self.records:
            return
        try:
            await self._redis.xgroup_create(self._keys.enriched, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _read_batch(self, since: str) -> int:
        reply: Any = await self._redis.xreadgroup(
            GROUP, "reader", {self._keys.enriched: since}, count=_BATCH, block=200
        )
        entries = _entries_of(reply)
        if not entries:
            return 0
        (kept, *_) = await self._redis.waitaof(1, 0, 4000)
        if kept != 1:
            raise TimeoutError("not on disk in time")
        for entry, fields in entries:
            if entry not in self.records:
                self.records[entry] = read_record(entry, fields, self._find_epoch)
                self.noted_at.append(time.monotonic())
        await self._redis.xack(self._keys.enriched, GROUP, *(entry for entry, _ in entries))
        return len(entries)


def read_record(
    entry: bytes, fields: dict[bytes, bytes], find_epoch: FindEpoch = lambda *_: None
) -> Record:
    """Read one entry: of which job it is, and what it says."""
    told = msgspec.json.decode(fields[b"data"], type=_Data).deployment
    facts = msgspec.json.decode(told, type=_Facts)
    ms, _, number = entry.decode().partition("-")
    words = ("projectkey", "environmentkey", "applicationkey")
    project, environment, application = (fields[word.encode()].decode() for word in words)
    is_known = facts.id.startswith(ASKED_BY_ID)
    found = f"find:{project}/{environment}/{application}/{facts.application_version}"
    return Record(
        entry=(int(ms), int(number)),
        id=fields[b"id"].decode(),
        job=f"id:{facts.id}" if is_known else found,
        revision=int(fields[b"revision"]),
        digest=blake2b(told, digest_size=8).digest(),
        epoch=find_epoch(facts.id, facts.started_at) if is_known else None,
        complete=fields[b"complete"] == b"true",
    )


async def read_records(redis: Redis, keys: Keys) -> list[Record]:
    """Read the whole stream at once."""
    entries: Any = await redis.xrange(keys.enriched)
    return [read_record(entry, fields) for entry, fields in entries]


def _entries_of(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Give the entries of one stream; one whose fields are gone was trimmed before it was read."""
    streams = reply.values() if isinstance(reply, dict) else [told for _, told in reply or ()]
    flat: list[tuple[bytes, dict[bytes, bytes]]] = []
    for told in streams:
        batches = told if told and isinstance(told[0], list) else [told]
        flat += [entry for batch in batches for entry in batch if entry and entry[1]]
    return flat


def name_lasting(keys: Keys) -> frozenset[str]:
    """Name the keys that may stay without an end; all others must have one, or be gone."""
    return frozenset({keys.enriched, keys.milestones, keys.failed, keys.failures, keys.counts})


async def read_left(redis: Redis, keys: Keys) -> Left:
    """Read what is left when nothing should be."""
    backlog: Any = await redis.zrange(keys.backlog, 0, -1)
    tickets: Any = await redis.hkeys(keys.tickets)
    failures: Any = await redis.hgetall(keys.failures)
    failed: Any = await redis.zrange(keys.failed, 0, -1)
    reasons = {
        job.decode(): str(msgspec.msgpack.decode(stored)["reason"])
        for job, stored in failures.items()
    }
    return Left(
        backlog=frozenset(job.decode() for job in backlog),
        tickets=frozenset(job.decode() for job in tickets),
        failed={job.decode(): "no data" for job in failed} | reasons,
        lasting=frozenset(await _find_lasting(redis, keys)),
    )


async def _find_lasting(redis: Redis, keys: Keys) -> list[str]:
    lasting: list[str] = []
    page: list[bytes] = []

    async def look() -> None:
        pipeline = redis.pipeline(transaction=False)
        for key in page:
            pipeline.ttl(key)
        lives = await pipeline.execute()
        lasting.extend(key.decode() for key, life in zip(page, lives, strict=True) if life == -1)
        page.clear()

    async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000):
        page.append(key)
        if len(page) >= 1000:
            await look()
    await look()
    return lasting
