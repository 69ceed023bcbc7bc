"""What stands behind the receiver in its tests, and how does a sender write?"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web

from service.accept.filters import DeploymentFilter
from service.accept.handler import WebhookHandler
from service.accept.mapping import (
    BacklogFull,
    DeploymentCompleted,
    Duplicate,
    EnqueueResult,
    Queued,
    Unmappable,
)
from service.accept.signatures import sign_standard_webhook
from service.accept.sources import Source
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
    """What stands behind the receiver: it keeps what it is given, or answers as it was told."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], DeploymentCompleted] = {}
        self.parked: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.log_events: list[tuple[str, dict[str, object]]] = []
        self.logged = asyncio.Event()
        self.result: BacklogFull | Exception | None = None

    async def enqueue(self, event: DeploymentCompleted) -> EnqueueResult:
        """Keep an event once."""
        match self.result:
            case Exception() as error:
                raise error
            case BacklogFull() as full:
                return full
            case None:
                is_new = self.events.setdefault((event.source, event.delivery), event) is event
                return Queued("job") if is_new else Duplicate("job")

    async def park(self, source: str, event: Unmappable) -> bool:
        """Keep a body once."""
        if isinstance(self.result, RedisUnavailable):
            raise self.result
        value = (event.reason, event.raw)
        return self.parked.setdefault((source, event.delivery), value) is value

    def info(self, event: str, **fields: object) -> None:
        """Remember a fact."""
        self.log_events.append((event, fields))
        self.logged.set()

    def warning(self, event: str, **fields: object) -> None:
        """Remember a fact that somebody should look at."""
        self.info(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Record an error event."""
        self.info(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """Remember that our own code failed."""
        self.info(event, **fields)


@asynccontextmanager
async def serve_receiver(backlog: BacklogStub, *sources: Source) -> AsyncIterator[ReceiverAddress]:
    """Serve the receiver on a port of its own, as the service does."""
    handler = WebhookHandler(
        {source.name: source for source in sources},
        enqueue=backlog.enqueue,
        park=backlog.park,
        apply_filter=DeploymentFilter().apply,
        clock=lambda: NOW_S,
        log=backlog,
    )
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes(handler.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield host, port
    await runner.cleanup()


async def parse_response(response: ClientResponse) -> dict[str, Any]:
    """Read an answer: always a JSON object, and a problem when it is an error."""
    body: dict[str, Any] = json.loads(await response.read())
    if response.status < 400:
        assert response.content_type == "application/json"
    else:
        assert response.content_type == "application/problem+json"
        assert (body["type"], body["status"]) == ("about:blank", response.status)
    return body


def encode_body(body: object) -> bytes:
    """Write a body; bytes are one already."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def native_headers(
    body: object, *, delivery: str = "msg_1", timestamp_s: int = NOW_S
) -> dict[str, str]:
    """Sign a native body."""
    return sign_standard_webhook(
        SECRET, delivery=delivery, timestamp_s=timestamp_s, body=encode_body(body)
    )


def github_headers(body: object, event: str = "deployment_status") -> dict[str, str]:
    """Sign a body as GitHub does."""
    digest = hmac.new(b"secret", encode_body(body), "sha256").hexdigest()
    return {
        "X-Hub-Signature-256": f"sha256={digest}",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "guid",
    }


PostWebhook = Callable[..., Awaitable[tuple[int, dict[str, Any], Mapping[str, str]]]]
