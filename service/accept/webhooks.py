"""The door: check, read, remember, answer. The only room here that touches the network.

Each event of a batch is a fact of its own. A fact of an event whose time could not be read has
``time_unreadable``: the time at which it came stands in for it.

=====================  ======  =====================================================
fact                   status  when
=====================  ======  =====================================================
webhook_queued         202     kept
webhook_set_aside      202     ended, but cannot be mapped: kept for a person
webhook_duplicate      200     kept before
webhook_ignored        200     genuine, but no deployment ended, or not one that is wanted
webhook_rejected       4xx     the sender's fault: 400, 401, 404, 408, 413, 422
webhook_crashed        503     our own mistake
webhook_refused        503     ours: the store is away, or full; ``Retry-After`` says when
=====================  ======  =====================================================
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, assert_never

import msgspec
from aiohttp import web

from service.accept.answers import Answer, Reply, agree, gather, object_to
from service.accept.checks import is_genuine
from service.accept.decode import Unreadable
from service.accept.events import (
    Batch,
    DeploymentCompleted,
    Duplicate,
    Event,
    Full,
    Ignored,
    Queued,
    Remembered,
    Unmappable,
    read_webhook,
)
from service.accept.signature import SignedRequest, Token
from service.accept.sources import Source
from service.store import Unavailable

RETRY_AFTER_S = 2
SLOWEST_BODY_S = 15.0

Remember = Callable[[DeploymentCompleted], Awaitable[Remembered]]
SetAside = Callable[[str, Unmappable], Awaitable[bool]]

# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md, section 4: anybody
# may send, as fast as they like; who is genuine is asked of every event.
_ALLOWED = {"Allow": "POST", "WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "*"}


class Log(Protocol):
    """Where facts go: structlog's loggers fit."""

    def info(self, event: str, **facts: object) -> object:
        """Write one fact."""

    def exception(self, event: str, **facts: object) -> object:
        """Write that our own code failed, with the exception being handled."""


