"""Which knobs are there, what is each one's default, and what does it mean?

The only place that reads the environment. Every field is ``ENRICHER_<NAME>``; secrets may come
from a file instead, named by ``<VARIABLE>_FILE``. Unknown ``ENRICHER_*`` names are refused.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from service.store.address import read_address

PREFIX = "ENRICHER_"
TOKEN_VARIABLE = "LAUNCHDARKLY_ACCESS_TOKEN"  # noqa: S105 - a name, not a token

Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0.001, le=1e9)]


class SettingsError(Exception):
    """A setting that cannot be used; the message names it and the fix."""


class Secret:
    """A value that is never shown."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the value itself, for whom it is meant."""
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
    """Every setting. Times are seconds unless the name says otherwise."""

    access_token: Annotated[
        Secret, _describe("LaunchDarkly API access token; a Reader role is enough")
    ] = Secret("")
    launchdarkly_url: Annotated[str, _describe("Where the LaunchDarkly API is")] = (
        "https://app.launchdarkly.com"
    )
    redis_url: Annotated[
        Secret,
        _describe(
            "`redis[s]://`, `redis[s]+sentinel://`, `redis[s]+cluster://` or `unix://`; "
            "unset: a server of our own is started"
        ),
    ] = Secret("")
    namespace: Annotated[
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")],
        _describe("Prefix of all our keys; one for each LaunchDarkly account"),
    ] = "deployments"
    durability: Annotated[
        Literal["fsync", "replica", "fsync+replica", "memory"],
        _describe("What a webhook waits for before 202: the disk, a replica, both, or nothing"),
    ] = "fsync"
    data_dir: Annotated[
        str, _describe("Where our own server keeps its data, when `REDIS_URL` is unset")
    ] = "~/.local/state/deployment-enricher"
    host: Annotated[str, _describe("Address the door listens on")] = "127.0.0.1"
    port: Annotated[Port, _describe("Port the door listens on; 0: any free one")] = 8080
    metrics_port: Annotated[Port, _describe("Port of a worker's own `/metrics`; 0: none")] = 0
    sources: Annotated[
        str, _describe("TOML file of webhook sources; unset: one source `native`")
    ] = ""
    webhook_secret: Annotated[
        Secret, _describe("Secrets of the source `native`, separated by spaces: any may match")
    ] = Secret("")
    max_body_bytes: Annotated[Positive, _describe("Largest webhook body that is read")] = 1_048_576
    max_answer_bytes: Annotated[Positive, _describe("Largest LaunchDarkly answer that is read")] = (
        33_554_432
    )
    max_pages: Annotated[
        Positive, _describe("Most calls that one deployment may cost; beyond, it is incomplete")
    ] = 200
    backlog_limit: Annotated[
        Positive, _describe("Tickets that may wait; beyond, the door answers 503")
    ] = 1_000_000
    rate_share: Annotated[
        Annotated[float, Meta(ge=0.001, le=1)],
        _describe("Share of each LaunchDarkly limit that is ours; others live on the same quota"),
    ] = 0.8
    concurrency: Annotated[Positive, _describe("Deployments that one worker has in hand")] = 32
    lease: Annotated[Seconds, _describe("When a dead worker's tickets are taken over")] = 30.0
    grace: Annotated[
        Seconds, _describe("How long a stopping worker finishes what it has in hand")
    ] = 25.0
    appear_deadline: Annotated[
        Seconds, _describe("How long LaunchDarkly may not know a deployment before it is failed")
    ] = 900.0
    outage_deadline: Annotated[
        Seconds, _describe("How long an upstream in trouble is tried before a ticket is failed")
    ] = 86_400.0
    resolve_window: Annotated[
        Seconds, _describe("How far back a deployment without an id is sought")
    ] = 86_400.0
    delivery_retention: Annotated[
        Seconds, _describe("How long a delivery is known as a duplicate")
    ] = 259_200.0
    published_retention: Annotated[
        Seconds, _describe("How long a deployment's last revision is known")
    ] = 7_776_000.0
    stream_retention: Annotated[
        Seconds, _describe("How long records stay, but never past the slowest reader group")
    ] = 2_592_000.0
    stream_hard_cap: Annotated[
        Annotated[int, Meta(ge=0)],
        _describe("Most records in the stream, whoever has not read them; 0: no such cap"),
    ] = 0
    failed_retention: Annotated[
        Seconds, _describe("How long given-up tickets are kept for a person")
    ] = 7_776_000.0
    log_format: Annotated[
        Literal["auto", "json", "pretty"], _describe("Log lines; auto: pretty on a terminal")
    ] = "auto"


