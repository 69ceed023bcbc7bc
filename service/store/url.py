"""Redis URLs: one server, or the Sentinel or Cluster nodes that know the current master."""

import re
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from msgspec import Struct

URL_FORMS = (
    "redis://host:6379, rediss://host:6379, redis+sentinel://host:26379,host:26379/name,"
    " redis+cluster://host:6379,host:6379 or unix:///path"
)

_SENTINEL_PORT, _REDIS_PORT = 26379, 6379
_SENTINEL_LOGIN_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}
# Options of redis-py's URLs that change how the server is reached. The others, such as timeouts and
# decode_responses, are ours to set.
_OPTIONS = {"db", "username", "password", "client_name", "protocol"}
_TLS_OPTIONS = {
    *("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"),
    *("ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers"),
}
_VALUES = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
    "protocol": ("2", "3"),
}
# redis-py ignores a database that it cannot read, and then uses database 0.
_DATABASE = re.compile(r"[0-9]{1,9}")


class RedisUrlError(ValueError):
    """A Redis URL that cannot be used: the message says why and quotes no part with a secret."""


class HostPort(Struct, frozen=True):
    """A host and a port."""

    host: str
    port: int


class RedisUrl(Struct, frozen=True, kw_only=True):
    """A parsed Redis URL.

    ``server_url`` is a URL for redis-py: login, database, TLS and options of one server. ``seeds``
    are the nodes to ask for the master; a single server has none. ``master_name`` is the name of
    the master in Sentinel, ``sentinel_login`` the login of the Sentinels themselves.
    """

    kind: Literal["server", "sentinel", "cluster"]
    server_url: str
    seeds: tuple[HostPort, ...] = ()
    master_name: str = ""
    sentinel_login: dict[str, str] = {}


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a Redis URL. Raises RedisUrlError, which does not quote it: it may hold a password.

    The forms for Sentinel and Cluster are those of redis-sentinel-url, limits and other libraries.
    With ``rediss+``, all connections use TLS. ``?sentinel_password=`` is the password of the
    Sentinels, with ``sentinel_username=`` where they have users.
    """
    try:
        parts = urlsplit(url.strip())
        _check_password(parts)
        options = _read_options(parts)
        query = urlencode(options)
        parts = parts._replace(query=query)
        server_url = f"{parts.scheme}://{parts.netloc}{parts.path}{query and f'?{query}'}"
        match parts.scheme:
            case "unix" if parts.path:
                return RedisUrl(kind="server", server_url=server_url)
            case "redis" | "rediss" if is_host_name(parts.hostname) and parts.port != 0:
                _check_database(parts.path.removeprefix("/"), options)
                return RedisUrl(kind="server", server_url=server_url)
            case "redis+sentinel" | "rediss+sentinel":
                return _parse_sentinel_url(parts, options)
            case "redis+cluster" | "rediss+cluster" if parts.path in {"", "/", "/0"}:
                seeds = _parse_seeds(parts, _REDIS_PORT)
                return RedisUrl(kind="cluster", server_url=_format_server_url(parts), seeds=seeds)
    except RedisUrlError:
        raise
    except ValueError:
        pass
    raise RedisUrlError(f"is not a Redis URL: use {URL_FORMS}")


def is_host_name(host: str | None) -> bool:
    """Return whether a host can be looked up: Python raises UnicodeError for any other."""
    try:
        return bool(host and host.encode("idna"))
    except UnicodeError:
        return False


def _check_password(parts: SplitResult) -> None:
    """Raise RedisUrlError if the password seems to hold a ``/``, ``?`` or ``#``, which ends it."""
    behind_host = [parts.path, parts.query.partition("=")[0], parts.fragment]
    if parts.scheme != "unix" and any("@" in part for part in behind_host):
        raise RedisUrlError("is not a Redis URL: percent-encode @, /, ? and # in its password")


def _read_options(parts: SplitResult) -> dict[str, str]:
    """Return the options as redis-py spells them. Raises RedisUrlError for one that is not ours."""
    scheme = parts.scheme
    known = _OPTIONS | (_TLS_OPTIONS if scheme.startswith("rediss") else set())
    known |= _SENTINEL_LOGIN_OPTIONS.keys() if scheme.endswith("+sentinel") else set()
    query = parse_qs(parts.query, keep_blank_values=True)
    options = {name: values[0] for name, values in query.items()}
    for name in options.keys() - known:
        if name in _TLS_OPTIONS:
            raise RedisUrlError(f"has the option {name}, which needs rediss:// instead of redis://")
        shown = name if name.isidentifier() else "its option"
        raise RedisUrlError(f"has an option that is not supported: {shown[:64]}")
    for name, choices in _VALUES.items():
        if name in options:
            options[name] = options[name].lower().removeprefix("cert_")  # Celery demands CERT_NONE
            if options[name] not in choices:
                raise RedisUrlError(f"has the option {name}: give one of {', '.join(choices)}")
    if not _DATABASE.fullmatch(options.get("db", "0")):
        raise RedisUrlError("has the option db: give a number")
    return options


def _check_database(database: str, options: dict[str, str]) -> None:
    """Raise RedisUrlError if the path, or path and options, name no single database."""
    if database and not _DATABASE.fullmatch(database):
        raise RedisUrlError(
            "has a path that is no database: give a number, such as redis://host:6379/0"
        )
    if database and int(database) != int(options.get("db", database)):
        raise RedisUrlError("has two databases: keep the path or the option db")


def _parse_sentinel_url(parts: SplitResult, options: dict[str, str]) -> RedisUrl:
    master_name, _, database = parts.path.removeprefix("/").partition("/")
    if not master_name:
        raise ValueError("the name of the master in Sentinel is missing")
    _check_database(database, options)
    return RedisUrl(
        kind="sentinel",
        server_url=_format_server_url(parts, database=database),
        seeds=_parse_seeds(parts, _SENTINEL_PORT),
        master_name=unquote(master_name),
        sentinel_login={
            option: options[name]
            for name, option in _SENTINEL_LOGIN_OPTIONS.items()
            if name in options
        },
    )


def _parse_seeds(parts: SplitResult, default_port: int) -> tuple[HostPort, ...]:
    """Parse ``host:port,host,...``, because urlsplit accepts only one host."""
    hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    if not all(is_host_name(host.hostname) and host.port != 0 for host in hosts):
        raise ValueError("a host is missing")
    return tuple(HostPort(host.hostname or "", host.port or default_port) for host in hosts)


def _format_server_url(parts: SplitResult, *, database: str = "") -> str:
    """Return the URL of one server; its host is a placeholder, and discovery finds the real one."""
    login, at, _ = parts.netloc.rpartition("@")
    options = {
        name: values[0]
        for name, values in parse_qs(parts.query).items()
        if name not in _SENTINEL_LOGIN_OPTIONS
    }
    scheme = parts.scheme.partition("+")[0]
    return f"{scheme}://{login}{at}master/{database}?{urlencode(options)}"
