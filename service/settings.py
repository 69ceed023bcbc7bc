"""The settings: each field of `Settings` is the environment variable ``ENRICHER_<NAME>``.

A secret may also come from a file, named by ``<VARIABLE>_FILE``. Unknown ``ENRICHER_*`` variables
are refused, so that a misspelled one is noticed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from service.accept.toml_tables import find_similar_name
from service.store.url import is_host_name, parse_redis_url

VARIABLE_PREFIX = "ENRICHER_"
TOKEN_VARIABLE = "LAUNCHDARKLY_ACCESS_TOKEN"  # noqa: S105 - a name, not a token

Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
NEVER = "never"
_MAX_REFRESH_MS = 10**12
_BYTES_FIELDS = {"data_dir", "sources", "webhook_secret"}  # their values need not be UTF-8
Seconds = Annotated[float, Meta(ge=0.001, le=1e9)]


class SettingsError(Exception):
    """A setting that cannot be used; the message names the variable and the fix."""


class Secret:
    """A value that is shown neither by ``repr`` nor in an error."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(set)" if self else "Secret(not set)"


def _describe(text: str) -> Meta:
    return Meta(description=text)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting. Times are in seconds unless the name says otherwise."""

    access_token: Annotated[
        Secret, _describe("LaunchDarkly API access token; Reader, or Writer to report")
    ] = Secret("")
    launchdarkly_url: Annotated[str, _describe("Origin of the LaunchDarkly API")] = (
        "https://app.launchdarkly.com"
    )
    redis_url: Annotated[
        Secret,
        _describe(
            "`redis[s]://`, `redis[s]+sentinel://`, `redis[s]+cluster://` or `unix://`; "
            "unset: `run` and `demo` start a server, `serve` and `work` refuse to start"
        ),
    ] = Secret("")
    namespace: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")],
        _describe("Prefix of all Redis keys; one per LaunchDarkly account"),
    ] = "deployments"
    durability: Annotated[
        Literal["fsync", "replica", "fsync+replica", "server", "memory"],
        _describe("What a 202 waits for: the disk, a replica, both, a durable service or nothing"),
    ] = "fsync"
    data_dir: Annotated[str, _describe("Data folder of the embedded server")] = (
        "~/.local/state/deployment-enricher"
    )
    host: Annotated[str, _describe("Address for the receiver, and for a worker's metrics port")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, _describe("Port on which the receiver listens; 0: any free port")] = 8080
    metrics_port: Annotated[
        Port, _describe("Port of a worker's `/metrics` and `/healthz`; 0: none")
    ] = 0
    console: Annotated[
        Literal["auto", "off"],
        _describe("Console at `/`; auto: on loopback, or elsewhere with a token"),
    ] = "auto"
    console_token: Annotated[
        Secret, _describe("Password of the console, at least 16 characters")
    ] = Secret("")
    sources: Annotated[str, _describe("TOML file with the sources; unset: one source `native`")] = (
        ""
    )
    webhook_secret: Annotated[
        Secret, _describe("Secrets of the source `native`, separated by spaces")
    ] = Secret("")
    enqueue_timeout: Annotated[
        Seconds, _describe("Time for which a webhook waits for Redis; beyond it gets 503")
    ] = 8.0
    max_body_bytes: Annotated[
        Positive, _describe("Largest webhook body in bytes; a larger one gets 413")
    ] = 26_214_400
    max_response_bytes: Annotated[
        Positive,
        _describe(
            "Largest LaunchDarkly response in bytes; "
            "a larger one fails its ticket, a larger further page is left out"
        ),
    ] = 33_554_432
    max_buffered_bytes: Annotated[
        Positive,
        _describe(
            "Memory of a worker for responses, and of a receiver for webhook bodies, in bytes; "
            "beyond, both wait"
        ),
    ] = 134_217_728
    max_record_bytes: Annotated[
        Annotated[int, Meta(ge=1, le=500_000_000)],
        _describe("Largest record in bytes; a larger one fails its ticket (`record_too_large`)"),
    ] = 67_108_864
    max_calls_per_deployment: Annotated[
        Positive, _describe("Most calls per deployment; beyond, its record is incomplete")
    ] = 200
    backlog_limit: Annotated[
        Positive, _describe("Most tickets in the backlog; beyond, webhooks get 503")
    ] = 1_000_000
    rate_limit_share: Annotated[
        Annotated[float, Meta(ge=0.001, le=1)],
        _describe("Part of each rate limit to use; the rest is for others"),
    ] = 0.8
    concurrency: Annotated[
        Positive, _describe("Deployments that one worker fetches at the same time")
    ] = 32
    lease: Annotated[
        Seconds, _describe("Time after which a dead worker's tickets are taken over")
    ] = 30.0
    shutdown_timeout: Annotated[
        Seconds, _describe("Time in which a stopping worker finishes its tickets")
    ] = 25.0
    not_found_timeout: Annotated[
        Seconds, _describe("Time until a deployment unknown to LaunchDarkly fails")
    ] = 900.0
    outage_timeout: Annotated[
        Seconds, _describe("Time for which a LaunchDarkly outage is retried")
    ] = 86_400.0
    lookback: Annotated[Seconds, _describe("How far back to search a deployment without an id")] = (
        86_400.0
    )
    delivery_retention: Annotated[
        Seconds, _describe("Time for which a repeated delivery is a duplicate")
    ] = 259_200.0
    published_retention: Annotated[
        Seconds, _describe("Time for which the last revision is remembered")
    ] = 7_776_000.0
    refresh_after: Annotated[
        str,
        _describe("Seconds after which a record is refreshed with spare calls, or `never`"),
    ] = "120 900 3600 86400"
    flag_events: Annotated[
        Literal["on", "off"],
        _describe("Whether refreshes add what happened to the touched flags, with spare calls"),
    ] = "off"
    flag_event_members: Annotated[
        Literal["on", "off"],
        _describe("Whether flag events name the e-mail address of who made them"),
    ] = "off"
    reconcile_scopes: Annotated[
        str,
        _describe("Scopes `project/environment` to reconcile, separated by spaces; empty: none"),
    ] = ""
    reconcile_interval: Annotated[
        Seconds, _describe("Time between two reconcile runs of a scope")
    ] = 600.0
    include_applications: Annotated[
        str, _describe("Applications to publish, or patterns (`pay-*`); empty: all")
    ] = ""
    include_environments: Annotated[
        str, _describe("Environments to publish, or patterns; empty: all")
    ] = ""
    include_outcomes: Annotated[
        str, _describe("Outcomes to publish: `succeeded`, `failed`; empty: both")
    ] = ""
    stream_retention: Annotated[
        Seconds, _describe("Age at which records are trimmed, unless a group needs them")
    ] = 2_592_000.0
    stream_max_records: Annotated[
        Annotated[int, Meta(ge=0)],
        _describe("Most records in the stream, read or not; 0: no maximum"),
    ] = 0
    idle_group_timeout: Annotated[
        Seconds, _describe("Time after which trimming ignores an idle reader group")
    ] = 604_800.0
    failed_retention: Annotated[
        Seconds, _describe("Time for which failed tickets and parked events are kept")
    ] = 7_776_000.0
    log_format: Annotated[
        Literal["auto", "json", "pretty"],
        _describe("Form of the log; auto: pretty on a terminal, else JSON"),
    ] = "auto"


def parse_schedule(text: str) -> tuple[int, ...]:
    """Return times in seconds, separated by spaces, as ascending ms. Raises ValueError."""
    if text == NEVER:
        return ()
    offsets_ms = sorted({round(float(seconds) * 1000) for seconds in text.split()})
    if any(not 1 <= offset_ms <= _MAX_REFRESH_MS for offset_ms in offsets_ms):
        raise ValueError(text)
    return tuple(offsets_ms)


def data_directory(settings: Settings) -> Path:
    """Return the folder in which the embedded server keeps its data. Raises `SettingsError`."""
    subject = f"ENRICHER_DATA_DIR is {settings.data_dir!r}"
    try:
        folder = Path(settings.data_dir).expanduser()
    except RuntimeError:
        problem = "the home directory for its ~ is unknown; give an absolute path"
        raise SettingsError(f"{subject}: {problem}") from None
    try:
        folder.resolve()
    except RuntimeError:  # Python 3.13 raises none: there the server fails to create the folder
        raise SettingsError(f"{subject}: a symlink in it leads to itself") from None
    return folder


def to_ms(seconds: float) -> int:
    """Return seconds as whole milliseconds, the unit of the Lua scripts."""
    return round(seconds * 1000)


def parse_scopes(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of project and environment. Raises ValueError."""
    pairs = [tuple(scope.split("/")) for scope in dict.fromkeys(text.split())]
    if any(not all(pair) for pair in pairs):
        raise ValueError(text)
    return tuple((project, environment) for project, environment in pairs)


