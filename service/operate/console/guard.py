"""Who is let in to the console, and who may post? Asked before anything else is done."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from service.log import EventLogger
from service.operate.console.access import (
    MIN_TOKEN_LENGTH,
    SESSION_S,
    ConsoleAuth,
    cookie_name,
    is_own_origin,
)
from service.operate.console.answers import html_response, read_form_field, redirect
from service.operate.console.pages import ConsolePages, Viewer

ViewerHandler = Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AuthMiddleware:
    """Stands before every page. ``clock`` gives epoch s, ``new_number`` 32 hexadecimal digits."""

    def __init__(
        self,
        auth: ConsoleAuth,
        pages: ConsolePages,
        *,
        clock: Callable[[], float],
        new_session_id: Callable[[], str],
        log: EventLogger,
    ) -> None:
        self._auth = auth
        self._pages = pages
        self._clock = clock
        self._new_session_id = new_session_id
        self._log = log

    def add_routes(self, app: web.Application) -> None:
        """Answer who signs in or out."""
        app.router.add_post("/console/sign-in", self._sign_in)
        app.router.add_post("/console/sign-out", self.protect(self._sign_out))

    def protect(self, handler: ViewerHandler) -> Handler:
        """Let only those in who may; whoever posts must come from a form of ours."""

        async def handle(request: web.Request) -> web.StreamResponse:
            now_s = self._clock()
            session = request.cookies.get(cookie_name(request.host), "")
            is_known = self._auth.is_valid_session(session, now_s=now_s)
            refusal = await self._refuse(request, session if is_known else None)
            if refusal is not None:
                return refusal
            if not is_known:
                session = self._auth.issue_session(now_s=now_s, session_id=self._new_session_id())
            viewer = Viewer(self._auth.csrf_token(session), bool(self._auth.token))
            response = await handler(request, viewer)
            if not is_known and not response.prepared:
                _set_session_cookie(request, response, session)
            return response

        return handle

    async def _refuse(self, request: web.Request, session: str | None) -> web.Response | None:
        """Answer who may not go on; ``held`` is their pass, if they have one."""
        if (reason := self._auth.refusal_reason(request.headers)) is not None:
            return self._respond_not_local(reason)
        if request.method == "POST":
            if session is None or not is_own_origin(request.headers):
                return self._respond_stale_form()
            csrf_token = await read_form_field(request, "mark")
            return (
                None
                if self._auth.is_valid_csrf_token(csrf_token, session=session)
                else self._respond_stale_form()
            )
        if self._auth.token and session is None:
            return html_response(self._pages.render_sign_in(is_wrong_token=False), status=401)
        return None

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        auth = self._auth
        if not auth.token or not is_own_origin(request.headers):
            return self._respond_stale_form()
        if not auth.is_valid_token(await read_form_field(request, "token")):
            self._log.warning("console_refused", peer=request.remote)
            return html_response(self._pages.render_sign_in(is_wrong_token=True), status=401)
        self._log.info("console_entered", peer=request.remote)
        session = auth.issue_session(now_s=self._clock(), session_id=self._new_session_id())
        response = redirect("/")
        _set_session_cookie(request, response, session)
        return response

    async def _sign_out(self, request: web.Request, _: Viewer) -> web.StreamResponse:
        response = redirect("/")
        response.del_cookie(cookie_name(request.host), path="/")
        return response

    def _respond_not_local(self, reason: str) -> web.Response:
        text = (
            f"The console is for this machine alone, and {reason}. To look from elsewhere, "
            f"set ENRICHER_CONSOLE_TOKEN to at least {MIN_TOKEN_LENGTH} signs."
        )
        return html_response(self._pages.render_message("Not from here", text, None), status=403)

    def _respond_stale_form(self) -> web.Response:
        text = "This form was not one of ours, or too old. Go back, reload the page, try again."
        return html_response(self._pages.render_message("Nothing was done", text, None), status=403)


def _set_session_cookie(request: web.Request, response: web.StreamResponse, session: str) -> None:
    is_secure = "https" in {request.scheme, request.headers.get("X-Forwarded-Proto", "")}
    response.set_cookie(
        cookie_name(request.host),
        session,
        max_age=SESSION_S,
        path="/",
        secure=is_secure,
        httponly=True,
        samesite="Strict",
    )
