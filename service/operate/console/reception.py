"""What is answered at ``/`` and below ``/console``? Whoever may not see it is turned away first."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial

from aiohttp import web
from msgspec import Struct, json
from redis.exceptions import RedisError

from service.accept.sources import Source
from service.backlog.failed import FailedOnes, Fate
from service.backlog.failure import Failed
from service.log import FactLog
from service.operate.console.answers import HEADERS, SLOWEST_S, go_to, read_field, write_page
from service.operate.console.guard import Act, Guard, Handler
from service.operate.console.pages import STATIC, Pages, Reader, digest_of
from service.operate.console.seeking import LONGEST_WORDS, Seeker
from service.operate.console.watching import Frame, Full, Watch
from service.store import Unavailable
from service.store.connect import AWAY, describe_trouble

_PAGE = 40
_LONGEST_JOB = 4096
_FOLLOW_S = 900.0  # then a browser comes again by itself, and its pass is looked at anew


class Collaborators(Struct, frozen=True, kw_only=True):
    """All that the console is handed; ``clock`` gives epoch seconds."""

    guard: Guard
    pages: Pages
    watch: Watch
    seeker: Seeker
    ones: FailedOnes
    sources: Mapping[str, Source]
    clock: Callable[[], float]
    log: FactLog


class Console:
    """The pages that a person looks at, and the two things that can be done there."""

    def __init__(self, hands: Collaborators) -> None:
        self._do = hands

    def add_to(self, app: web.Application) -> None:
        """Answer under ``/`` and ``/console``; look while the application runs."""
        pages = {
            "/": self._show_overview,
            "/console/failed": self._show_failed,
            "/console/failed/show": self._show_failure,
            "/console/search": self._show_search,
            "/console/live": self._follow,
        }
        for path, act in pages.items():
            app.router.add_get(path, self._protect(act), allow_head=False)
        app.router.add_post("/console/failed/retry", self._protect(self._retry))
        app.router.add_post("/console/failed/drop", self._protect(self._drop))
        self._do.guard.add_to(app)
        app.router.add_get("/console/static/{name}", self._give_static)
        app.on_shutdown.append(self._end)
        app.cleanup_ctx.append(self._look)

    async def _look(self, _: web.Application) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._do.watch.keep_looking(), name="console")
        yield
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    async def _end(self, _: web.Application) -> None:
        self._do.watch.end()

    def _protect(self, act: Act) -> Handler:
        return self._do.guard.protect(partial(self._attempt, act))

    async def _attempt(self, act: Act, request: web.Request, reader: Reader) -> web.StreamResponse:
        try:
            return await act(request, reader)
        except Unavailable as error:
            trouble = str(error)
        except (*AWAY, RedisError) as error:
            trouble = describe_trouble(error)
        page = self._do.pages.write_told("Redis is away", trouble, reader)
        return write_page(page, status=503)

    async def _show_overview(self, _: web.Request, reader: Reader) -> web.StreamResponse:
        return write_page(self._do.pages.write_overview(await self._do.watch.see(), reader))

    async def _show_failed(self, request: web.Request, reader: Reader) -> web.StreamResponse:
        asked = request.query.get("from", "0")
        first = int(asked) if asked.isascii() and asked.isdigit() and len(asked) <= 9 else 0  # noqa: PLR2004 - so many digits are no overflow
        failures, total = await self._do.ones.read_page(first, _PAGE)
        page = self._do.pages.write_failed(
            failures,
            reader,
            now_ms=await self._do.ones.tell_time(),
            total=total,
            older=str(first + _PAGE) if first + _PAGE < total else "",
            fate=request.query.get("fate", ""),
        )
        return write_page(page)

    async def _show_failure(self, request: web.Request, reader: Reader) -> web.StreamResponse:
        found = await self._do.ones.read([request.query.get("job", "")[:_LONGEST_JOB]])
        if not found:
            told = "It is not among the failed: it was taken up again, dropped, or never there."
            return write_page(self._do.pages.write_told("Not here", told, reader), status=404)
        fate = request.query.get("fate", "")
        return write_page(self._do.pages.write_failure(found[0], reader, fate=fate))

    async def _show_search(self, request: web.Request, reader: Reader) -> web.StreamResponse:
        words = request.query.get("q", "").strip()[:LONGEST_WORDS]
        findings = await self._do.seeker.seek(words) if words else None
        page = self._do.pages.write_search(
            findings,
            reader,
            now_ms=await self._do.ones.tell_time(),
            fate=request.query.get("fate", ""),
        )
        return write_page(page)

    async def _follow(self, request: web.Request, _: Reader) -> web.StreamResponse:
        """Send the parts that changed, as they change, until somebody ends it."""
        ends_at = self._do.clock() + _FOLLOW_S
        headers = HEADERS | {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        sent: Frame = {}
        try:
            async with aclosing(self._do.watch.follow()) as frames:
                async for frame in frames:
                    if not response.prepared:
                        await response.prepare(request)
                    changed = {name: html for name, html in frame.items() if sent.get(name) != html}
                    sent = frame
                    async with asyncio.timeout(SLOWEST_S):
                        await response.write(b"data: %b\n\n" % json.encode(changed))
                    if self._do.clock() > ends_at:
                        break
        except Full:
            return web.Response(status=503, headers=HEADERS | {"Retry-After": "5"})
        except (OSError, TimeoutError):
            return response  # who watched is gone
        return response if response.prepared else web.Response(status=503, headers=HEADERS)

    async def _retry(self, request: web.Request, _: Reader) -> web.StreamResponse:
        batch, job = await self._find_meant(request)
        fates = await self._do.ones.retry(batch, self._do.sources)
        fate = fates[0] if fates else Fate(job, "gone")
        if fate.fate == "left":
            return go_to("/console/failed/show", job=job, fate=fate.fate)
        if fate.fate == "gone":
            return go_to("/console/failed", fate=fate.fate)
        self._write_down("failed_retried", request, job)
        return go_to("/console/search", q=fate.detail or job, fate=fate.fate)

    async def _drop(self, request: web.Request, _: Reader) -> web.StreamResponse:
        batch, job = await self._find_meant(request)
        fates = await self._do.ones.drop(batch)
        fate = fates[0] if fates else Fate(job, "gone")
        if fate.fate == "dropped":
            self._write_down("failed_dropped", request, job)
        return go_to("/console/failed", fate=fate.fate)

    async def _find_meant(self, request: web.Request) -> tuple[list[Failed], str]:
        """Read the failure that a form means, if it is still the one that was shown."""
        digest, _, job = (await read_field(request, "job"))[:_LONGEST_JOB].partition(":")
        found = await self._do.ones.read([job])
        return [one for one in found if one.digest == digest], job

    def _write_down(self, fact: str, request: web.Request, job: str) -> None:
        """Write who did it, as `failed` does."""
        self._do.log.info(fact, who=f"console at {request.remote}", count=1, jobs=[job])

    async def _give_static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound(headers=HEADERS)
        content = self._do.pages.static[name]
        headers = HEADERS | {"Cache-Control": "public, max-age=31536000, immutable"}
        response = web.Response(body=content, content_type=STATIC[name], headers=headers)
        response.etag = digest_of(content)
        return response
