"""What is configured here? The sources of webhooks, the log, and what a command must have."""

import asyncio
import os
import signal
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from service.accept.source_auth import ReadSecret, resolve_secret
from service.accept.source_files import ReloadableSources
from service.accept.sources import Source, SourceError, load_sources, native_source
from service.log import Log, build_log
from service.settings import TOKEN_VARIABLE, Settings, SettingsError, read_settings


def open_reloadable_sources(environ: Mapping[str, str], log: Log) -> ReloadableSources:
    """Read the sources, to be read again on demand; raises SourceError."""

    def load() -> dict[str, Source]:
        try:
            return read_sources(read_settings(environ), environ)
        except SettingsError as error:
            raise SourceError(str(error)) from None

    return ReloadableSources(load, log=log)


def read_sources(settings: Settings, environ: Mapping[str, str]) -> dict[str, Source]:
    """Read the sources and their secrets; raises SettingsError or SourceError."""
    return _load_configured_sources(settings, partial(_read_secret, environ=environ))


def inspect_sources(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[dict[str, Source], dict[str, str]]:
    """Read the sources even where secrets are missing, to look at them and never to serve them.

    Gives them by name, and what is wrong with a secret by its place, such as ``env:X``. Raises as
    `read_sources` does when anything else is wrong.
    """
    secret_problems: dict[str, str] = {}

    def read_secret(reference: str) -> str | None:
        try:
            secret = resolve_secret(reference, partial(_read_secret, environ=environ))
        except LookupError as error:
            secret_problems[reference] = str(error).removeprefix(f"{reference} ")
            return None
        if not secret:
            secret_problems[reference] = "is empty"
        return secret or None

    return _load_configured_sources(settings, read_secret), secret_problems


def read_presets() -> str:
    """Read the CD systems that we know, a file each, as one text of TOML."""
    folder = files("service.accept").joinpath("presets")
    texts = [file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file()]
    return "\n".join(sorted(texts))


def open_sources_with_sighup(log: Log) -> ReloadableSources:
    """Read the sources of webhooks, now and at every SIGHUP."""
    sources = open_reloadable_sources(os.environ, log)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, sources.reload)
    return sources


def configure_log(settings: Settings) -> Log:
    """Open the log in the form that is set."""
    pretty = {"auto": None, "pretty": True, "json": False}[settings.log_format]
    return build_log(pretty=pretty)


def require_access_token(settings: Settings) -> None:
    """Refuse to go on where LaunchDarkly could not be asked; raises SettingsError."""
    if not settings.access_token:
        raise SettingsError(f"{TOKEN_VARIABLE} is not set: LaunchDarkly cannot be asked without it")


def require_webhook_secret(settings: Settings) -> str:
    """Give what events are signed with, the first of those that may match; raises SettingsError."""
    secrets = settings.webhook_secret.reveal().split()
    if not secrets:
        raise SettingsError("ENRICHER_WEBHOOK_SECRET is not set: an event cannot be signed")
    return secrets[0]


def require_simulator(settings: Settings) -> None:
    """Refuse to tell the real LaunchDarkly of deployments that never were; raises SettingsError."""
    host = urlsplit(settings.launchdarkly_url).hostname or ""
    if host.endswith(("launchdarkly.com", "launchdarkly.us")):
        raise SettingsError(
            f"ENRICHER_LAUNCHDARKLY_URL is {settings.launchdarkly_url}: what is made up is told to"
            " a simulator only (`simulate`)"
        )


def require_redis(settings: Settings, command: str) -> None:
    """Refuse a command that makes sense only beside others; raises SettingsError."""
    if not settings.redis_url:
        raise SettingsError(
            f"ENRICHER_REDIS_URL is not set: `{command}` shares a Redis with others; "
            "`run` brings its own"
        )


def _load_configured_sources(settings: Settings, read_secret: ReadSecret) -> dict[str, Source]:
    presets = read_presets()
    if settings.sources:
        text = _read_sources_file(settings.sources)
        return load_sources(text, presets=presets, read_secret=read_secret, origin=settings.sources)
    if not settings.webhook_secret:
        raise SettingsError(
            "there is no source of webhooks: set ENRICHER_WEBHOOK_SECRET, or ENRICHER_SOURCES"
        )
    secrets = settings.webhook_secret.reveal().split()
    return {"native": native_source(secrets, presets=presets)}


def _read_sources_file(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:  # ~nobody has no home: a RuntimeError
        raise SettingsError(f"ENRICHER_SOURCES cannot be read: {error}") from None


def _read_secret(reference: str, environ: Mapping[str, str]) -> str:
    """Read what ``env:NAME`` or ``file:PATH`` stands for."""
    kind, _, location = reference.partition(":")
    if kind == "env":
        return environ[location]
    return Path(location).expanduser().read_text(encoding="utf-8").strip()