def variable_name(field: str) -> str:
    """Return the environment variable of a field."""
    return TOKEN_VARIABLE if field == "access_token" else VARIABLE_PREFIX + field.upper()


def list_settings() -> list[tuple[str, str, str]]:
    """Return every setting: its variable, its default as text, its meaning with any choices."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Settings):
        metas = [meta for meta in hints[field.name].__metadata__ if isinstance(meta, Meta)]
        meaning = next(meta.description for meta in reversed(metas) if meta.description)
        if choices := _list_choices(hints[field.name]):
            meaning += f"; one of {', '.join(f'`{choice}`' for choice in choices)}"
        rows.append((variable_name(field.name), _format_default(field.default), meaning))
    return rows


def _list_choices(annotation: Any) -> tuple[str, ...]:
    """Return the values that a setting may have; empty if it is not a choice."""
    base = get_args(annotation)[0]
    return get_args(base) if get_origin(base) is Literal else ()


def _format_default(value: object) -> str:
    text = f"{value:.15g}" if isinstance(value, float) else str(value)
    return "" if isinstance(value, Secret) else text


MIN_CONSOLE_TOKEN_LENGTH = 16

# https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
_SERVICE_LINK_NAME = re.compile(
    r"ENRICHER_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)"
)
_SERVICE_LINK = (
    "{} is not a setting but an address that Kubernetes sets for its Service `enricher`: give the"
    " Service another name, or set enableServiceLinks: false in the pod"
)


def list_secret_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the files that the variables ``<VARIABLE>_FILE`` name."""
    return [
        Path(environ[f"{variable_name(field.name)}_FILE"])
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.default, Secret) and environ.get(f"{variable_name(field.name)}_FILE")
    ]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings of an environment. Raises `SettingsError`."""
    variables = {variable_name(name): name for name in Settings.__struct_fields__}
    secret_variables = {
        variable_name(field.name)
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.default, Secret)
    }
    values: dict[str, str] = {}
    for name, value in environ.items():
        if not name.startswith((VARIABLE_PREFIX, TOKEN_VARIABLE)) or not value:
            continue
        base_name = name.removesuffix("_FILE")
        if name in variables:
            is_secret = name in secret_variables
            values[variables[name]] = value if is_secret else value.strip()  # a CR, a blank
        elif base_name in secret_variables and name != base_name:
            if environ.get(base_name):
                raise SettingsError(f"{base_name} and {name} are both set; keep one of them")
            values[variables[base_name]] = _read_secret(name, value)
        else:
            raise SettingsError(
                _format_unknown_setting(
                    name, [*variables, *(f"{variable}_FILE" for variable in secret_variables)]
                )
            )
    return _build_settings(values)


def _read_secret(name: str, path: str) -> str:
    """Return the secret in a file. The path is not printed: it may be the secret by mistake."""
    try:
        secret = Path(path).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingsError(f"{name} names a file that cannot be read: {problem}") from None
    if secret:
        return secret
    raise SettingsError(f"{name} names an empty file")


def _format_unknown_setting(name: str, known: list[str]) -> str:
    if _SERVICE_LINK_NAME.fullmatch(name):
        return _SERVICE_LINK.format(name)
    similar_name = find_similar_name(name, known, prefix=VARIABLE_PREFIX)
    hint = (
        f"; did you mean {similar_name}?"
        if similar_name
        else "; `deployment-enricher settings` lists them"
    )
    return f"there is no setting {name}{hint}"


def _build_settings(values: Mapping[str, str]) -> Settings:
    _check_utf8(values)
    try:
        settings = msgspec.convert(
            dict(values), Settings, strict=False, dec_hook=lambda _, text: Secret(text)
        )
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        if values[field].startswith("tcp://"):
            raise SettingsError(_SERVICE_LINK.format(variable_name(field))) from None
        problem = f"is {values[field]!r}: {_format_expected(field)}"
        raise SettingsError(f"{variable_name(field)} {problem}") from None
    settings = replace(settings, launchdarkly_url=_parse_origin(settings.launchdarkly_url))
    _check_host(settings.host)
    _check_urls_and_tokens(settings)
    _check_schedule(settings)
    _check_scopes(settings)
    _check_outcomes(settings)
    return settings


def is_utf8(text: str) -> bool:
    """Return whether a text can be encoded, which bytes that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_utf8(values: Mapping[str, str]) -> None:
    """Refuse bytes that are not UTF-8, which Python keeps as lone surrogates."""
    for field, value in values.items():
        if field not in _BYTES_FIELDS and not is_utf8(value):
            raise SettingsError(f"{variable_name(field)} is not UTF-8 text")


