"""The webhook endpoint: reads, verifies and maps a webhook, enqueues it, and responds.

The handler logs one event for each webhook, or for each event of a batch:

=====================  ======  =====================================================
log event              status  when
=====================  ======  =====================================================
webhook_queued         202     the ticket is in the backlog
webhook_parked         202     a deployment ended, but the event cannot be mapped
webhook_duplicate      200     the delivery was kept before
webhook_ignored        200     genuine, but no deployment ended, or a filter excludes it
webhook_rejected       4xx     the sender's mistake: 400, 401, 404, 405, 408, 413, 422
webhook_error          503     a bug of the receiver, logged with its exception
webhook_unavailable    503     Redis is not available, or the backlog, ticket or memory is full
=====================  ======  =====================================================

``time_unreadable`` is logged with an event whose time could not be parsed: the time of arrival is
used instead. ``metadata_dropped`` is logged with one whose metadata is too large or not JSON. A 503
has ``Retry-After``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import assert_never

import msgspec
from aiohttp import web
from msgspec import Struct

from service.accept.body_reader import FREE_BYTES, BodyReader, BodyRefusal
from service.accept.json_response import JSON_HEADERS, JsonResponses
from service.accept.large_bodies import run_aside
from service.accept.mapping import (
    BacklogFull,
    Batch,
    DeploymentEvent,
    Duplicate,
    EnqueueResult,
    Event,
    Ignored,
    Queued,
    Unmappable,
    parse_webhook,
)
from service.accept.named_fields import LARGE_BYTES
from service.accept.payload import InvalidPayload
from service.accept.signatures import SignedRequest, Token, is_genuine
from service.accept.sources import Source
from service.buffer_memory import MemoryHold
from service.log import EventLogger
from service.store import RedisUnavailable

RETRY_AFTER_S = 2

Enqueue = Callable[[DeploymentEvent], Awaitable[EnqueueResult]]
Park = Callable[[str, Unmappable], Awaitable[bool]]

# https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md, section 4: any origin
# may send at any rate, since each event is verified.
_HANDSHAKE_HEADERS = {"Allow": "POST", "WebHook-Allowed-Origin": "*", "WebHook-Allowed-Rate": "*"}

_encode_body = msgspec.json.Encoder().encode


class WebhookResult(Struct, frozen=True, omit_defaults=True):
    """The body of a 2xx response."""

    status: str
    job: str | None = None
    delivery: str | None = None
    reason: str | None = None
    events: tuple["WebhookResult | Problem", ...] | None = None


class Problem(Struct, frozen=True, omit_defaults=True):
    """The body of an error response (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    missing: tuple[str, ...] = ()
    events: tuple["WebhookResult | Problem", ...] | None = None


class Response(Struct, frozen=True):
    """A response: status, body and headers."""

    status: int
    body: WebhookResult | Problem
    headers: Mapping[str, str]


def ok(status: int, result: WebhookResult) -> Response:
    """Return a 2xx response."""
    return Response(status, result, JSON_HEADERS)


def problem(
    status: int,
    detail: str,
    *,
    missing: tuple[str, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error response."""
    body = Problem("about:blank", HTTPStatus(status).phrase, status, detail, missing)
    content_type_header = {"Content-Type": "application/problem+json"}
    return Response(status, body, content_type_header | dict(headers or {}))


def unavailable(reason: str, retry_after_s: int) -> Response:
    """Return a response that asks the sender to retry."""
    return problem(503, reason, headers={"Retry-After": str(retry_after_s)})


def batch_response(responses: Sequence[Response]) -> Response:
    """Return the response to a batch: the results of its events, in order, under one status.

    The status is the highest of its events: 503 (the sender must retry) over 422 (the sender must
    fix an event), over 202 and 200. A repeated batch does no harm: its kept events are duplicates.
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


class WebhookHandler:
    """``POST /webhooks/{source}`` for the given sources; any other path below it is 404.

    ``apply_filter`` turns events of unwanted deployments into Ignored. ``enqueue`` keeps an event.
    ``park`` (source name, event) keeps an event that cannot be mapped, and returns whether it is
    new. Both may raise RedisUnavailable. ``clock`` returns seconds since 1970.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        enqueue: Enqueue,
        park: Park,
        apply_filter: Callable[[Event], Event],
        body_reader: BodyReader,
        clock: Callable[[], float],
        log: EventLogger,
    ) -> None:
        self._sources = sources
        self._enqueue = enqueue
        self._park = park
        self._apply_filter = apply_filter
        self._body_reader = body_reader
        self._large_body = asyncio.Lock()
        self._clock = clock
        self._log = log
        self._json_responses = JsonResponses(clock)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for ``app.add_routes``.

        A source that is known at the start has a route of its own, which costs less than a pattern.
        """
        own_routes = [
            web.post(f"/webhooks/{name}", partial(self._respond, name)) for name in self._sources
        ]
        return own_routes + [
            route
            for path in ("/webhooks/{source}", "/webhooks/{source}/")
            for route in (
                web.post(path, self.receive),
                web.options(path, self.options),
                web.route("*", path, self.method_not_allowed),
            )
        ]

    def other_routes(self) -> list[web.RouteDef]:
        """Return the route of every other path, to add after all routes of the application."""
        return [web.route("*", "/{path:.*}", self.not_found)]

    async def method_not_allowed(self, _: web.Request) -> web.Response:
        """Respond 405 to a method other than POST and OPTIONS."""
        reason, headers = "send webhooks with POST", {"Allow": "POST, OPTIONS"}
        return _build_http_response(self._reject("other", 405, reason, headers=headers))

    async def not_found(self, request: web.Request) -> web.Response:
        """Respond 404 to a path that is nothing here, and 405 to a page with other methods."""
        allowed = await _list_allowed_methods(request)
        if allowed:
            reason, headers = "this page has other methods", {"Allow": ", ".join(allowed)}
            return _build_http_response(self._reject("other", 405, reason, headers=headers))
        reason = "there is nothing here; webhooks go to /webhooks/<name of a source>"
        return _build_http_response(self._reject("other", 404, reason))

    async def options(self, request: web.Request) -> web.Response:
        """Respond to the handshake of CloudEvents with 200, to another OPTIONS with 204, or 404."""
        name = request.match_info["source"]
        if name not in self._sources:
            return _build_http_response(
                self._reject(ascii(name[:64]), 404, "there is no source of this name")
            )
        if "WebHook-Request-Origin" in request.headers:
            return web.Response(status=200, headers=_HANDSHAKE_HEADERS)
        return web.Response(status=204, headers={"Allow": "POST"})

    async def receive(self, request: web.Request) -> web.StreamResponse:
        """Respond to one webhook: 200, 202, 400, 401, 404, 408, 413, 422 or 503."""
        return await self._respond(request.match_info["source"], request)

    async def _respond(self, name: str, request: web.Request) -> web.StreamResponse:
        try:
            response = await self._handle(name, request)
            if response.headers is JSON_HEADERS:
                body = _encode_body(response.body)
                return self._json_responses.build(request, response.status, body)
            return _build_http_response(response)
        except Exception:  # noqa: BLE001 - a bug of ours: senders retry a 503, and not every one a 500
            self._log.exception("webhook_error", source=name)
            return _build_http_response(unavailable("internal error", RETRY_AFTER_S))

    async def _handle(self, name: str, request: web.Request) -> Response:
        source = self._sources.get(name)
        if source is None:
            return self._reject(ascii(name[:64]), 404, "there is no source of this name")
        body = self._body_reader.take_arrived(request)
        if body is None:
            return await self._handle_arriving(source, request)
        if isinstance(body, BodyRefusal):
            return self._refuse_body(source, body)
        signed_request = SignedRequest(request.headers, request.query, body)
        if not is_genuine(source.checks, signed_request, now_s=self._clock()):
            return self._reject_unsigned(source)
        return await self._process(source, parse_webhook(source, signed_request))

    async def _handle_arriving(self, source: Source, request: web.Request) -> Response:
        """Handle a webhook whose body is still arriving; it may be large."""
        hold = self._body_reader.open_hold()
        try:
            received = await self._receive(source, request, hold)
            if isinstance(received, Response):
                return received
            hold.resize(_count_kept_bytes(received))
            hold.end_reading()
            return await self._process(source, received)
        finally:
            hold.release()

    async def _receive(
        self, source: Source, request: web.Request, hold: MemoryHold
    ) -> Event | Batch | Response:
        """Read, verify and map a webhook. Nothing but the events keeps its body afterwards."""
        body = await self._body_reader.read(request, hold)
        if isinstance(body, BodyRefusal):
            return self._refuse_body(source, body)
        size, signed_request = len(body), SignedRequest(request.headers, request.query, body)
        now_s = self._clock()
        if not await run_aside(size, is_genuine, source.checks, signed_request, now_s=now_s):
            return self._reject_unsigned(source)
        if size < LARGE_BYTES:
            return parse_webhook(source, signed_request)
        async with self._large_body:  # one at a time: its values may take several times its bytes
            return await run_aside(size, parse_webhook, source, signed_request)

    async def _process(self, source: Source, received: Event | Batch) -> Response:
        if isinstance(received, Batch):
            pending = [self._process_event(source, event) for event in received.events]
            return batch_response(await asyncio.gather(*pending))
        return await self._process_event(source, received)

    def _refuse_body(self, source: Source, refusal: BodyRefusal) -> Response:
        if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return self._respond_unavailable(source.name, refusal.reason, RETRY_AFTER_S)
        return self._reject(source.name, refusal.status, refusal.reason)

    def _reject_unsigned(self, source: Source) -> Response:
        headers = {"WWW-Authenticate": _auth_challenge(source)}
        return self._reject(
            source.name, 401, "not signed with a secret of this source", headers=headers
        )

    async def _process_event(self, source: Source, event: Event) -> Response:
        try:
            return await self._dispatch_event(source, self._apply_filter(event))
        except RedisUnavailable:
            return self._respond_unavailable(source.name, "Redis is not available", RETRY_AFTER_S)

    async def _dispatch_event(self, source: Source, event: Event) -> Response:
        match event:
            case DeploymentEvent():
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

    def _respond_to_enqueue(self, event: DeploymentEvent, result: EnqueueResult) -> Response:
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
            case BacklogFull(retry_after_s, reason):
                return self._respond_unavailable(source, reason, retry_after_s)
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
        return unavailable(reason, retry_after_s)


def _count_kept_bytes(received: Event | Batch) -> int:
    """Return the memory of the bodies that are parked: their bytes, and those compressed."""
    events = received.events if isinstance(received, Batch) else (received,)
    sizes = [len(event.raw) for event in events if isinstance(event, Unmappable)]
    return 2 * sum(size for size in sizes if size > FREE_BYTES)


def _build_http_response(response: Response) -> web.Response:
    body = _encode_body(response.body)
    return web.Response(body=body, status=response.status, headers=response.headers)


async def _list_allowed_methods(request: web.Request) -> list[str]:
    """Return the methods of the routes that have the path of a request, but not its method."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        match, methods = await resource.resolve(request)
        if match is None:
            allowed |= methods
    return sorted(allowed)


def _auth_challenge(source: Source) -> str:
    """Return the challenge that a 401 response must have (RFC 9110, 11.6.1)."""
    for scheme in source.schemes:
        if isinstance(scheme, Token) and scheme.scheme is not None:
            return f'{scheme.scheme} realm="webhooks"'
    return 'Signature realm="webhooks"'
