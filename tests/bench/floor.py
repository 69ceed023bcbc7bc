"""The floor: the least that these libraries cost for what the service promises, and nothing else.

    python -m tests.bench.floor record|receiver

``record`` is the bare loop, but with the content digest, one log line, and two script calls in
place of XADD: one that returns the call to the shared budget, one that appends and settles.
``receiver`` verifies a webhook, decodes it, keeps it with one script call, and logs it. Both use
the service's connection and log. They have no sources, no presets, no matching, no pages, no
limits of memory, no metrics and no retries.
"""

import asyncio
import hmac
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from hashlib import sha1, sha256

import msgspec
from aiohttp import web
from msgspec import Struct

from service.cli.event_loop import new_event_loop
from service.log import build_log
from service.store.connect import open_client
from service.store.group_commit import GroupCommit, ScriptArgument, ScriptReply
from service.store.script import Script
from tests.bench.baseline import process_batches, serve_receiver
from tests.bench.peer_task import (
    CONCURRENCY,
    DEDUP_TTL_S,
    REDIS_URL,
    SECRET,
    STREAM,
    PeerTask,
    build_entry_fields,
)

KEPT = "{floor}:kept"
"""The hash of the webhooks that were kept."""

_KEY = b64decode(SECRET.removeprefix("whsec_") + "==")
_MAX_AGE_S = 300
# The keys and arguments of the service's scripts, which the server reads and ignores here.
_KEYS = [f"{{floor}}:key-{number}" for number in range(10)]
_ARGUMENTS: Sequence[ScriptArgument] = ("id:b0eebc99-9c0b-4ef8-bb6d-000000000000", 1.5, *range(8))


def _build_script(name: str, text: str) -> Script:
    return Script(name=name, text=text.encode(), sha=sha1(text.encode()).hexdigest().encode())  # noqa: S324 - as EVALSHA


_RETURN_CALL = _build_script("return_call", "return redis.call('HSET', KEYS[1], 'at', ARGV[1])")
_APPEND = _build_script(
    "append",
    "redis.call('HSET', KEYS[1], 'digest', ARGV[1])\n"
    "return redis.call('XADD', KEYS[2], '*', unpack(ARGV, 12))",
)
_KEEP = _build_script(
    "keep",
    "if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then\n"
    "  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])\n"
    "end\n"
    "return 'queued'",
)


class Webhook(Struct, frozen=True, rename="camel"):
    """What identifies a deployment."""

    project_key: str
    environment_key: str
    application_key: str
    version: str
    event_type: str
    deployment_id: str | None = None
    event_time: int | None = None
    event_metadata: dict[str, object] = {}


class Floor:
    """The least record and the least webhook."""

    def __init__(self) -> None:
        self._log = build_log(pretty=False)
        self._task = PeerTask()
        self._group = GroupCommit(
            open_client(REDIS_URL), durability="fsync", clock=time.monotonic, log=self._log
        )

    async def process(self, number: int) -> None:
        """Fetch one deployment, decode it, and append it."""
        body = await self._task.get(number)
        self._submit(_RETURN_CALL, ["{floor}:budget", *_KEYS[:4]], _ARGUMENTS)
        fields = [part for field in build_entry_fields(body).items() for part in field]
        await self._submit(
            _APPEND,
            ["{floor}:published", STREAM, *_KEYS[:9]],
            [sha256(body).hexdigest(), *_ARGUMENTS, *fields],
            durable=True,
        )
        self._log.info("published", number=number, source="native", attempt=1)

    def _submit(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[ScriptArgument],
        *,
        durable: bool = False,
    ) -> asyncio.Future[ScriptReply]:
        return self._group.submit(script, keys=keys, args=args, durable=durable)

    async def receive(self, request: web.Request) -> web.Response:
        """Verify one webhook, keep it and log it."""
        body, headers = await request.read(), request.headers
        delivery, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signed_bytes = b"%b.%b.%b" % (delivery.encode(), timestamp.encode(), body)
        expected = b"v1," + b64encode(hmac.digest(_KEY, signed_bytes, "sha256"))
        is_recent = abs(time.time() - int(timestamp)) <= _MAX_AGE_S
        is_genuine = hmac.compare_digest(headers["webhook-signature"].encode(), expected)
        if not (is_recent and is_genuine):
            return web.Response(status=401)
        webhook = msgspec.json.decode(body, type=Webhook)
        args = (DEDUP_TTL_S, webhook.deployment_id or "", msgspec.msgpack.encode(webhook))
        keys = [f"{{floor}}:delivery:{delivery}", KEPT, *_KEYS]
        await self._submit(_KEEP, keys, [*args, *_ARGUMENTS[:5]], durable=True)
        job = f"id:{webhook.deployment_id}"
        self._log.info("queued", delivery=delivery, job=job)
        answer = msgspec.json.encode({"status": "queued", "job": job, "delivery": delivery})
        return web.Response(status=202, body=answer, content_type="application/json")


async def main() -> None:
    """Run the mode that the command line names."""
    floor = Floor()
    if sys.argv[1] == "receiver":
        await serve_receiver(floor.receive)
    async for _ in process_batches(floor.process, concurrency=CONCURRENCY):
        pass


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the loop of the service
        runner.run(main())