def _format_expected(field: str) -> str:
    annotation: Any = get_type_hints(Settings, include_extras=True)[field]
    base = get_args(annotation)[0]
    if choices := _list_choices(annotation):
        return f"give one of {', '.join(choices)}"
    if base is str:
        return "give 1 to 64 letters, digits, '.', '_' or '-'"
    limits = next(meta for meta in annotation.__metadata__ if meta.ge is not None)
    upper_limit = "" if limits.le is None else f" to {limits.le:.15g}"
    return f"give a {'whole number' if base is int else 'number'} from {limits.ge:g}{upper_limit}"


def _check_host(host: str) -> None:
    if not is_host_name(host):
        raise SettingsError(f"ENRICHER_HOST is {host!r}: give an address such as 127.0.0.1")


def _check_urls_and_tokens(settings: Settings) -> None:
    """Check the URLs and tokens. The Redis URL is not shown: it may hold a password."""
    token = settings.access_token.reveal()
    try:
        parse_redis_url(settings.redis_url.reveal() or "unix:///ours")
    except ValueError as error:
        raise SettingsError(f"ENRICHER_REDIS_URL {error}") from None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{TOKEN_VARIABLE} holds characters that no token has, such as a space")
    if 0 < len(settings.console_token.reveal()) < MIN_CONSOLE_TOKEN_LENGTH:
        raise SettingsError(
            f"ENRICHER_CONSOLE_TOKEN: give at least {MIN_CONSOLE_TOKEN_LENGTH} characters"
        )


