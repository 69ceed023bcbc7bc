"""What a command needs before it starts: sources, log, URLs, and settings that must be set."""

import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

from service.accept.source_files import (
    ReloadableSources,
    inspect_configured_sources,
    read_configured_sources,
)
from service.accept.sources import Source, SourceError
from service.log import LibraryLogHandler, Log, build_log, log_interpreter_errors
from service.settings import TOKEN_VARIABLE, Settings, SettingsError, data_directory, read_settings
from service.store.embedded import socket_path


def open_reloadable_sources(environ: Mapping[str, str], log: Log) -> ReloadableSources:
    """Load the sources from the settings in ``environ``; raises SourceError."""

    def load() -> dict[str, Source]:
        try:
            return read_sources(read_settings(environ), environ)
        except SettingsError as error:
            raise SourceError(str(error)) from None

    return ReloadableSources(load, log=log)


def read_sources(settings: Settings, environ: Mapping[str, str]) -> dict[str, Source]:
    """Read the sources and their secrets; raises SourceError."""
    return read_configured_sources(
        settings.sources, native_secrets=settings.webhook_secret.reveal().split(), environ=environ
    )


def inspect_sources(
    settings: Settings, environ: Mapping[str, str]
) -> tuple[dict[str, Source], dict[str, str]]:
    """Read the sources although secrets may be missing; raises SourceError.

    Returns them by name, and what is wrong with a secret by its location, such as ``env:X``.
    """
    return inspect_configured_sources(
        settings.sources, native_secrets=settings.webhook_secret.reveal().split(), environ=environ
    )


def configure_log(settings: Settings) -> Log:
    """Open the log in the format of the settings; warnings of Python and libraries go there too."""
    pretty = {"auto": None, "pretty": True, "json": False}[settings.log_format]
    log = build_log(pretty=pretty)
    logging.getLogger().addHandler(LibraryLogHandler(log))
    logging.captureWarnings(capture=True)
    log_interpreter_errors(log)
    return log


def require_access_token(settings: Settings) -> None:
    """Raise SettingsError if there is no token for LaunchDarkly's API."""
    if not settings.access_token:
        raise SettingsError(f"{TOKEN_VARIABLE} is not set: LaunchDarkly cannot be asked without it")


def require_webhook_secret(settings: Settings) -> str:
    """Return the secret that signs events, the first of several; SettingsError if there is none."""
    secrets = settings.webhook_secret.reveal().split()
    if not secrets:
        raise SettingsError("ENRICHER_WEBHOOK_SECRET is not set: an event cannot be signed")
    return secrets[0]


def require_simulator(settings: Settings) -> None:
    """Raise SettingsError if invented deployments would be sent to the real LaunchDarkly."""
    host = urlsplit(settings.launchdarkly_url).hostname or ""
    if host.endswith(("launchdarkly.com", "launchdarkly.us")):
        raise SettingsError(
            f"ENRICHER_LAUNCHDARKLY_URL is {settings.launchdarkly_url}: invented deployments are"
            " sent to a simulator only; start one with `simulate` and set its URL"
        )


def require_redis(settings: Settings, command: str) -> None:
    """Raise SettingsError if ``command``, which shares Redis with other processes, has none."""
    if not settings.redis_url:
        raise SettingsError(
            f"ENRICHER_REDIS_URL is not set: `{command}` shares a Redis with others; "
            "`run` brings its own"
        )


def resolve_redis_url(settings: Settings) -> str:
    """Return the configured Redis URL, or that of the embedded server if none is set.

    Raises SettingsError if the folder of the embedded server cannot be found.
    """
    if settings.redis_url:
        return settings.redis_url.reveal()
    return f"unix://{socket_path(data_directory(settings))}"


def local_receiver_url(settings: Settings) -> str:
    """Return the URL on which the receiver of this machine listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"
