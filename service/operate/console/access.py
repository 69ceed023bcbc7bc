"""Who may see the console, and who may act on it? Headers and times in, yes or no out.

A pass is what a browser keeps in its cookie: when it ends, a number of its own, and our seal. A
mark is what a form of ours carries: the seal over the pass of whom it was shown to.
"""

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

SESSION_S = 43_200
MIN_TOKEN_LENGTH = 16

_SESSION_PATTERN = re.compile(r"(\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_PROXY_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class ConsoleAuth(Struct, frozen=True, kw_only=True):
    """What stands before the console. Without a token it is for this machine alone.

    ``key`` seals passes and marks: the same for all doors that have one token.
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
    """Make the key that all doors with one token share."""
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
    """Tell whether nobody beyond this machine reaches a door that listens there."""
    return is_loopback_host(f"[{host}]" if ":" in host else host)


def _parse_hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