def _check_schedule(settings: Settings) -> None:
    """Refuse a refresh at a time when the last revision is no longer remembered."""
    text, retention_s = settings.refresh_after, settings.published_retention
    try:
        schedule = parse_schedule(text)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"ENRICHER_REFRESH_AFTER is {text!r}: give seconds, such as '120 900 3600', or never"
        ) from None
    if schedule and schedule[-1] / 1000 >= retention_s:
        raise SettingsError(
            f"ENRICHER_REFRESH_AFTER goes beyond ENRICHER_PUBLISHED_RETENTION ({retention_s:g} s)"
        )
    if settings.flag_events == "on" and not schedule:
        raise SettingsError(
            "ENRICHER_FLAG_EVENTS is on, but only refreshes ask for flag events: give times in"
            " ENRICHER_REFRESH_AFTER"
        )


def _check_scopes(settings: Settings) -> None:
    try:
        parse_scopes(settings.reconcile_scopes)
    except ValueError:
        raise SettingsError(
            f"ENRICHER_RECONCILE_SCOPES is {settings.reconcile_scopes!r}: give project/environment"
        ) from None


def _check_outcomes(settings: Settings) -> None:
    """Refuse an outcome that no deployment has."""
    if not {*settings.include_outcomes.split()} <= {"succeeded", "failed"}:
        raise SettingsError(
            f"ENRICHER_INCLUDE_OUTCOMES is {settings.include_outcomes!r}: give succeeded or failed"
        )


def _parse_origin(url: str) -> str:
    """Return ``https://host`` of a URL that may end in a slash. Raises SettingsError.

    A login is not shown, since it may be a password.
    """
    if "@" in url:
        raise SettingsError("ENRICHER_LAUNCHDARKLY_URL holds a login: give https://host only")
    try:
        parts = urlsplit(url)
        is_server = (
            parts.scheme in {"https", "http"} and parts.port != 0 and is_host_name(parts.hostname)
        )
        if is_server and not (parts.path.strip("/") or parts.query or parts.fragment):
            return f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        pass
    raise SettingsError(f"ENRICHER_LAUNCHDARKLY_URL is {url!r}: give https://host only")
