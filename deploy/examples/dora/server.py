"""The HTTP server of the pages. They change nothing, and need no sign-in."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

from aiohttp import web

from .deployments import Scope
from .pages import STATIC, Pages
from .periods import PERIODS, Period
from .reader import Reader
from .views import Reading, build_application, build_overview

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",  # the browser keeps a page and asks whether it is current
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CACHED_HEADERS = _HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
_MAX_OFFSET_DIGITS = 9


class DoraServer:
    """Serves the pages of what a reader has read; ``default_period`` is a key of PERIODS."""

    def __init__(self, reader: Reader, *, default_period: str) -> None:
        self._reader = reader
        self._default_period = default_period
        self._pages = Pages()
        self._run_id = secrets.token_hex(8)  # no page of an earlier run is current
        self._error = ""

    def app(self) -> web.Application:
        """Return the application; the reader runs as long as it does."""
        app = web.Application()
        app.router.add_get("/", self._show_overview)
        app.router.add_get("/application", self._show_application)
        app.router.add_get("/static/{name}", self._serve_static)
        app.router.add_get("/{path:.*}", self._show_not_found)
        app.cleanup_ctx.append(self._run_reader)
        return app

    async def _run_reader(self, _: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._read(), name="dora-reader")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            await self._reader.run()
        except Exception as error:  # the pages say why nothing is read any more
            self._error = str(error)
            raise

    async def _show_overview(self, request: web.Request) -> web.Response:
        period, now_ms = self._find_period(request), int(time.time() * 1000)
        etag = self._build_etag(period, now_ms)
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=_HEADERS | {"ETag": etag})
        rows = build_overview(self._reader.history, period, now_ms)
        return _html_response(self._pages.render_overview(rows, period, self._reading()), etag)

    async def _show_application(self, request: web.Request) -> web.Response:
        period, now_ms = self._find_period(request), int(time.time() * 1000)
        etag = self._build_etag(period, now_ms)
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=_HEADERS | {"ETag": etag})
        scope = Scope(*(request.query.get(name, "") for name in Scope._fields))
        start = _parse_offset(request.query.get("start", ""))
        view = build_application(self._reader.history, scope, period, now_ms=now_ms, start=start)
        html = self._pages.render_application(view, period, self._reading(), start=start)
        return _html_response(html, etag)

    async def _show_not_found(self, _: web.Request) -> web.Response:
        return _html_response(self._pages.render_not_found(), "", status=404)

    async def _serve_static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in STATIC:
            return web.Response(status=404, headers=_HEADERS)
        body, content_type = self._pages.static[name], STATIC[name]
        return web.Response(body=body, content_type=content_type, headers=_CACHED_HEADERS)

    def _find_period(self, request: web.Request) -> Period:
        return PERIODS.get(request.query.get("period", "")) or PERIODS[self._default_period]

    def _reading(self) -> Reading:
        reader = self._reader
        return Reading(
            known=len(reader.history),
            is_loaded=reader.is_loaded,
            redis_lost_at=reader.redis_lost_at,
            error=self._error,
        )

    def _build_etag(self, period: Period, now_ms: int) -> str:
        """Return a text that is the same as long as a page would be."""
        reader = self._reader
        state = (reader.history.number, reader.is_loaded, reader.redis_lost_at, bool(self._error))
        return f'"{"-".join(map(str, (self._run_id, period.ends_at(now_ms), *state)))}"'


def _parse_offset(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_OFFSET_DIGITS
    return int(text) if is_number else 0


def _html_response(html: str, etag: str, *, status: int = 200) -> web.Response:
    headers = _HEADERS | ({"ETag": etag} if etag else {})
    return web.Response(text=html, status=status, content_type="text/html", headers=headers)
