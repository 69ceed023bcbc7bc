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
    TOKEN_VARIABLE,
    VARIABLE_PREFIX,
    Secret,
    Settings,
    SettingsError,
    parse_schedule,
    parse_scopes,
    variable_name,
)
from service.store.address import parse_redis_url

MIN_CONSOLE_TOKEN_LENGTH = 16


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read every setting from the environment; raises :class:`SettingsError`."""
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
            values[variables[name]] = value
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
    """Read a secret from its file; who puts the secret itself there must not see it printed."""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"{name} names a file that cannot be read: {problem}") from None
    if secret:
        return secret
    raise SettingsError(f"{name} names an empty file")


def _format_unknown_setting(name: str, known: list[str]) -> str:
    matches = get_close_matches(name, known, n=1, cutoff=0.8)
    hint = (
        f"; did you mean {matches[0]}?"
        if matches
        else "; `deployment-enricher settings` lists them"
    )
    return f"there is no setting {name}{hint}"


def _build_settings(values: Mapping[str, str]) -> Settings:
    try:
        settings = msgspec.convert(
            dict(values), Settings, strict=False, dec_hook=lambda _, text: Secret(text)
        )
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`")
        problem = f"is {values[field]!r}: {_format_expected(field)}"
        raise SettingsError(f"{variable_name(field)} {problem}") from None
    _check_urls_and_tokens(settings)
    _check_schedule(settings)
    _check_scopes(settings)
    _check_outcomes(settings)
    return settings


def _format_expected(field: str) -> str:
    annotation: Any = get_type_hints(Settings, include_extras=True)[field]
    base = get_args(annotation)[0]
    if get_origin(base) is Literal:
        return f"give one of {', '.join(get_args(base))}"
    if base is str:
        return "give 1 to 64 letters, digits, '.', '_' or '-'"
    limits = next(meta for meta in annotation.__metadata__ if meta.ge is not None)
    upper_limit = "" if limits.le is None else f" to {limits.le:.15g}"
    return f"give a {'whole number' if base is int else 'number'} from {limits.ge:g}{upper_limit}"


def _check_urls_and_tokens(settings: Settings) -> None:
    """Refuse what no client could use; the Redis URL may hold a password and is not shown."""
    upstream, token = settings.launchdarkly_url, settings.access_token.reveal()
    try:
        parse_redis_url(settings.redis_url.reveal() or "unix:///ours")
    except ValueError as error:
        raise SettingsError(f"ENRICHER_REDIS_URL {error}") from None
    if not _is_origin(upstream):
        raise SettingsError(f"ENRICHER_LAUNCHDARKLY_URL is {upstream!r}: give https://host")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{TOKEN_VARIABLE} holds signs that no token has, such as a space")
    if 0 < len(settings.console_token.reveal()) < MIN_CONSOLE_TOKEN_LENGTH:
        raise SettingsError(
            f"ENRICHER_CONSOLE_TOKEN: give at least {MIN_CONSOLE_TOKEN_LENGTH} signs"
        )


def _check_schedule(settings: Settings) -> None:
    """Refuse looks after which nobody would know any more what was published."""
    text, retention_s = settings.refresh_after, settings.published_retention
    try:
        schedule = parse_schedule(text)
    except (ValueError, OverflowError):
        raise SettingsError(
            f"ENRICHER_REVISIONS is {text!r}: give seconds, such as '120 900 3600', or never"
        ) from None
    if schedule and schedule[-1] / 1000 >= retention_s:
        raise SettingsError(
            f"ENRICHER_REVISIONS goes beyond ENRICHER_PUBLISHED_RETENTION ({retention_s:g} s)"
        )


def _check_scopes(settings: Settings) -> None:
    try:
        parse_scopes(settings.reconcile_scopes)
    except ValueError:
        raise SettingsError(
            f"ENRICHER_RECONCILE is {settings.reconcile_scopes!r}: give project/environment"
        ) from None


def _check_outcomes(settings: Settings) -> None:
    """Refuse what would keep everything from being sent."""
    if not {*settings.include_outcomes.split()} <= {"succeeded", "failed"}:
        raise SettingsError(
            f"ENRICHER_ONLY_OUTCOMES is {settings.include_outcomes!r}: give succeeded or failed"
        )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"https", "http"} and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        return False