class Webhooks:
    """``POST /webhooks/{source}``, for the given sources; all else below it is refused.

    ``sift`` ignores what is not wanted downstream. ``remember`` keeps an event, ``set_aside``
    (source, event) keeps for a person what cannot be mapped and tells whether it is new; both may
    raise Unavailable. ``clock`` gives seconds since
    1970. The body's cap is the application's ``client_max_size``.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        remember: Remember,
        set_aside: SetAside,
        sift: Callable[[Event], Event],
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._sources = sources
        self._remember = remember
        self._set_aside = set_aside
        self._sift = sift
        self._clock = clock
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        """Give the routes for ``app.add_routes``."""
        return [
            web.post("/webhooks/{source}", self.receive),
            web.options("/webhooks/{source}", self.shake_hands),
            web.route("*", "/webhooks/{source}", self.refuse_method),
            web.route("*", "/webhooks/{path:.*}", self.find_nothing),
        ]

    async def refuse_method(self, _: web.Request) -> web.Response:
        """Answer who looks at the address of a source: 405."""
        return _send(object_to(405, "webhooks are posted", headers={"Allow": "POST, OPTIONS"}))

    async def find_nothing(self, _: web.Request) -> web.Response:
        """Answer who asks for what can be no source: 404."""
        return _send(object_to(404, "there is nothing here but /webhooks/<name of a source>"))

    async def shake_hands(self, request: web.Request) -> web.Response:
        """Answer the handshake of CloudEvents: 200; 204 to whoever only asks, or 404."""
        name = request.match_info["source"]
        if name not in self._sources:
            return _send(self._reject(ascii(name[:64]), 404, "there is no source of this name"))
        if "WebHook-Request-Origin" in request.headers:
            return web.Response(status=200, headers=_ALLOWED)
        return web.Response(status=204, headers={"Allow": "POST"})

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook: 200, 202, 400, 401, 404, 408, 413, 422 or 503."""
        try:
            return _send(await self._receive(request))
        except Exception:  # noqa: BLE001 - our own mistake: come again, rather than a 500
            self._log.exception("webhook_crashed")
            return _send(self._refuse("unknown", "something is wrong here", RETRY_AFTER_S))

    async def _receive(self, request: web.Request) -> Reply:
        name = request.match_info["source"]
        source = self._sources.get(name)
        if source is None:
            return self._reject(ascii(name[:64]), 404, "there is no source of this name")
        body = await self._read_body(source, request)
        if isinstance(body, Reply):
            return body
        signed = SignedRequest(request.headers, request.query, body)
        if not is_genuine(source.checks, signed, now_s=self._clock()):
            return self._reject(
                source.name,
                401,
                "not signed with a secret of this source",
                headers={"WWW-Authenticate": _challenge(source)},
            )
        read = read_webhook(source, signed)
        if isinstance(read, Batch):
            replies = [self._keep(source, event) for event in read.events]
            return gather(await asyncio.gather(*replies))
        return await self._keep(source, read)

    async def _read_body(self, source: Source, request: web.Request) -> bytes | Reply:
        try:
            if request.content.is_eof():  # it came along with the headers: nothing to wait for
                return await request.read()
            async with asyncio.timeout(SLOWEST_BODY_S):
                return await request.read()
        except TimeoutError:
            return self._reject(source.name, 408, "the body did not come in time")
        except web.HTTPRequestEntityTooLarge:
            return self._reject(source.name, 413, "the body is too large")
        except web.RequestPayloadError:
            return self._reject(source.name, 400, "the body is not encoded as its headers say")
        except OSError:
            return self._reject(source.name, 400, "the sender hung up")

    async def _keep(self, source: Source, event: Event) -> Reply:
        try:
            return await self._settle(source, self._sift(event))
        except Unavailable:
            return self._refuse(source.name, "the store is away", RETRY_AFTER_S)

    async def _settle(self, source: Source, event: Event) -> Reply:
        match event:
            case DeploymentCompleted():
                return self._tell(event, await self._remember(event))
            case Ignored(reason, delivery):
                self._log.info(
                    "webhook_ignored", source=source.name, delivery=delivery, reason=reason
                )
                return agree(200, Answer("ignored", reason=reason))
            case Unmappable(reason, missing) if source.strict:
                return self._reject(source.name, 422, reason, missing=missing)
            case Unmappable():
                return await self._put_aside(source, event)
            case Unreadable(reason):
                return self._reject(source.name, 400, reason)
            case never:
                assert_never(never)

    def _tell(self, event: DeploymentCompleted, remembered: Remembered) -> Reply:
        source, delivery = event.source, event.delivery
        odd = {"time_unreadable": True} if event.time_unreadable else {}
        match remembered:
            case Queued(job):
                self._log.info("webhook_queued", source=source, delivery=delivery, job=job, **odd)
                return agree(202, Answer("queued", job=job, delivery=delivery))
            case Duplicate(job):
                self._log.info("webhook_duplicate", source=source, delivery=delivery, job=job)
                return agree(200, Answer("duplicate", job=job, delivery=delivery))
            case Full(retry_after_s):
                return self._refuse(source, "the backlog is full", retry_after_s)
            case never:
                assert_never(never)

    async def _put_aside(self, source: Source, event: Unmappable) -> Reply:
        delivery, reason = event.delivery, event.reason
        if await self._set_aside(source.name, event):
            self._log.info(
                "webhook_set_aside", source=source.name, delivery=delivery, reason=reason
            )
            return agree(202, Answer("set aside", reason=reason))
        self._log.info("webhook_duplicate", source=source.name, delivery=delivery, reason=reason)
        return agree(200, Answer("duplicate", delivery=delivery))

    def _reject(
        self,
        source: str,
        status: int,
        reason: str,
        *,
        missing: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        self._log.info("webhook_rejected", source=source, status=status, reason=reason)
        return object_to(status, reason, missing=missing, headers=headers)

    def _refuse(self, source: str, reason: str, retry_after_s: int) -> Reply:
        self._log.info("webhook_refused", source=source, status=503, reason=reason)
        return object_to(503, reason, headers={"Retry-After": str(retry_after_s)})


def _send(reply: Reply) -> web.Response:
    body = msgspec.json.encode(reply.body)
    return web.Response(body=body, status=reply.status, headers=reply.headers)


def _challenge(source: Source) -> str:
    """Say what would have been accepted (RFC 9110, 11.6.1: a 401 must)."""
    for scheme in source.schemes:
        if isinstance(scheme, Token) and scheme.scheme is not None:
            return f'{scheme.scheme} realm="webhooks"'
    return 'Signature realm="webhooks"'
