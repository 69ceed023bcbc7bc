"""The outgoing proxy that the environment names for LaunchDarkly, as curl reads it."""

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # not in its stub

LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}
_SCHEMES = {"http", "https"}


class ProxyError(ValueError):
    """A proxy that cannot be used; the message says why, without its login."""


def find_proxy(origin: str, environ: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy for an origin, or None for a direct connection.

    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``ALL_PROXY`` name it, ``NO_PROXY`` names the hosts that
    need none. A name in small letters goes first, and a loopback address never has a proxy. Raises
    ProxyError for a proxy that is not HTTP.
    """
    parts = urlsplit(origin)
    variables = {name: value for name, value in environ.items() if name.lower().endswith("_proxy")}
    values = {name.lower(): value for name, value in variables.items() if value}
    values |= {name: value for name, value in variables.items() if name.islower()}
    host = parts.netloc.rpartition("@")[2]
    no_proxy = {"no": values.get("no_proxy", "")}
    if parts.hostname in LOOPBACK_HOSTS or proxy_bypass_environment(host, no_proxy):
        return None
    proxy = values.get(f"{parts.scheme}_proxy") or values.get("all_proxy")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in _SCHEMES or not urlsplit(proxy).hostname:
        raise ProxyError(
            f"the environment names the proxy {hide_login(proxy)}: only http:// and https:// work"
        )
    return proxy


def hide_login(proxy: str) -> str:
    """Return the URL of a proxy without user and password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
