"""What do the settings come to? The environment in, every knob as it is turned out.

The only place that reads the environment's values; secrets may come from a file instead, named by
``<VARIABLE>_FILE``. Unknown ``ENRICHER_*`` names are refused.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from service.settings import (
    PREFIX,
    TOKEN_VARIABLE,
    Secret,
    Settings,
    SettingsError,
    read_schedule,
    read_scopes,
    variable_of,
)
from service.store.address import read_address

SHORTEST_CONSOLE_TOKEN = 16


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read every setting from the environment; raises :class:`SettingsError`."""
    variables = {variable_of(name): name for name in Settings.__struct_fields__}
    secrets = {
        variable_of(field.name)
        for field in msgspec.structs.fields(Settings)
        if isinstance(field.default, Secret)
    }
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
    _check_schedule(settings)
    _check_scopes(settings)
    _check_outcomes(settings)
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
    if 0 < len(settings.console_token.reveal()) < SHORTEST_CONSOLE_TOKEN:
        raise SettingsError(f"ENRICHER_CONSOLE_TOKEN: give at least {SHORTEST_CONSOLE_TOKEN} signs")


def _check_schedule(settings: Settings) -> None:
    """Refuse looks after which nobody would know any more what was published."""
    text, kept_s = settings.revisions, settings.published_retention
    try:
        schedule = read_schedule(text)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"ENRICHER_REVISIONS is {text!r}: give seconds, such as '120 900 3600', or never"
        ) from None
    if schedule and schedule[-1] / 1000 >= kept_s:
        raise SettingsError(
            f"ENRICHER_REVISIONS goes beyond ENRICHER_PUBLISHED_RETENTION ({kept_s:g} s)"
        )


def _check_scopes(settings: Settings) -> None:
    try:
        read_scopes(settings.reconcile)
    except ValueError:
        raise SettingsError(
            f"ENRICHER_RECONCILE is {settings.reconcile!r}: give project/environment"
        ) from None


def _check_outcomes(settings: Settings) -> None:
    """Refuse what would keep everything from being sent."""
    if not {*settings.only_outcomes.split()} <= {"succeeded", "failed"}:
        raise SettingsError(
            f"ENRICHER_ONLY_OUTCOMES is {settings.only_outcomes!r}: give succeeded or failed"
        )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"https", "http"} and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return False
