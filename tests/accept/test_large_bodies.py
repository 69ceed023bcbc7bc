"""Large bodies over real HTTP: their memory is bounded, and no sender keeps others from it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.accept import payload
from service.accept.body_reader import FREE_BYTES, BodyLimits
from service.accept.named_fields import FieldTree, decode_fields
from service.accept.signatures import SignedRequest
from service.accept.sources import Source
from service.buffer_memory import BufferMemory
from tests.accept.receiver_harness import (
    FINISHED,
    BacklogStub,
    ReceiverAddress,
    encode_body,
    native_headers,
    serve_receiver,
)

MIB = 1 << 20
PATIENT = BodyLimits(max_bytes=MIB, contested_timeout_s=60, memory_timeout_s=60)
LARGE_BODY = encode_body(FINISHED | {"log": "x" * (MIB - 1000)})


class Sender:
    """Posts webhooks to a receiver, whole or in parts."""

    def __init__(self, address: ReceiverAddress, session: aiohttp.ClientSession) -> None:
        self._url = "http://{}:{}/webhooks/native".format(*address)
        self._session = session

    async def post(
        self, body: Any, delivery: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, Any], str]:
        """Return status, decoded body and Retry-After of the response."""
        all_headers = native_headers(body, delivery=delivery) if headers is None else headers
        async with self._session.post(self._url, data=body, headers=all_headers) as response:
            answer = json.loads(await response.read())
            return response.status, answer, response.headers.get("Retry-After", "")

    def start_slow(self, sent: asyncio.Event) -> asyncio.Task[tuple[int, dict[str, Any], str]]:
        """Send half of a large body, set the event, and never send the rest."""

        async def send_half() -> AsyncIterator[bytes]:
            yield LARGE_BODY[: MIB // 2]
            sent.set()
            await asyncio.Event().wait()

        return asyncio.create_task(self.post(send_half(), "slow", {}))


@asynccontextmanager
async def serve_sender(
    source: Source, stub: BacklogStub, *, limits: BodyLimits, memory: BufferMemory
) -> AsyncIterator[Sender]:
    """Serve a receiver with a memory and yield a sender for it."""
    async with (
        serve_receiver(stub, source, limits=limits, memory=memory) as address,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield Sender(address, session)


async def end_slow(task: asyncio.Task[Any]) -> None:
    """Close the connection of a slow sender."""
    task.cancel()
    await asyncio.wait([task])


async def wait_until_used(memory: BufferMemory, size: int) -> None:
    """Wait until so many bytes of the memory are in use."""
    async with asyncio.timeout(20):
        while memory.used < size:
            await asyncio.sleep(0.01)


async def test_concurrent_large_bodies_share_a_bounded_memory(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """All of them are accepted, and never more than the limit and one body are in hand."""
    memory = BufferMemory(4 * MIB)
    async with serve_sender(native, backlog_stub, limits=PATIENT, memory=memory) as sender:
        responses = await asyncio.gather(*(sender.post(LARGE_BODY, f"d{n}") for n in range(16)))
    assert [status for status, _, _ in responses] == [202] * 16
    assert len(LARGE_BODY) < memory.peak <= 4 * MIB + 2 * len(LARGE_BODY)
    assert memory.used == 0


async def test_small_webhook_is_accepted_while_the_memory_is_used_up(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """Slow senders of large bodies delay no other webhook."""
    memory, sent = BufferMemory(MIB // 2), asyncio.Event()
    async with serve_sender(native, backlog_stub, limits=PATIENT, memory=memory) as sender:
        slow = sender.start_slow(sent)
        await wait_until_used(memory, MIB // 2)
        body = encode_body(FINISHED | {"log": "x" * (FREE_BYTES - 1000)})
        async with asyncio.timeout(20):
            assert (await sender.post(body, "small"))[0] == 202
        await end_slow(slow)


async def test_slow_body_gives_way_to_one_that_waits_for_memory(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """The slow sender gets 503 with Retry-After, because its body kept others waiting."""
    memory, sent = BufferMemory(MIB // 2), asyncio.Event()
    limits = BodyLimits(max_bytes=MIB, contested_timeout_s=0.1, memory_timeout_s=60)
    async with serve_sender(native, backlog_stub, limits=limits, memory=memory) as sender:
        slow = sender.start_slow(sent)
        await wait_until_used(memory, MIB // 2)
        async with asyncio.timeout(30):
            assert (await sender.post(LARGE_BODY, "fast"))[0] == 202
            status, answer, retry_after = await slow
    assert (status, retry_after) == (503, "2")
    assert answer["detail"] == "the body is slow, and other webhooks need its memory"
    assert ("webhook_unavailable", 503) in [
        (event, fields.get("status")) for event, fields in backlog_stub.log_events
    ]
    assert memory.used == 0


async def test_body_that_gets_no_memory_in_time_is_503(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """Its sender retries; a body is never dropped in silence."""
    memory, sent = BufferMemory(MIB // 2), asyncio.Event()
    limits = BodyLimits(max_bytes=MIB, contested_timeout_s=60, memory_timeout_s=0.1)
    async with serve_sender(native, backlog_stub, limits=limits, memory=memory) as sender:
        slow = sender.start_slow(sent)
        await wait_until_used(memory, MIB // 2)
        async with asyncio.timeout(20):
            status, answer, retry_after = await sender.post(LARGE_BODY, "late")
        await end_slow(slow)
    assert (status, retry_after) == (503, "2")
    assert answer["detail"] == "the memory for bodies is used up by other webhooks"


async def test_slow_body_is_408_when_nobody_waits(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """Even a sender that never stalls for long has to end."""
    limits = BodyLimits(max_bytes=MIB, timeout_s=0.05)
    memory, sent = BufferMemory(4 * MIB), asyncio.Event()
    async with serve_sender(native, backlog_stub, limits=limits, memory=memory) as sender:
        async with asyncio.timeout(20):
            status, answer, _ = await sender.start_slow(sent)
    assert status == 408
    assert answer["detail"].startswith("the body did not arrive within ")
    assert memory.used == 0


async def test_large_body_is_verified_and_parsed_beside_the_event_loop(
    native: Source, backlog_stub: BacklogStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop serves others meanwhile; a small body costs no thread."""
    threads: list[threading.Thread] = []

    def decode(text: bytes, fields: FieldTree | None) -> object:
        threads.append(threading.current_thread())
        return decode_fields(text, fields)

    monkeypatch.setattr(payload, "decode_fields", decode)
    memory = BufferMemory(4 * MIB)
    async with serve_sender(native, backlog_stub, limits=PATIENT, memory=memory) as sender:
        assert (await sender.post(LARGE_BODY, "large"))[0] == 202
        assert (await sender.post(encode_body(FINISHED), "small"))[0] == 202
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


async def test_large_body_is_repaired_like_a_small_one(
    native: Source, backlog_stub: BacklogStub
) -> None:
    """Half a pair, a number out of range and a byte order mark, in a megabyte."""
    body = b"\xef\xbb\xbf" + LARGE_BODY[:-1] + rb', "a": "\ud83d", "b": 1e999}'
    memory = BufferMemory(4 * MIB)
    async with serve_sender(native, backlog_stub, limits=PATIENT, memory=memory) as sender:
        assert (await sender.post(body, "d"))[0] == 202
    (event,) = backlog_stub.events.values()
    assert event.version == FINISHED["version"]


@given(st.text(max_size=40), st.integers(3, 9))
def test_form_is_unquoted_in_parts(text: str, part_bytes: int) -> None:
    """An escape is never cut."""
    quoted = b"payload=" + quote_plus(json.dumps({"a": text}, ensure_ascii=False)).encode()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(payload, "_QUOTED_PART_BYTES", part_bytes)
        decoded = payload.decode_request(SignedRequest({}, {}, quoted + b"&payload=%7B%7D"))
    assert isinstance(decoded, payload.Payload)
    assert decoded.body == {"a": text}
