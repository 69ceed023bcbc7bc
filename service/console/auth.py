"""Who may see the console, and who may act on it? Headers and times in, yes or no out.

A pass is what a browser keeps in its cookie: when it ends, a number of its own, and our seal. A
mark is what a form of ours carries: the seal over the pass of whom it was shown to.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web
from msgspec import Struct

from service.console.pages import ConsolePages, Viewer
from service.console.responses import html_response, read_form_field, redirect
from service.log import EventLogger

SESSION_S = 43_200
MIN_TOKEN_LENGTH = 16

_SESSION_PATTERN = re.compile(r"(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class ConsoleAuth(Struct, frozen=True, kw_only=True):
    """What stands before the console. Without a token it is for this machine alone.

    ``key`` seals passes and marks: the same for all receivers that have one token.
    """

    token: str
    signing_key: bytes

    def refusal_reason(self, headers: Mapping[str, str]) -> str | None:
        """Say why a request seems not to come from this machine; None when it does, or may not.

        A page of a stranger can reach us under a name of its own (DNS rebinding), and a proxy on
        this machine may speak for the whole world: where no token is asked for, both are refused.
        """
        if self.token:
            return None
        if not is_loopback_host(headers.get("Host", "")):
            return "it was asked for under a name that is not this machine's"
        if any(name in headers for name in _PROXY_HEADERS):
            return "it was asked for through a proxy"
        return None

    def is_valid_token(self, token: str) -> bool:
        """Tell whether somebody knows the token, in the same time whatever was given."""
        expected, actual = sha256(self.token.encode()), sha256(token.encode("utf-8", "replace"))
        return hmac.compare_digest(expected.digest(), actual.digest()) and bool(self.token)

    def issue_session(self, *, now_s: float, session_id: str) -> str:
        """Write a pass with a number (32 hexadecimal digits) of its own."""
        payload = f"{now_s + SESSION_S:.0f}.{session_id}"
        return f"{payload}.{self._sign('pass', payload)}"

    def is_valid_session(self, session: str, *, now_s: float) -> bool:
        """Tell whether this is a pass of ours that has not ended."""
        parts = _SESSION_PATTERN.fullmatch(session)
        if parts is None or int(parts[1]) < now_s:
            return False
        return hmac.compare_digest(self._sign("pass", f"{parts[1]}.{parts[2]}"), parts[3])

    def csrf_token(self, session: str) -> str:
        """Write the mark of the forms shown to whoever holds a pass."""
        return self._sign("mark", session)

    def is_valid_csrf_token(self, token: str, *, session: str) -> bool:
        """Tell whether a form was shown to whoever holds this pass."""
        return hmac.compare_digest(
            self.csrf_token(session).encode(), token.encode("utf-8", "replace")
        )

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self.signing_key, f"{purpose}:{text}".encode(), sha256).hexdigest()


def derive_key(token: str) -> bytes:
    """Make the key that all receivers with one token share."""
    return hmac.new(token.encode(), b"deployment-enricher console", sha256).digest()


def is_loopback_host(host: str) -> bool:
    """Tell whether a host, with or without its port, can only be this machine."""
    name = _parse_hostname(f"//{host}")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Tell whether a form was sent by a page of ours: browsers say from where they post.

    The scheme is left out: before us, a proxy may speak TLS.
    """
    origin, host = headers.get("Origin"), headers.get("Host", "").lower()
    if origin is None:
        return headers.get("Sec-Fetch-Site") == "same-origin"
    return bool(host) and origin.lower() in {f"http://{host}", f"https://{host}"}


def cookie_name(host: str) -> str:
    """Name the cookie of a host: browsers share cookies between the ports of one machine."""
    port = re.search(r":(\d{1,5})$", host)
    return f"enricher-console-{port[1]}" if port else "enricher-console"


def is_loopback_bind(host: str) -> bool:
    """Tell whether nobody beyond this machine reaches a receiver that listens there."""
    return is_loopback_host(f"[{host}]" if ":" in host else host)


def _parse_hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


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
            self._log.warning("console_sign_in_failed", peer=request.remote)
            return html_response(self._pages.render_sign_in(is_wrong_token=True), status=401)
        self._log.info("console_signed_in", peer=request.remote)
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
