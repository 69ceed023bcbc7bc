"""The routes of the console at ``/`` and below ``/console``, all but static files authenticated."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial

from aiohttp import web
from msgspec import Struct, json
from redis.exceptions import RedisError

from service.accept.sources import Source
from service.backlog.failed_tickets import FailedTickets, RetryResult
from service.backlog.failures import FailedTicket
from service.console.auth import AuthMiddleware, Handler, ViewerHandler
from service.console.event_stream import EventStream
from service.console.fragments import Fragments, find_changes
from service.console.live import LiveFeed, TooManyViewers
from service.console.pages import STATIC, ConsolePages, Viewer, content_digest
from service.console.responses import (
    SECURITY_HEADERS,
    html_response,
    read_form_field,
    redirect,
)
from service.console.search import MAX_QUERY_LENGTH, Searcher
from service.log import EventLogger
from service.store import RedisUnavailable
from service.store.connect import UNAVAILABLE_ERRORS, describe_error

_PAGE_SIZE = 40
_MAX_JOB_LENGTH = 4096
_MAX_OFFSET_DIGITS = 9  # a longer number would overflow
_COMMENT_INTERVAL_S = 15.0
_MAX_STREAM_S = 900.0  # then the browser reconnects, and its session is checked again


class ConsoleDependencies(Struct, frozen=True, kw_only=True):
    """The objects that the console needs; ``clock`` returns epoch seconds."""

    auth_middleware: AuthMiddleware
    pages: ConsolePages
    live_feed: LiveFeed
    searcher: Searcher
    failed_tickets: FailedTickets
    sources: Mapping[str, Source]
    clock: Callable[[], float]
    log: EventLogger


class Console:
    """The handlers of the pages, and of the two actions: retry and drop."""

    def __init__(self, dependencies: ConsoleDependencies) -> None:
        self._dependencies = dependencies

    @property
    def auth_middleware(self) -> AuthMiddleware:
        """What asks for the console's token."""
        return self._dependencies.auth_middleware

    def add_routes(self, app: web.Application) -> None:
        """Add the routes, and the live feed that runs while the application does."""
        pages = {
            "/": self._show_overview,
            "/console/failed": self._show_failed,
            "/console/failed/show": self._show_failure,
            "/console/search": self._show_search,
            "/console/live": self._stream_live,
        }
        for path, handler in pages.items():
            app.router.add_get(path, self._protect(handler), allow_head=False)
        app.router.add_post("/console/failed/retry", self._protect(self._retry))
        app.router.add_post("/console/failed/drop", self._protect(self._drop))
        self._dependencies.auth_middleware.add_routes(app)
        app.router.add_get("/console/static/{name}", self._serve_static)
        app.on_shutdown.append(self._close_live_feed)
        app.cleanup_ctx.append(self._run_live_feed)

    async def _run_live_feed(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._dependencies.live_feed.run(), name="console")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _close_live_feed(self, _: web.Application) -> None:
        self._dependencies.live_feed.close()

    def _protect(self, handler: ViewerHandler) -> Handler:
        return self._dependencies.auth_middleware.protect(
            partial(self._handle_redis_errors, handler)
        )

    async def _handle_redis_errors(
        self, handler: ViewerHandler, request: web.Request, viewer: Viewer
    ) -> web.StreamResponse:
        try:
            return await handler(request, viewer)
        except RedisUnavailable as error:
            reason = str(error)
        except (*UNAVAILABLE_ERRORS, RedisError) as error:
            reason = describe_error(error)
        page = self._dependencies.pages.render_message("Redis is away", reason, viewer)
        return html_response(page, status=503)

    async def _show_overview(self, _: web.Request, viewer: Viewer) -> web.StreamResponse:
        return html_response(
            self._dependencies.pages.render_overview(
                await self._dependencies.live_feed.read_state(), viewer
            )
        )

    async def _show_failed(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        from_query = request.query.get("from", "0")
        start = (
            int(from_query)
            if from_query.isascii()
            and from_query.isdigit()
            and len(from_query) <= _MAX_OFFSET_DIGITS
            else 0
        )
        failures, total = await self._dependencies.failed_tickets.read_page(start, _PAGE_SIZE)
        page = self._dependencies.pages.render_failed(
            failures,
            viewer,
            now_ms=await self._dependencies.failed_tickets.read_time_ms(),
            total=total,
            next_start=str(start + _PAGE_SIZE) if start + _PAGE_SIZE < total else "",
            result=request.query.get("result", ""),
        )
        return html_response(page)

    async def _show_failure(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        failed = await self._dependencies.failed_tickets.read_whole(
            request.query.get("job", "")[:_MAX_JOB_LENGTH]
        )
        if failed is None:
            text = "There is no such failed ticket: it was retried, dropped, or never existed."
            return html_response(
                self._dependencies.pages.render_message("Not found", text, viewer), status=404
            )
        result = request.query.get("result", "")
        return html_response(self._dependencies.pages.render_failure(failed, viewer, result=result))

    async def _show_search(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        query = request.query.get("q", "").strip()[:MAX_QUERY_LENGTH]
        result = await self._dependencies.searcher.search(query) if query else None
        page = self._dependencies.pages.render_search(
            result,
            viewer,
            now_ms=await self._dependencies.failed_tickets.read_time_ms(),
            retry_result=request.query.get("result", ""),
        )
        return html_response(page)

    async def _stream_live(self, request: web.Request, _: Viewer) -> web.StreamResponse:
        """Send the changed parts of the overview as server-sent events, for at most 15 minutes."""
        stream = EventStream(request)
        try:
            await self._send_updates(stream)
        except TooManyViewers:
            return web.Response(status=503, headers=SECURITY_HEADERS | {"Retry-After": "5"})
        except (OSError, TimeoutError):
            return stream.response  # the viewer is gone
        if not stream.response.prepared:
            return web.Response(status=503, headers=SECURITY_HEADERS)
        return stream.response

    async def _send_updates(self, stream: EventStream) -> None:
        clock = self._dependencies.clock
        ends_at, sent_at = clock() + _MAX_STREAM_S, clock()
        sent_fragments: Fragments = {}
        async with aclosing(self._dependencies.live_feed.subscribe()) as updates:
            async for fragments in updates:
                changes = find_changes(sent_fragments, fragments)
                if changes:
                    await stream.send(json.encode(changes))
                elif clock() - sent_at > _COMMENT_INTERVAL_S:
                    await stream.send_comment()
                else:
                    continue
                sent_fragments, sent_at = fragments, clock()
                if sent_at > ends_at:
                    break

    async def _retry(self, request: web.Request, _: Viewer) -> web.StreamResponse:
        tickets, job = await self._read_shown_ticket(request)
        results = await self._dependencies.failed_tickets.retry(tickets, self._dependencies.sources)
        result = results[0] if results else RetryResult(job, "gone")
        if result.status == "skipped":
            return redirect(request, "console/failed/show", job=job, result=result.status)
        if result.status == "gone":
            return redirect(request, "console/failed", result=result.status)
        self._log_action("failed_retried", request, job)
        return redirect(request, "console/search", q=result.detail or job, result=result.status)

    async def _drop(self, request: web.Request, _: Viewer) -> web.StreamResponse:
        tickets, job = await self._read_shown_ticket(request)
        results = await self._dependencies.failed_tickets.drop(tickets)
        result = results[0] if results else RetryResult(job, "gone")
        if result.status == "dropped":
            self._log_action("failed_dropped", request, job)
        return redirect(request, "console/failed", result=result.status)

    async def _read_shown_ticket(self, request: web.Request) -> tuple[list[FailedTicket], str]:
        """Return the failed ticket of a form, unless it has failed again since, and its job."""
        digest, _, job = (await read_form_field(request, "job"))[:_MAX_JOB_LENGTH].partition(":")
        tickets = await self._dependencies.failed_tickets.read([job])
        return [ticket for ticket in tickets if ticket.digest == digest], job

    def _log_action(self, event: str, request: web.Request, job: str) -> None:
        """Log who did it, as the command `failed` does."""
        self._dependencies.log.info(event, user=f"console at {request.remote}", count=1, jobs=[job])

    async def _serve_static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound(headers=SECURITY_HEADERS)
        content = self._dependencies.pages.static[name]
        headers = SECURITY_HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
        response = web.Response(body=content, content_type=STATIC[name], headers=headers)
        response.etag = content_digest(content)
        return response
