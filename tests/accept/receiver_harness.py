"""A receiver on a port of its own with a stub for the backlog, and headers of senders."""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web
from yarl import URL

from service.accept.body_reader import BodyLimits, BodyReader
from service.accept.filters import DeploymentFilter
from service.accept.handler import WebhookHandler
from service.accept.mapping import (
    BacklogFull,
    DeploymentEvent,
    Duplicate,
    EnqueueResult,
    Queued,
    Unmappable,
)
from service.accept.signatures import sign_standard_webhook
from service.accept.sources import Source
from service.buffer_memory import BufferMemory
from service.metrics.http import serve_app
from service.store import RedisUnavailable

NOW_S = 1_760_000_000
MAX_BODY_BYTES = 100_000
SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
FINISHED = {
    "projectKey": "default",
    "environmentKey": "production",
    "applicationKey": "web",
    "version": "7fd1a60",
    "eventType": "finished",
}


ReceiverAddress = tuple[str, int]


class BacklogStub:
    """Stands for the backlog and the log: keeps events, or returns or raises ``result``."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], DeploymentEvent] = {}
        self.parked: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.log_events: list[tuple[str, dict[str, object]]] = []
        self.logged = asyncio.Event()
        self.result: BacklogFull | Exception | None = None

    async def enqueue(self, event: DeploymentEvent) -> EnqueueResult:
        """Keep an event; a second one of the same delivery is a duplicate."""
        match self.result:
            case Exception() as error:
                raise error
            case BacklogFull() as full:
                return full
            case None:
                is_new = self.events.setdefault((event.source, event.delivery), event) is event
                return Queued("job") if is_new else Duplicate("job")

    async def park(self, source: str, event: Unmappable) -> bool:
        """Keep a parked event; return whether it is new."""
        if isinstance(self.result, RedisUnavailable):
            raise self.result
        value = (event.reason, event.raw)
        return self.parked.setdefault((source, event.delivery), value) is value

    def info(self, event: str, **fields: object) -> None:
        """Record a log event."""
        self.log_events.append((event, fields))
        self.logged.set()

    def warning(self, event: str, **fields: object) -> None:
        """Record a warning."""
        self.info(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Record an error."""
        self.info(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """Record an exception."""
        self.info(event, **fields)


@asynccontextmanager
async def serve_receiver(
    backlog: BacklogStub,
    *sources: Source,
    limits: BodyLimits = BodyLimits(max_bytes=MAX_BODY_BYTES),  # noqa: B008 - it is frozen
    memory: BufferMemory | None = None,
) -> AsyncIterator[ReceiverAddress]:
    """Serve the webhook endpoint on a port of its own; yield its address."""
    by_name = {source.name: source for source in sources}
    async with serve_sources(backlog, by_name, limits=limits, memory=memory) as address:
        yield address


@asynccontextmanager
async def serve_sources(
    backlog: BacklogStub,
    sources: Mapping[str, Source],
    *,
    limits: BodyLimits = BodyLimits(max_bytes=MAX_BODY_BYTES),  # noqa: B008 - it is frozen
    memory: BufferMemory | None = None,
) -> AsyncIterator[ReceiverAddress]:
    """Serve the webhook endpoint for sources that may change; yield its address."""
    handler = WebhookHandler(
        sources,
        enqueue=backlog.enqueue,
        park=backlog.park,
        apply_filter=DeploymentFilter().apply,
        body_reader=BodyReader(limits, memory or BufferMemory(4 * limits.max_bytes)),
        clock=lambda: NOW_S,
        log=backlog,
    )
    app = web.Application()
    app.add_routes([*handler.routes(), *handler.other_routes()])
    async with serve_app(app, host="127.0.0.1", port=0, log=backlog) as url:
        address = URL(url)
        yield str(address.host), address.port or 0


async def parse_response(response: ClientResponse) -> dict[str, Any]:
    """Return the JSON object of a response; an error must be a problem document."""
    body: dict[str, Any] = json.loads(await response.read())
    if response.status < 400:
        assert response.content_type == "application/json"
    else:
        assert response.content_type == "application/problem+json"
        assert (body["type"], body["status"]) == ("about:blank", response.status)
    return body


def encode_body(body: object) -> bytes:
    """Return a body as JSON; bytes stay unchanged."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def native_headers(
    body: object, *, delivery: str = "msg_1", timestamp_s: int = NOW_S
) -> dict[str, str]:
    """Return the headers of Standard Webhooks for a native body."""
    return sign_standard_webhook(
        SECRET, delivery=delivery, timestamp_s=timestamp_s, body=encode_body(body)
    )


def github_headers(body: object, event: str = "deployment_status") -> dict[str, str]:
    """Return GitHub's headers for a body."""
    digest = hmac.new(b"secret", encode_body(body), "sha256").hexdigest()
    return {
        "X-Hub-Signature-256": f"sha256={digest}",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "guid",
    }


PostWebhook = Callable[..., Awaitable[tuple[int, dict[str, Any], Mapping[str, str]]]]
