"""Who is let in to the console, and who may post? Asked before anything else is done."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from service.log import FactLog
from service.operate.console.access import (
    PASS_S,
    SHORTEST_TOKEN,
    Gate,
    is_own_origin,
    name_cookie,
)
from service.operate.console.answers import go_to, read_field, write_page
from service.operate.console.pages import Pages, Reader

Act = Callable[[web.Request, Reader], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Stands before every page. ``clock`` gives epoch s, ``new_number`` 32 hexadecimal digits."""

    def __init__(
        self,
        gate: Gate,
        pages: Pages,
        *,
        clock: Callable[[], float],
        new_number: Callable[[], str],
        log: FactLog,
    ) -> None:
        self._gate = gate
        self._pages = pages
        self._clock = clock
        self._new_number = new_number
        self._log = log

    def add_to(self, app: web.Application) -> None:
        """Answer who signs in or out."""
        app.router.add_post("/console/sign-in", self._sign_in)
        app.router.add_post("/console/sign-out", self.protect(self._sign_out))

    def protect(self, act: Act) -> Handler:
        """Let only those in who may; whoever posts must come from a form of ours."""

        async def answer(request: web.Request) -> web.StreamResponse:
            now_s = self._clock()
            held = request.cookies.get(name_cookie(request.host), "")
            known = self._gate.is_pass(held, now_s=now_s)
            refusal = await self._refuse(request, held if known else None)
            if refusal is not None:
                return refusal
            if not known:
                held = self._gate.write_pass(now_s=now_s, number=self._new_number())
            reader = Reader(self._gate.write_mark(held), bool(self._gate.token))
            response = await act(request, reader)
            if not known and not response.prepared:
                _keep_pass(request, response, held)
            return response

        return answer

    async def _refuse(self, request: web.Request, held: str | None) -> web.Response | None:
        """Answer who may not go on; ``held`` is their pass, if they have one."""
        if (reason := self._gate.refuse_place(request.headers)) is not None:
            return self._tell_refused(reason)
        if request.method == "POST":
            if held is None or not is_own_origin(request.headers):
                return self._tell_stale()
            mark = await read_field(request, "mark")
            return None if self._gate.is_mark(mark, held=held) else self._tell_stale()
        if self._gate.token and held is None:
            return write_page(self._pages.write_sign_in(wrong=False), status=401)
        return None

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        gate = self._gate
        if not gate.token or not is_own_origin(request.headers):
            return self._tell_stale()
        if not gate.is_token(await read_field(request, "token")):
            self._log.warning("console_refused", peer=request.remote)
            return write_page(self._pages.write_sign_in(wrong=True), status=401)
        self._log.info("console_entered", peer=request.remote)
        held = gate.write_pass(now_s=self._clock(), number=self._new_number())
        response = go_to("/")
        _keep_pass(request, response, held)
        return response

    async def _sign_out(self, request: web.Request, _: Reader) -> web.StreamResponse:
        response = go_to("/")
        response.del_cookie(name_cookie(request.host), path="/")
        return response

    def _tell_refused(self, reason: str) -> web.Response:
        told = (
            f"The console is for this machine alone, and {reason}. To look from elsewhere, "
            f"set ENRICHER_CONSOLE_TOKEN to at least {SHORTEST_TOKEN} signs."
        )
        return write_page(self._pages.write_told("Not from here", told, None), status=403)

    def _tell_stale(self) -> web.Response:
        told = "This form was not one of ours, or too old. Go back, reload the page, try again."
        return write_page(self._pages.write_told("Nothing was done", told, None), status=403)


def _keep_pass(request: web.Request, response: web.StreamResponse, held: str) -> None:
    is_secure = "https" in {request.scheme, request.headers.get("X-Forwarded-Proto", "")}
    response.set_cookie(
        name_cookie(request.host),
        held,
        max_age=PASS_S,
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="Strict",
    )
