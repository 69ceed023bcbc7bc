"""A reader of the output stream, and the state that is left in Redis at the end."""

import asyncio
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw, Struct
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.backlog.failures import decode_failed_ticket
from service.backlog.ticket import REFRESH_END
from service.store.connect import UNAVAILABLE_ERRORS
from service.store.keys import Keys
from tests.faults.oracle import LeftoverState, StreamRecord
from tests.faults.traffic import KNOWN_ID_PREFIX

GROUP = "oracle"
_BATCH = 500

FindEpoch = Callable[[str, int | str], int | None]


class _FlagEvent(Struct, rename="camel"):
    audit_log_entry_id: str


class _Data(Struct, rename="camel"):
    deployment: Raw
    change: Raw = Raw(b"null")
    flag_events: Raw = Raw(b"null")


class _DeploymentFields(Struct, rename="camel"):
    id: str
    started_at: int | str = 0  # another type when the upstream sends wrong types
    application_version: str = ""


class RecordReader:
    """Reads the stream through a consumer group, so that trimming is part of the test.

    It keeps a record only after the server says that the record is on disk: a kill may take back
    anything else. ``read_at`` holds the times (monotonic, in seconds) at which records arrived.
    """

    def __init__(self, redis: Redis, keys: Keys, find_epoch: FindEpoch) -> None:
        self.records: dict[bytes, StreamRecord] = {}
        self.read_at: list[float] = []
        self._redis = redis
        self._keys = keys
        self._find_epoch = find_epoch
        self._is_stopped = False

    def stop(self) -> None:
        """Stop reading."""
        self._is_stopped = True

    async def run(self) -> None:
        """Read until `stop` is called, whatever happens to the server.

        A flag replaces cancellation: asyncio.wait_for, which redis-py uses to send, may swallow a
        cancellation before Python 3.12.
        """
        start_id = "0"  # first the entries delivered but not acknowledged, then ">" for new ones
        while not self._is_stopped:
            try:
                await self._ensure_group()
                count = await self._read_batch(start_id)
                start_id = ">" if count < _BATCH else start_id
                if not count:
                    await asyncio.sleep(0.01)
            except (*UNAVAILABLE_ERRORS, RedisError):
                start_id = "0"
                await asyncio.sleep(0.05)

    async def _ensure_group(self) -> None:
        if self.records:
            return
        try:
            await self._redis.xgroup_create(self._keys.enriched, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _read_batch(self, start_id: str) -> int:
        reply: Any = await self._redis.xreadgroup(
            GROUP, "reader", {self._keys.enriched: start_id}, count=_BATCH, block=200
        )
        entries = _parse_entries(reply)
        if not entries:
            return 0
        (synced, *_) = await self._redis.waitaof(1, 0, 4000)
        if synced != 1:
            raise TimeoutError("the record is not on disk after 4 s")
        for entry_id, fields in entries:
            if entry_id not in self.records:
                self.records[entry_id] = parse_record(entry_id, fields, self._find_epoch)
                self.read_at.append(time.monotonic())
        await self._redis.xack(self._keys.enriched, GROUP, *(entry_id for entry_id, _ in entries))
        return len(entries)


def parse_record(
    entry_id: bytes, fields: dict[bytes, bytes], find_epoch: FindEpoch = lambda *_: None
) -> StreamRecord:
    """Return the record of one stream entry."""
    data = msgspec.json.decode(fields[b"data"], type=_Data)
    deployment = data.deployment
    deployment_fields = msgspec.json.decode(deployment, type=_DeploymentFields)
    flag_events = msgspec.json.decode(data.flag_events, type=list[_FlagEvent] | None)
    ms, _, number = entry_id.decode().partition("-")
    field_names = ("projectkey", "environmentkey", "applicationkey")
    project, environment, application = (
        fields[field_name.encode()].decode() for field_name in field_names
    )
    has_known_id = deployment_fields.id.startswith(KNOWN_ID_PREFIX)
    find_job = f"find:{project}/{environment}/{application}/{deployment_fields.application_version}"
    return StreamRecord(
        entry=(int(ms), int(number)),
        id=fields[b"id"].decode(),
        job=f"id:{deployment_fields.id}" if has_known_id else find_job,
        revision=int(fields[b"revision"]),
        # A deployment that arrived late gives later ones another change, and so another revision.
        # So does a flag event.
        digest=blake2b(
            b"".join(map(bytes, (deployment, data.change, data.flag_events))), digest_size=8
        ).digest(),
        epoch=find_epoch(deployment_fields.id, deployment_fields.started_at)
        if has_known_id
        else None,
        complete=fields[b"complete"] == b"true",
        flag_events=tuple(event.audit_log_entry_id for event in flag_events or ()),
    )


async def read_records(redis: Redis, keys: Keys) -> list[StreamRecord]:
    """Return all records of the stream."""
    entries: Any = await redis.xrange(keys.enriched)
    return [parse_record(entry_id, fields) for entry_id, fields in entries]


def _parse_entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of one stream. An entry without fields was trimmed before it was read."""
    streams = (
        reply.values()
        if isinstance(reply, dict)
        else [stream_entries for _, stream_entries in reply or ()]
    )
    entries: list[tuple[bytes, dict[bytes, bytes]]] = []
    for stream_entries in streams:
        batches = (
            stream_entries
            if stream_entries and isinstance(stream_entries[0], list)
            else [stream_entries]
        )
        entries += [entry for batch in batches for entry in batch if entry and entry[1]]
    return entries


def keys_allowed_without_ttl(keys: Keys) -> frozenset[str]:
    """Return the keys that may exist without a TTL."""
    return frozenset(
        {
            *(keys.failed, keys.failed_data, keys.failed_raw),
            *(keys.enriched, keys.milestones, keys.counts, keys.clock),
        }
    )


async def drop_refreshes(redis: Redis, keys: Keys) -> None:
    """Drop the refreshes that became due while the system stopped: no webhook waits for them."""
    tickets: Any = await redis.hgetall(keys.tickets)
    for job in [job for job, stored in tickets.items() if stored.endswith(REFRESH_END)]:
        await redis.zrem(keys.backlog, job)
        await redis.hdel(keys.tickets, job)


async def read_leftover_state(redis: Redis, keys: Keys) -> LeftoverState:
    """Return what is left in Redis when all work is done."""
    backlog: Any = await redis.zrange(keys.backlog, 0, -1)
    tickets: Any = await redis.hkeys(keys.tickets)
    failures: Any = await redis.hgetall(keys.failed_data)
    failed: Any = await redis.zrange(keys.failed, 0, -1)
    reasons = {
        job.decode(): failure.reason if failure is not None else "unreadable"
        for job, stored in failures.items()
        for failure in [decode_failed_ticket(job.decode(), 0, stored).failure]
    }
    return LeftoverState(
        backlog=frozenset(job.decode() for job in backlog),
        tickets=frozenset(job.decode() for job in tickets),
        failed={job.decode(): "no data" for job in failed} | reasons,
        keys_without_ttl=frozenset(await _find_keys_without_ttl(redis, keys)),
    )


async def _find_keys_without_ttl(redis: Redis, keys: Keys) -> list[str]:
    without_ttl: list[str] = []
    page: list[bytes] = []

    async def check_page() -> None:
        pipeline = redis.pipeline(transaction=False)
        for key in page:
            pipeline.ttl(key)
        ttls = await pipeline.execute()
        without_ttl.extend(key.decode() for key, ttl in zip(page, ttls, strict=True) if ttl == -1)
        page.clear()

    async for key in redis.scan_iter(match=f"{{{keys.namespace}}}:*", count=1000):
        page.append(key)
        if len(page) >= 1000:
            await check_page()
    await check_page()
    return without_ttl
