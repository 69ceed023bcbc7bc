"""Authentication of the console: sign-in by token, signed sessions, CSRF tokens.

A session is kept in a cookie: its end, an id of its own, and a signature. A CSRF token is the
signature of the session that a form was shown to; every form carries it.
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
from service.console.responses import html_response, read_form_field, redirect, root_of
from service.log import EventLogger

SESSION_S = 43_200
MIN_TOKEN_LENGTH = 16

_SESSION_PATTERN = re.compile(r"([0-9]{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class ConsoleAuth(Struct, frozen=True, kw_only=True):
    """The rules of access. Without a token the console serves only this machine.

    ``signing_key`` signs sessions and CSRF tokens. Receivers with the same token share it.
    """

    token: str
    signing_key: bytes

    def refusal_reason(self, headers: Mapping[str, str]) -> str | None:
        """Return why a console without a token refuses a request; None when it does not.

        A foreign page can reach the console under its own host name (DNS rebinding), and a proxy on
        this machine may forward requests from anywhere: without a token both are refused.
        """
        if self.token:
            return None
        if not is_loopback_host(headers.get("Host", "")):
            return "the request names another host"
        if any(name in headers for name in _PROXY_HEADERS):
            return "the request came through a proxy"
        return None

    def is_valid_token(self, token: str) -> bool:
        """Return whether the token is right, in constant time."""
        expected, actual = sha256(self.token.encode()), sha256(token.encode("utf-8", "replace"))
        return hmac.compare_digest(expected.digest(), actual.digest()) and bool(self.token)

    def issue_session(self, *, now_s: float, session_id: str) -> str:
        """Return a new session; ``session_id`` is 32 hexadecimal digits."""
        payload = f"{now_s + SESSION_S:.0f}.{session_id}"
        return f"{payload}.{self._sign('session', payload)}"

    def is_valid_session(self, session: str, *, now_s: float) -> bool:
        """Return whether a session was issued here and has not ended."""
        parts = _SESSION_PATTERN.fullmatch(session)
        if parts is None or int(parts[1]) < now_s:
            return False
        return hmac.compare_digest(self._sign("session", f"{parts[1]}.{parts[2]}"), parts[3])

    def csrf_token(self, session: str) -> str:
        """Return the CSRF token of the forms that a session is shown."""
        return self._sign("csrf", session)

    def is_valid_csrf_token(self, token: str, *, session: str) -> bool:
        """Return whether a CSRF token belongs to a session."""
        return hmac.compare_digest(
            self.csrf_token(session).encode(), token.encode("utf-8", "replace")
        )

    def cookie_name(self, host: str) -> str:
        """Return the name of the session cookie for a host.

        It holds the port, and a part that depends on the token: browsers share cookies among ports,
        and a proxy may serve several consoles at one host.
        """
        port = re.search(r":([0-9]{1,5})$", host)
        name = f"enricher-console-{port[1]}" if port else "enricher-console"
        return f"{name}-{self._sign('cookie', '')[:8]}" if self.token else name

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self.signing_key, f"{purpose}:{text}".encode(), sha256).hexdigest()


def derive_key(token: str) -> bytes:
    """Return the signing key, the same for all receivers that share a token."""
    return hmac.new(token.encode(), b"deployment-enricher console", sha256).digest()


def is_loopback_host(host: str) -> bool:
    """Return whether a host, with or without a port, can only be this machine."""
    name = _parse_hostname(f"//{host}")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a page of this console sent a form, by the headers that browsers add.

    No page can set Sec-Fetch-Site, so it goes first: it is right also behind a proxy that changes
    Host. Browsers send it over HTTPS and to this machine. Else Origin must name the Host. The
    scheme is not compared: a proxy in front of the receiver may terminate TLS.
    """
    fetch_site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if fetch_site is not None or origin is None:
        return fetch_site == "same-origin"
    host = headers.get("Host", "").lower()
    return bool(host) and origin.lower() in {f"http://{host}", f"https://{host}"}


def is_loopback_bind(host: str) -> bool:
    """Return whether only this machine reaches a receiver that listens on ``host``."""
    return is_loopback_host(f"[{host}]" if ":" in host else host)


def _parse_hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