def variable_of(field: str) -> str:
    """Give the environment variable of a field."""
    return TOKEN_VARIABLE if field == "access_token" else PREFIX + field.upper()


def describe_settings() -> list[tuple[str, str, str]]:
    """List every setting: its variable, its default as text, its meaning."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Settings):
        notes = [note for note in hints[field.name].__metadata__ if isinstance(note, Meta)]
        meaning = next(note.description for note in reversed(notes) if note.description)
        rows.append((variable_of(field.name), _show_default(field.default), meaning))
    return rows


def _show_default(value: object) -> str:
    shown = f"{value:.15g}" if isinstance(value, float) else str(value)
    return "" if isinstance(value, Secret) else shown


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read every setting from the environment; raises :class:`SettingsError`."""
    fields = msgspec.structs.fields(Settings)
    variables = {variable_of(field.name): field.name for field in fields}
    secrets = {variable_of(field.name) for field in fields if isinstance(field.default, Secret)}
    values: dict[str, str] = {}
    for name, value in environ.items():
        if not name.startswith((PREFIX, TOKEN_VARIABLE)) or not value:
            continue
        plain = name.removesuffix("_FILE")
        if name in variables:
            values[variables[name]] = value
        elif plain in secrets and name != plain:
            if environ.get(plain):
                raise SettingsError(f"{plain} and {name} are both set; keep one of them")
            values[variables[plain]] = _read_secret(name, value)
        else:
            raise SettingsError(_name_unknown(name, [*variables, *(f"{s}_FILE" for s in secrets)]))
    return _convert(values)


def _read_secret(name: str, path: str) -> str:
    """Read a secret from its file; who puts the secret itself there must not see it printed."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"{name} names a file that cannot be read: {fault}") from None
    if secret:
        return secret
    raise SettingsError(f"{name} names an empty file")


def _name_unknown(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.8)
    hint = f"; did you mean {near[0]}?" if near else "; `deployment-enricher settings` lists them"
    return f"there is no setting {name}{hint}"


def _convert(values: Mapping[str, str]) -> Settings:
    try:
        settings = msgspec.convert(
            dict(values), Settings, strict=False, dec_hook=lambda _, text: Secret(text)
        )
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        fault = f"is {values[field]!r}: {_say_wanted(field)}"
        raise SettingsError(f"{variable_of(field)} {fault}") from None
    _check_addresses(settings)
    return settings


def _say_wanted(field: str) -> str:
    kind: Any = get_type_hints(Settings, include_extras=True)[field]
    base = get_args(kind)[0]
    if get_origin(base) is Literal:
        return f"give one of {', '.join(get_args(base))}"
    if base is str:
        return "give 1 to 64 letters, digits, '.', '_' or '-'"
    bound = next(note for note in kind.__metadata__ if note.ge is not None)
    highest = "" if bound.le is None else f" to {bound.le:.15g}"
    return f"give a {'whole number' if base is int else 'number'} from {bound.ge:g}{highest}"


def _check_addresses(settings: Settings) -> None:
    """Refuse what no client could use; the Redis URL may hold a password and is not shown."""
    upstream, token = settings.launchdarkly_url, settings.access_token.reveal()
    try:
        read_address(settings.redis_url.reveal() or "unix:///ours")
    except ValueError as error:
        raise SettingsError(f"ENRICHER_REDIS_URL {error}") from None
    if not _is_origin(upstream):
        raise SettingsError(f"ENRICHER_LAUNCHDARKLY_URL is {upstream!r}: give https://host")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{TOKEN_VARIABLE} holds signs that no token has, such as a space")


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"https", "http"} and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return False
