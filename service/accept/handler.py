"""The receiver: check, read, remember, answer. The only room here that touches the network.

Each event of a batch is a fact of its own. A fact of an event whose time could not be read has
``time_unreadable``: the time at which it came stands in for it.

=====================  ======  =====================================================
fact                   status  when
=====================  ======  =====================================================
webhook_queued         202     kept
webhook_parked      202     ended, but cannot be mapped: kept for a person
webhook_duplicate      200     kept before
webhook_ignored        200     genuine, but no deployment ended, or not one that is wanted
webhook_rejected       4xx     the sender's fault: 400, 401, 404, 408, 413, 422
webhook_error        503     our own mistake
webhook_unavailable        503     ours: the store is away, or full; ``Retry-After`` says when
=====================  ======  =====================================================
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol, assert_never

import msgspec
from aiohttp import web
from msgspec import Struct

from service.accept.mapping import (
    BacklogFull,
    Batch,
    DeploymentCompleted,
    Duplicate,
    EnqueueResult,
    Event,
    Ignored,
    Queued,
    Unmappable,
    parse_webhook,
)
from service.accept.payload import InvalidPayload
from service.accept.signatures import SignedRequest, Token, is_genuine
from service.accept.sources import Source
from service.store import RedisUnavailable


class WebhookResult(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when all is well."""

    status: str
    job: str | None = None
    delivery: str | None = None
    reason: str | None = None
    events: tuple["WebhookResult | Problem", ...] | None = None


class Problem(Struct, frozen=True, omit_defaults=True):
    """What a sender hears when it is not (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    missing: tuple[str, ...] = ()
    events: tuple["WebhookResult | Problem", ...] | None = None


class Response(Struct, frozen=True):
    """A whole answer: its status, its body, and the headers that it needs."""

    status: int
    body: WebhookResult | Problem
    headers: Mapping[str, str]


def ok(status: int, result: WebhookResult) -> Response:
    """Answer that all is well."""
    return Response(status, result, {"Content-Type": "application/json"})


def problem(
    status: int,
    detail: str,
    *,
    missing: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer that something is wrong."""
    body = Problem("about:blank", HTTPStatus(status).phrase, status, detail, missing)
    content_type_header = {"Content-Type": "application/problem+json"}
    return Response(status, body, content_type_header | dict(headers or {}))


def batch_response(responses: Sequence[Response]) -> Response:
    """Answer for a batch: each event's own answer in the order sent, under one status.

    The highest status speaks for all: what must come again (503) goes before what its sender must
    mend (422), and that before what was kept (202) or passed over (200). A batch that comes again
    does no harm: what was kept of it is a duplicate then.
    """
    event_bodies = tuple(response.body for response in responses)
    if not responses:
        return ok(200, WebhookResult("batch", events=event_bodies))
    worst = max(responses, key=lambda response: response.status)
    if worst.status < HTTPStatus.BAD_REQUEST:
        return ok(worst.status, WebhookResult("batch", events=event_bodies))
    title = HTTPStatus(worst.status).phrase
    body = Problem(
        "about:blank", title, worst.status, "not every event could be kept", events=event_bodies
    )
    return Response(worst.status, body, worst.headers)


RETRY_AFTER_S = 2
BODY_TIMEOUT_S = 15.0

Enqueue = Callable[[DeploymentCompleted], Awaitable[EnqueueResult]]
Park = Callable[[str, Unmappable], Awaitable[bool]]

# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md, section 4: anybody
# may send, as fast as they like; who is genuine is asked of every event.
_HANDSHAKE_HEADERS = {"Allow": "POST", "WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "*"}


class HandlerLog(Protocol):
    """Where facts go: structlog's loggers fit."""

    def info(self, event: str, **fields: object) -> object:
        """Write one fact."""

    def exception(self, event: str, **fields: object) -> object:
        """Write that our own code failed, with the exception being handled."""


class WebhookHandler:
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
        enqueue: Enqueue,
        park: Park,
        apply_filter: Callable[[Event], Event],
        clock: Callable[[], float],
        log: HandlerLog,
    ) -> None:
        self._sources = sources
        self._enqueue = enqueue
        self._park = park
        self._apply_filter = apply_filter
        self._clock = clock
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        """Give the routes for ``app.add_routes``."""
        return [
            web.post("/webhooks/{source}", self.receive),
            web.options("/webhooks/{source}", self.options),
            web.route("*", "/webhooks/{source}", self.method_not_allowed),
            web.route("*", "/webhooks/{path:.*}", self.not_found),
        ]

    async def method_not_allowed(self, _: web.Request) -> web.Response:
        """Answer who looks at the address of a source: 405."""
        return _build_http_response(
            problem(405, "webhooks are posted", headers={"Allow": "POST, OPTIONS"})
        )

    async def not_found(self, _: web.Request) -> web.Response:
        """Answer who asks for what can be no source: 404."""
        return _build_http_response(
            problem(404, "there is nothing here but /webhooks/<name of a source>")
        )

    async def options(self, request: web.Request) -> web.Response:
        """Answer the handshake of CloudEvents: 200; 204 to whoever only asks, or 404."""
        name = request.match_info["source"]
        if name not in self._sources:
            return _build_http_response(
                self._reject(ascii(name[:64]), 404, "there is no source of this name")
            )
        if "WebHook-Request-Origin" in request.headers:
            return web.Response(status=200, headers=_HANDSHAKE_HEADERS)
        return web.Response(status=204, headers={"Allow": "POST"})

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one webhook: 200, 202, 400, 401, 404, 408, 413, 422 or 503."""
        try:
            return _build_http_response(await self._handle(request))
        except Exception:  # noqa: BLE001 - our own mistake: come again, rather than a 500
            self._log.exception("webhook_error")
            return _build_http_response(
                self._respond_unavailable("unknown", "something is wrong here", RETRY_AFTER_S)
            )

    async def _handle(self, request: web.Request) -> Response:
        name = request.match_info["source"]
        source = self._sources.get(name)
        if source is None:
            return self._reject(ascii(name[:64]), 404, "there is no source of this name")
        body = await self._read_body(source, request)
        if isinstance(body, Response):
            return body
        signed_request = SignedRequest(request.headers, request.query, body)
        if not is_genuine(source.checks, signed_request, now_s=self._clock()):
            return self._reject(
                source.name,
                401,
                "not signed with a secret of this source",
                headers={"WWW-Authenticate": _auth_challenge(source)},
            )
        parsed = parse_webhook(source, signed_request)
        if isinstance(parsed, Batch):
            pending = [self._process_event(source, event) for event in parsed.events]
            return batch_response(await asyncio.gather(*pending))
        return await self._process_event(source, parsed)

    async def _read_body(self, source: Source, request: web.Request) -> bytes | Response:
        try:
            if request.content.is_eof():  # it came along with the headers: nothing to wait for
                return await request.read()
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await request.read()
        except TimeoutError:
            return self._reject(source.name, 408, "the body did not come in time")
        except web.HTTPRequestEntityTooLarge:
            return self._reject(source.name, 413, "the body is too large")
        except web.RequestPayloadError:
            return self._reject(source.name, 400, "the body is not encoded as its headers say")
        except OSError:
            return self._reject(source.name, 400, "the sender hung up")

    async def _process_event(self, source: Source, event: Event) -> Response:
        try:
            return await self._dispatch_event(source, self._apply_filter(event))
        except RedisUnavailable:
            return self._respond_unavailable(source.name, "the store is away", RETRY_AFTER_S)

    async def _dispatch_event(self, source: Source, event: Event) -> Response:
        match event:
            case DeploymentCompleted():
                return self._respond_to_enqueue(event, await self._enqueue(event))
            case Ignored(reason, delivery):
                self._log.info(
                    "webhook_ignored", source=source.name, delivery=delivery, reason=reason
                )
                return ok(200, WebhookResult("ignored", reason=reason))
            case Unmappable(reason, missing) if source.strict:
                return self._reject(source.name, 422, reason, missing=missing)
            case Unmappable():
                return await self._park_event(source, event)
            case InvalidPayload(reason):
                return self._reject(source.name, 400, reason)
            case never:
                assert_never(never)

    def _respond_to_enqueue(self, event: DeploymentCompleted, result: EnqueueResult) -> Response:
        source, delivery = event.source, event.delivery
        extra_fields = {"time_unreadable": True} if event.time_unreadable else {}
        if event.metadata_dropped:
            extra_fields["metadata_dropped"] = True
        match result:
            case Queued(job):
                self._log.info(
                    "webhook_queued", source=source, delivery=delivery, job=job, **extra_fields
                )
                return ok(202, WebhookResult("queued", job=job, delivery=delivery))
            case Duplicate(job):
                self._log.info("webhook_duplicate", source=source, delivery=delivery, job=job)
                return ok(200, WebhookResult("duplicate", job=job, delivery=delivery))
            case BacklogFull(retry_after_s):
                return self._respond_unavailable(source, "the backlog is full", retry_after_s)
            case never:
                assert_never(never)

    async def _park_event(self, source: Source, event: Unmappable) -> Response:
        delivery, reason = event.delivery, event.reason
        if await self._park(source.name, event):
            self._log.info("webhook_parked", source=source.name, delivery=delivery, reason=reason)
            return ok(202, WebhookResult("parked", reason=reason))
        self._log.info("webhook_duplicate", source=source.name, delivery=delivery, reason=reason)
        return ok(200, WebhookResult("duplicate", delivery=delivery))

    def _reject(
        self,
        source: str,
        status: int,
        reason: str,
        *,
        missing: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        self._log.info("webhook_rejected", source=source, status=status, reason=reason)
        return problem(status, reason, missing=missing, headers=headers)

    def _respond_unavailable(self, source: str, reason: str, retry_after_s: int) -> Response:
        self._log.info("webhook_unavailable", source=source, status=503, reason=reason)
        return problem(503, reason, headers={"Retry-After": str(retry_after_s)})


def _build_http_response(response: Response) -> web.Response:
    body = msgspec.json.encode(response.body)
    return web.Response(body=body, status=response.status, headers=response.headers)


def _auth_challenge(source: Source) -> str:
    """Say what would have been accepted (RFC 9110, 11.6.1: a 401 must)."""
    for scheme in source.schemes:
        if isinstance(scheme, Token) and scheme.scheme is not None:
            return f'{scheme.scheme} realm="webhooks"'
    return 'Signature realm="webhooks"'