ViewerHandler = Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AuthMiddleware:
    """Authenticates requests before their handlers run.

    ``clock`` returns epoch seconds, ``new_session_id`` 32 hexadecimal digits.
    """

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

    @property
    def asks_for_token(self) -> bool:
        """Whether there is a token."""
        return bool(self._auth.token)

    def replace_token(self, token: str) -> bool:
        """Ask for another token; return whether it is another one, whose sessions begin now."""
        if token == self._auth.token:
            return False
        self._auth = ConsoleAuth(token=token, signing_key=derive_key(token))
        return True

    def add_routes(self, app: web.Application) -> None:
        """Add the routes for signing in and out."""
        app.router.add_post("/console/sign-in", self._sign_in)
        app.router.add_post("/console/sign-out", self.protect(self._sign_out))

    def protect(self, handler: ViewerHandler) -> Handler:
        """Return a handler that refuses requests without a session, forms without a CSRF token."""

        async def handle(request: web.Request) -> web.StreamResponse:
            now_s = self._clock()
            session = request.cookies.get(self._auth.cookie_name(request.host), "")
            is_known = self._auth.is_valid_session(session, now_s=now_s)
            refusal = await self._refuse(request, session if is_known else None)
            if refusal is not None:
                return refusal
            if not is_known:
                session = self._auth.issue_session(now_s=now_s, session_id=self._new_session_id())
            viewer = Viewer(
                root=root_of(request),
                csrf_token=self._auth.csrf_token(session),
                signed_in=bool(self._auth.token),
            )
            response = await handler(request, viewer)
            if not is_known and not response.prepared:
                self._set_session_cookie(request, response, session)
            return response

        return handle

    async def _refuse(self, request: web.Request, session: str | None) -> web.Response | None:
        """Return the response to a request that is refused, else None."""
        if (reason := self._auth.refusal_reason(request.headers)) is not None:
            return self._respond_not_local(request, reason)
        if request.method == "POST":
            if session is None or not is_own_origin(request.headers):
                return self._respond_stale_form(request)
            csrf_token = await read_form_field(request, "csrf_token")
            return (
                None
                if self._auth.is_valid_csrf_token(csrf_token, session=session)
                else self._respond_stale_form(request)
            )
        if self._auth.token and session is None:
            return self._respond_sign_in(request, is_wrong_token=False)
        return None

    async def _sign_in(self, request: web.Request) -> web.StreamResponse:
        auth = self._auth
        if not auth.token or not is_own_origin(request.headers):
            return self._respond_stale_form(request)
        if not auth.is_valid_token(await read_form_field(request, "token")):
            self._log.warning("console_sign_in_failed", peer=request.remote)
            return self._respond_sign_in(request, is_wrong_token=True)
        self._log.info("console_signed_in", peer=request.remote)
        session = auth.issue_session(now_s=self._clock(), session_id=self._new_session_id())
        response = redirect(request, "")
        self._set_session_cookie(request, response, session)
        return response

    async def _sign_out(self, request: web.Request, _: Viewer) -> web.StreamResponse:
        response = redirect(request, "")
        response.del_cookie(self._auth.cookie_name(request.host), path="/")
        return response

    def _respond_sign_in(self, request: web.Request, *, is_wrong_token: bool) -> web.Response:
        stranger = Viewer(root=root_of(request))
        page = self._pages.render_sign_in(stranger, is_wrong_token=is_wrong_token)
        return html_response(page, status=401)

    def _respond_not_local(self, request: web.Request, reason: str) -> web.Response:
        text = (
            f"Without a token the console serves this machine only, and {reason}. To use it from "
            f"elsewhere, set ENRICHER_CONSOLE_TOKEN to at least {MIN_TOKEN_LENGTH} characters."
        )
        return self._respond_refusal(request, "Not allowed", text)

    def _respond_stale_form(self, request: web.Request) -> web.Response:
        text = (
            "The form is too old or came from another site. Reload its page and send it again. If"
            " it is refused again, a proxy in front of the receiver changes the header Host: let it"
            " pass the browser's Host on (nginx: proxy_set_header Host $http_host)."
        )
        return self._respond_refusal(request, "Nothing changed", text)

    def _respond_refusal(self, request: web.Request, title: str, text: str) -> web.Response:
        stranger = Viewer(root=root_of(request))
        return html_response(self._pages.render_message(title, text, stranger), status=403)

    def _set_session_cookie(
        self, request: web.Request, response: web.StreamResponse, session: str
    ) -> None:
        is_secure = "https" in {request.scheme, request.headers.get("X-Forwarded-Proto", "")}
        response.set_cookie(
            self._auth.cookie_name(request.host),
            session,
            max_age=SESSION_S,
            path="/",
            secure=is_secure,
            httponly=True,
            samesite="Strict",
        )
