"""What stands behind the door in its tests, and how does a sender write?"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientResponse, web

from service.accept.choice import Only
from service.accept.events import (
    DeploymentCompleted,
    Duplicate,
    Full,
    Queued,
    Remembered,
    Unmappable,
)
from service.accept.signature import sign_standard_webhook
from service.accept.sources import Source
from service.accept.webhooks import Webhooks
from service.store import Unavailable

NOW_S = 1_760_000_000
MAX_BODY = 100_000
SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cyE="
FINISHED = {
    "projectKey": "default",
    "environmentKey": "production",
    "applicationKey": "web",
    "version": "7fd1a60",
    "eventType": "finished",
}


Address = tuple[str, int]


class Desk:
    """What stands behind the door: it keeps what it is given, or answers as it was told."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], DeploymentCompleted] = {}
        self.aside: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.facts: list[tuple[str, dict[str, object]]] = []
        self.noticed = asyncio.Event()
        self.answer: Full | Exception | None = None

    async def remember(self, event: DeploymentCompleted) -> Remembered:
        """Keep an event once."""
        match self.answer:
            case Exception() as error:
                raise error
            case Full() as full:
                return full
            case None:
                new = self.kept.setdefault((event.source, event.delivery), event) is event
                return Queued("job") if new else Duplicate("job")

    async def set_aside(self, source: str, event: Unmappable) -> bool:
        """Keep a body once."""
        if isinstance(self.answer, Unavailable):
            raise self.answer
        value = (event.reason, event.raw)
        return self.aside.setdefault((source, event.delivery), value) is value

    def info(self, event: str, **facts: object) -> None:
        """Remember a fact."""
        self.facts.append((event, facts))
        self.noticed.set()

    def warning(self, event: str, **facts: object) -> None:
        """Remember a fact that somebody should look at."""
        self.info(event, **facts)

    def exception(self, event: str, **facts: object) -> None:
        """Remember that our own code failed."""
        self.info(event, **facts)


@asynccontextmanager
async def serve(desk: Desk, *sources: Source) -> AsyncIterator[Address]:
    """Serve the door on a port of its own, as the service does."""
    webhooks = Webhooks(
        {source.name: source for source in sources},
        remember=desk.remember,
        set_aside=desk.set_aside,
        sift=Only().sift,
        clock=lambda: NOW_S,
        log=desk,
    )
    app = web.Application(client_max_size=MAX_BODY)
    app.add_routes(webhooks.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield host, port
    await runner.cleanup()


async def read_answer(response: ClientResponse) -> dict[str, Any]:
    """Read an answer: always a JSON object, and a problem when it is an error."""
    answer: dict[str, Any] = json.loads(await response.read())
    if response.status < 400:
        assert response.content_type == "application/json"
    else:
        assert response.content_type == "application/problem+json"
        assert (answer["type"], answer["status"]) == ("about:blank", response.status)
    return answer


def encode(body: object) -> bytes:
    """Write a body; bytes are one already."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def signed(body: object, *, delivery: str = "msg_1", timestamp_s: int = NOW_S) -> dict[str, str]:
    """Sign a native body."""
    return sign_standard_webhook(
        SECRET, delivery=delivery, timestamp_s=timestamp_s, body=encode(body)
    )


def github_headers(body: object, event: str = "deployment_status") -> dict[str, str]:
    """Sign a body as GitHub does."""
    digest = hmac.new(b"secret", encode(body), "sha256").hexdigest()
    return {
        "X-Hub-Signature-256": f"sha256={digest}",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "guid",
    }


Post = Callable[..., Awaitable[tuple[int, dict[str, Any], Mapping[str, str]]]]
