"""Where may Redis be? A URL, read: one server, or those who know which server it is now."""

from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from msgspec import Struct

WANTED = (
    "redis://host:6379, rediss://host:6379, redis+sentinel://host:26379,host:26379/name,"
    " redis+cluster://host:6379,host:6379 or unix:///path"
)

_SENTINEL_PORT, _REDIS_PORT = 26379, 6379
_LOGIN_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


class Place(Struct, frozen=True):
    """A host and a port where somebody listens."""

    host: str
    port: int


class Address(Struct, frozen=True, kw_only=True):
    """What a URL says. ``places`` are those to ask where the master is; a server has none.

    ``plain`` is the URL as redis-py reads it: login, database, TLS and options, of one server.
    ``service`` is the name that Sentinel knows the master by, ``login`` what Sentinel itself asks.
    """

    kind: Literal["server", "sentinel", "cluster"]
    plain: str
    places: tuple[Place, ...] = ()
    service: str = ""
    login: dict[str, str] = {}


def read_address(url: str) -> Address:
    """Read a Redis URL; raises ValueError, which never repeats it, since it may hold a password.

    The forms for Sentinel and Cluster are those of redis-sentinel-url, limits and others; with
    ``rediss+`` TLS is spoken to all of them. A password that Sentinel itself wants is given as
    ``?sentinel_password=``, with ``sentinel_username=`` where it knows users.
    """
    try:
        parts = urlsplit(url)
        match parts.scheme:
            case "unix" if parts.path:
                return Address(kind="server", plain=url)
            case "redis" | "rediss" if parts.hostname and parts.port != 0:
                return Address(kind="server", plain=url)
            case "redis+sentinel" | "rediss+sentinel":
                return _read_sentinels(parts)
            case "redis+cluster" | "rediss+cluster" if parts.path in {"", "/", "/0"}:
                places = _read_places(parts, _REDIS_PORT)
                return Address(kind="cluster", plain=_write_plain(parts), places=places)
    except ValueError:
        pass
    raise ValueError(f"is no address of a Redis: give {WANTED}")


def _read_sentinels(parts: SplitResult) -> Address:
    service, _, database = parts.path.removeprefix("/").partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("the name that Sentinel knows the master by is missing")
    asked = parse_qs(parts.query)
    return Address(
        kind="sentinel",
        plain=_write_plain(parts, database=database),
        places=_read_places(parts, _SENTINEL_PORT),
        service=unquote(service),
        login={ours: asked[name][0] for name, ours in _LOGIN_OF_SENTINELS.items() if name in asked},
    )


def _read_places(parts: SplitResult, port: int) -> tuple[Place, ...]:
    """Read ``host:port,host,...``; urlsplit itself knows of one host only."""
    hosts = [urlsplit(f"//{each}") for each in parts.netloc.rpartition("@")[2].split(",")]
    if not all(each.hostname and each.port != 0 for each in hosts):
        raise ValueError("a host is missing")
    return tuple(Place(each.hostname or "", each.port or port) for each in hosts)


def _write_plain(parts: SplitResult, *, database: str = "") -> str:
    """Leave all that is not about one server out; the host is found later and stands for none."""
    login, at, _ = parts.netloc.rpartition("@")
    options = {
        name: values[0]
        for name, values in parse_qs(parts.query).items()
        if name not in _LOGIN_OF_SENTINELS
    }
    scheme = parts.scheme.partition("+")[0]
    return f"{scheme}://{login}{at}master/{database}?{urlencode(options)}"
