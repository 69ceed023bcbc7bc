"""The receiver, over real HTTP: every status, every fact, every hostile request that we know."""

import asyncio
import gzip
import io
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from hypothesis import given, settings
from hypothesis import strategies as st

from service.accept.body_reader import BodyLimits
from service.accept.mapping import BacklogFull
from service.accept.sources import Source
from service.store import RedisUnavailable
from tests.accept.receiver_harness import (
    FINISHED,
    MAX_BODY_BYTES,
    NOW_S,
    SECRET,
    BacklogStub,
    PostWebhook,
    ReceiverAddress,
    encode_body,
    github_headers,
    native_headers,
    parse_response,
    serve_receiver,
    serve_sources,
)


async def test_repeated_delivery_is_queued_once(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """202 and the job; the same delivery again is 200."""
    body = encode_body(FINISHED)
    queued = {"status": "queued", "job": "job", "delivery": "msg_1"}
    assert (await post("native", body, native_headers(body)))[:2] == (202, queued)
    assert (await post("native", body, native_headers(body)))[:2] == (
        200,
        queued | {"status": "duplicate"},
    )
    fields = {"source": "native", "delivery": "msg_1", "job": "job"}
    assert backlog_stub.log_events == [("webhook_queued", fields), ("webhook_duplicate", fields)]
    (event,) = backlog_stub.events.values()
    assert event.version == "7fd1a60"


async def test_native_source_accepts_a_bearer_token(post: PostWebhook) -> None:
    """One header, for senders that cannot sign."""
    headers = {"Authorization": f"Bearer {SECRET}"}
    status, answer, _ = await post("native", encode_body(FINISHED), headers)
    assert (status, answer["status"]) == (202, "queued")


async def test_event_that_ends_no_deployment_is_ignored(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """200, so that no sender disables its webhook."""
    body = encode_body({"zen": "Approachable is better than simple."})
    status, answer, _ = await post("github", body, github_headers(body, "ping"))
    reason = "headers.x_github_event is not what this source waits for"
    assert (status, answer) == (200, {"status": "ignored", "reason": reason})
    fields = {"source": "github", "delivery": "guid", "reason": reason}
    assert backlog_stub.log_events == [("webhook_ignored", fields)]


async def test_native_body_without_a_field_is_422(post: PostWebhook) -> None:
    """The response names the missing fields."""
    body = encode_body(FINISHED | {"version": None, "projectKey": ""})
    status, answer, _ = await post("native", body, native_headers(body))
    assert (status, answer["title"]) == (422, "Unprocessable Entity")
    assert answer["detail"] == "missing: projectKey, version"
    assert answer["missing"] == ["projectKey", "version"]


async def test_unmappable_event_of_a_preset_is_parked(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """202, and the body is kept for a person; the second time 200."""
    body = encode_body({"deployment_status": {"state": "success", "environment": "test"}})
    application = "match('^deploy:(.+)$', body.deployment.task) || body.repository.name"
    reason = f"missing: {application}, deployment.sha"
    response = await post("github", body, github_headers(body))
    assert response[:2] == (202, {"status": "parked", "reason": reason})
    assert backlog_stub.parked == {("github", "guid"): (reason, body)}
    response = await post("github", body, github_headers(body))
    assert response[:2] == (200, {"status": "duplicate", "delivery": "guid"})
    assert [event for event, _ in backlog_stub.log_events] == [
        "webhook_parked",
        "webhook_duplicate",
    ]


async def test_unknown_source_is_404(post: PostWebhook, backlog_stub: BacklogStub) -> None:
    """Its name is logged with escapes."""
    status, answer, _ = await post("n%0Aope\u202e", b"", {})
    assert (status, answer["detail"]) == (404, "there is no source of this name")
    assert backlog_stub.log_events[0][1]["source"] == r"'n\nope\u202e'"


async def test_slash_at_the_end_of_the_path_is_accepted(post: PostWebhook) -> None:
    """Some senders add one to every URL."""
    body = encode_body(FINISHED)
    assert (await post("native/", body, native_headers(body)))[0] == 202


@pytest.mark.parametrize("path", ["", "hook", "webhooks", "webhooks/native/x", "Webhooks/native"])
async def test_path_that_is_nothing_here_is_404_and_logged(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub, path: str
) -> None:
    """A sender with a wrong URL is seen; the event counts under the source `other`."""
    url = "http://{}:{}/".format(*receiver_address) + path
    async with ClientSession() as session, session.post(url, data=b"{}") as response:
        answer = await parse_response(response)
    assert response.status == 404
    ((event, fields),) = backlog_stub.log_events
    assert (event, fields["source"], fields["status"]) == ("webhook_rejected", "other", 404)
    assert fields["reason"] == answer["detail"]


async def test_other_method_is_405_and_logged(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub
) -> None:
    """A sender that was set up with PUT is seen too."""
    url = "http://{}:{}/webhooks/native".format(*receiver_address)
    async with ClientSession() as session, session.put(url, data=b"{}") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST, OPTIONS")
    assert backlog_stub.log_events[0][1]["status"] == 405


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1"},
        {"webhook-signature": "⚠️"},
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": str(NOW_S - 301)},
        {"webhook-timestamp": "soon"},
        {"Authorization": "Bearer wrong", "webhook-id": ""},
        {"Authorization": "Bearer", "webhook-id": ""},
    ],
)
async def test_request_that_is_not_genuine_is_401(
    post: PostWebhook, backlog_stub: BacklogStub, change: dict[str, str]
) -> None:
    """A challenge, without a word about what was wrong."""
    body = encode_body(FINISHED)
    status, answer, headers = await post("native", body, native_headers(body) | change)
    assert (status, answer["detail"]) == (401, "not signed with a secret of this source")
    assert headers["WWW-Authenticate"] == 'Bearer realm="webhooks"'
    assert (backlog_stub.events, backlog_stub.log_events[0][0]) == ({}, "webhook_rejected")


async def test_secret_of_another_source_is_401(post: PostWebhook) -> None:
    """A signature is valid for one source only."""
    body = encode_body(FINISHED)
    status, _, headers = await post("github", body, native_headers(body))
    assert (status, headers["WWW-Authenticate"]) == (401, 'Signature realm="webhooks"')


@pytest.mark.parametrize("age_s", [-301, 301])
async def test_stale_or_future_signature_is_401(post: PostWebhook, age_s: int) -> None:
    """A recorded request is of no use after five minutes."""
    headers = native_headers(FINISHED, timestamp_s=NOW_S - age_s)
    assert (await post("native", encode_body(FINISHED), headers))[0] == 401


@pytest.mark.parametrize("name", ["native", "github"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'"\xff"',
        b"[" * 90_000,
        b'{"":' * 20_000,
        b"payload=%7B",
    ],
    ids=["empty", "list", "cut off", "NaN", "not UTF-8", "deep list", "deep object", "form"],
)
async def test_genuine_body_that_is_not_a_json_object_is_400(
    post: PostWebhook, name: str, body: bytes
) -> None:
    """The right sender signed it, but it cannot be decoded."""
    headers = native_headers(body) if name == "native" else github_headers(body)
    assert (await post(name, body, headers))[0] == 400


async def body_in_chunks(size: int) -> AsyncIterator[bytes]:
    """Yield a body in chunks, without its length."""
    for _ in range(size // 10_000):
        yield b" " * 10_000


@pytest.mark.parametrize("kind", ["long", "chunked", "gzip"])
async def test_body_above_the_limit_is_413(
    post: PostWebhook, backlog_stub: BacklogStub, kind: str
) -> None:
    """With a length, in chunks, or hidden in a few compressed bytes."""
    headers = {"Content-Encoding": "gzip"} if kind == "gzip" else {}
    plain = b" " * 2_000_000
    body = {
        "long": io.BytesIO(plain),
        "chunked": body_in_chunks(len(plain)),
        "gzip": gzip.compress(plain),
    }[kind]
    status, answer, _ = await post("native", body, headers)
    assert (status, answer["detail"]) == (413, "the body is too large")
    assert backlog_stub.log_events[0][1]["status"] == 413


async def test_compressed_body_is_accepted(post: PostWebhook) -> None:
    """The signature is over the decompressed body."""
    body = encode_body(FINISHED)
    headers = native_headers(body) | {"Content-Encoding": "gzip"}
    assert (await post("native", gzip.compress(body), headers))[0] == 202


async def test_body_with_a_wrong_content_encoding_is_400(post: PostWebhook) -> None:
    """Examples of some senders set Content-Encoding without compressing."""
    body = encode_body(FINISHED)
    status, answer, _ = await post(
        "native", body, native_headers(body) | {"Content-Encoding": "gzip"}
    )
    assert (status, answer["detail"]) == (400, "the body is not encoded as its headers say")


async def test_unavailable_redis_is_503_with_retry_after(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """Never 2xx, for events and for what would be parked."""
    backlog_stub.result = RedisUnavailable("gone")
    body = encode_body(FINISHED)
    status, answer, headers = await post("native", body, native_headers(body))
    assert (status, headers["Retry-After"]) == (503, "2")
    assert answer["detail"] == "Redis is not available"
    body = encode_body({"deployment_status": {"state": "success"}})
    assert (await post("github", body, github_headers(body)))[0] == 503
    assert [event for event, _ in backlog_stub.log_events] == ["webhook_unavailable"] * 2


async def test_full_backlog_is_503_with_its_retry_after(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """The backlog tells the seconds of Retry-After."""
    backlog_stub.result = BacklogFull(retry_after_s=17)
    status, _, headers = await post("native", encode_body(FINISHED), native_headers(FINISHED))
    assert (status, headers["Retry-After"]) == (503, "17")


async def test_sender_that_disconnects_is_logged_once_without_traceback(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection ends within the body."""
    _, writer = await asyncio.open_connection(*receiver_address)
    writer.write(b"POST /webhooks/native HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(10):
        await backlog_stub.logged.wait()
    fields = {"source": "native", "status": 400, "reason": "the sender closed the connection"}
    assert backlog_stub.log_events == [("webhook_rejected", fields)]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"X-Hub-Signature-256: sha256=\xff\xfe", b"401"),
        (b"X-Hub-Signature-256: \xe2\x9a\xa0", b"401"),
        (b"X-GitHub-Delivery: \xff\xfe", b"202"),
        (b"Content-Type: \xff", b"202"),
        (b"ce-x: %ff\xff", b"202"),
    ],
)
async def test_header_that_is_not_utf_8_is_never_a_5xx(
    receiver_address: ReceiverAddress, backlog_stub: BacklogStub, header: bytes, status: bytes
) -> None:
    """It is compared, kept or ignored."""
    body = encode_body(
        {
            "deployment_status": {"state": "success", "environment": "test"},
            "deployment": {"sha": "7fd1a60"},
            "repository": {"name": "web"},
        }
    )
    headers = dict(github_headers(body))
    headers.pop(header.partition(b":")[0].decode(), None)
    lines = [f"{name}: {value}".encode() for name, value in headers.items()]
    lines += [b"Host: x", b"Connection: close", b"Content-Length: %d" % len(body), header]
    reader, writer = await asyncio.open_connection(*receiver_address)
    writer.write(b"POST /webhooks/github HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body)
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == status
    writer.close()
    await writer.wait_closed()
    assert len(backlog_stub.log_events) == 1
    assert backlog_stub.log_events[0][0] in {"webhook_queued", "webhook_rejected"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "github", 405),
        ("PUT", "github", 405),
        ("DELETE", "nobody", 405),
        ("POST", "github/x", 404),
        ("GET", "", 404),
    ],
)
async def test_other_methods_and_paths_are_answered_in_json(
    receiver_address: ReceiverAddress, method: str, path: str, status: int
) -> None:
    """A person opens the URL in a browser, or types a character too many."""
    url = f"http://{receiver_address[0]}:{receiver_address[1]}/webhooks/{path}"
    async with ClientSession() as session, session.request(method, url) as response:
        answer = await parse_response(response)
        assert (response.status, answer["status"]) == (status, status)
        assert response.headers.get("Allow") == ("POST, OPTIONS" if status == 405 else None)


async def test_body_that_never_ends_is_408(backlog_stub: BacklogStub, native: Source) -> None:
    """The receiver waits for a slow body for a limited time."""
    limits = BodyLimits(max_bytes=MAX_BODY_BYTES, timeout_s=0.05)
    async with serve_receiver(backlog_stub, native, limits=limits) as address:
        reader, writer = await asyncio.open_connection(*address)
        head = b"POST /webhooks/native HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        writer.write(head)
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_internal_error_is_503_and_logged_once(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """The sender retries; after a 500 it might not."""
    backlog_stub.result = KeyError("bug")
    status, _, headers = await post("native", encode_body(FINISHED), native_headers(FINISHED))
    assert (status, headers["Retry-After"]) == (503, "2")
    ((event, fields),) = backlog_stub.log_events
    assert (event, fields["source"]) == ("webhook_error", "native")


async def test_secrets_and_bodies_are_not_logged(
    post: PostWebhook, backlog_stub: BacklogStub
) -> None:
    """Log events hold names, keys and reasons of our own."""
    private = FINISHED | {"eventMetadata": {"k": "private"}, "version": "private\n"}
    for body in (private, FINISHED, b"private"):
        await post("native", encode_body(body), native_headers(body))
        await post("native", encode_body(body), {"Authorization": "Bearer private"})
        await post("github", encode_body(body), github_headers(body))
    shown = repr(backlog_stub.log_events)
    assert len(backlog_stub.log_events) == 9
    assert "private" not in shown
    assert SECRET not in shown


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
BODIES = st.one_of(
    st.binary(),
    JSON_VALUES.map(encode_body),
    st.dictionaries(st.sampled_from(list(FINISHED)), JSON_VALUES).map(
        lambda fields: encode_body(FINISHED | fields)
    ),
    st.fixed_dictionaries({"state": st.just("success"), "environment": JSON_VALUES}).map(
        lambda status: encode_body({"deployment_status": status, "repository": status})
    ),
)


@settings(max_examples=25)
@given(bodies=st.lists(BODIES, max_size=8))
def test_every_genuine_body_has_a_documented_status(
    native: Source, github: Source, bodies: list[bytes]
) -> None:
    """JSON or not, mapped or not: no status but those of the table."""

    async def post_all() -> set[int]:
        async with (
            serve_receiver(BacklogStub(), native, github) as (host, port),
            ClientSession() as session,
        ):
            statuses = set()
            for body in bodies:
                for name, headers in (
                    ("native", native_headers(body)),
                    ("github", github_headers(body)),
                ):
                    url = f"http://{host}:{port}/webhooks/{name}"
                    async with session.post(url, data=body, headers=headers) as response:
                        await parse_response(response)
                        statuses.add(response.status)
            return statuses

    assert asyncio.run(post_all()) <= {200, 202, 400, 422}


async def test_source_added_later_is_served(
    native: Source, github: Source, backlog_stub: BacklogStub
) -> None:
    """A reload of the sources adds one, and removes the one that had a route of its own."""
    sources = {"github": github}
    async with serve_sources(backlog_stub, sources) as address, ClientSession() as session:
        sources.clear()
        sources["native"] = native
        body = encode_body(FINISHED)
        statuses = {}
        for name in ("native", "github"):
            url = "http://{}:{}/webhooks/".format(*address) + name
            async with session.post(url, data=body, headers=native_headers(body)) as response:
                statuses[name] = response.status
    assert statuses == {"native": 202, "github": 404}
