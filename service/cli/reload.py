"""SIGHUP while the service runs: what it reads again."""

import asyncio
import os
import signal
from collections.abc import Callable

from service.accept.source_files import ReloadableSources
from service.cli.preconditions import open_reloadable_sources, require_access_token
from service.enrich.access_token import AccessToken
from service.log import EventLogger, Log
from service.settings import SettingsError, read_settings


class Reloads:
    """What is read again at each SIGHUP, in the order in which it was added."""

    def __init__(self) -> None:
        self._reloads: list[Callable[[], None]] = []

    def add(self, reload: Callable[[], None]) -> None:
        """Call ``reload`` at each SIGHUP from now on."""
        self._reloads.append(reload)

    def run(self) -> None:
        """Read everything again."""
        for reload in self._reloads:
            reload()


def handle_sighup() -> Reloads:
    """Let SIGHUP, which would end the process, read again what is added to the result."""
    reloads = Reloads()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.run)
    return reloads


def open_sources(reloads: Reloads, log: Log) -> ReloadableSources:
    """Load the sources now, and again at every SIGHUP; raises SourceError."""
    sources = open_reloadable_sources(os.environ, log)
    reloads.add(sources.reload)
    return sources


def reload_token(access_token: AccessToken, log: EventLogger) -> None:
    """Read the access token from its file again; keep the present one if it cannot be used."""
    try:
        settings = read_settings(os.environ)
        require_access_token(settings)
    except SettingsError as error:
        log.warning("token_reload_failed", reason=str(error))
        return
    log.info("token_reloaded", changed=access_token.replace(settings.access_token.reveal()))
