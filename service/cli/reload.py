"""Secret files and sources while the service runs: when it reads them again, and what it logs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from service.accept.source_files import ReloadableSources, list_source_files
from service.cli.container_problem import write_problem
from service.cli.preconditions import open_reloadable_sources, require_access_token
from service.console.auth import AuthMiddleware
from service.enrich.access_token import AccessToken
from service.log import EventLogger, Log
from service.settings import Settings, SettingsError, list_secret_files, read_settings

CHECK_INTERVAL_S = 1.0

FileStates = Mapping[Path, tuple[int, ...] | None]


Reload = Callable[[], str | None]
"""Reads something again; returns what is wrong with it, which is logged already."""


class Reloads:
    """What is read again at SIGHUP and when a file changes, in the order in which it was added."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._reloads: list[Reload] = []
        self._states = read_file_states(environ)
        write_problem("", environ)

    def add(self, reload: Reload) -> None:
        """Call ``reload`` at each SIGHUP and after each change from now on."""
        self._reloads.append(reload)

    def run(self) -> None:
        """Read everything again. The image's health check prints what is wrong."""
        self._states = read_file_states(self._environ)
        problems = dict.fromkeys(filter(None, [reload() for reload in self._reloads]))
        write_problem("; ".join(problems), self._environ)

    @asynccontextmanager
    async def watch(self, *, interval_s: float = CHECK_INTERVAL_S) -> AsyncIterator[None]:
        """Look for changed files meanwhile, every ``interval_s``."""
        task = asyncio.create_task(self._watch(interval_s), name="watch-files")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self, interval_s: float) -> None:
        """Reload once changed files stay as they are, so that no half-written one is read."""
        previous = self._states
        while True:
            await asyncio.sleep(interval_s)
            current = read_file_states(self._environ)
            if current not in (self._states, previous):
                previous = current
            elif current != self._states:
                self.run()


def read_file_states(environ: Mapping[str, str]) -> FileStates:
    """Return what changes with the content of each file: by writing to it, or by renaming another.

    A mounted secret may be a symbolic link into a directory that is replaced: links are followed.
    """
    files = list_secret_files(environ) + list_source_files(environ.get("ENRICHER_SOURCES", ""))
    return {file: _read_state(file) for file in files}


def _read_state(file: Path) -> tuple[int, ...] | None:
    try:
        stat = file.stat()
    except (OSError, ValueError):  # a path with a null byte is a ValueError
        return None
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def handle_sighup() -> Reloads:
    """Let SIGHUP, which would end the process, read again what is added to the result."""
    reloads = Reloads(os.environ)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.run)
    return reloads


def open_sources(reloads: Reloads, log: Log) -> ReloadableSources:
    """Load the sources now and at every reload; raises SourceError."""
    sources = open_reloadable_sources(os.environ, log)
    reloads.add(sources.reload)
    return sources


def reload_token(access_token: AccessToken, log: EventLogger) -> str | None:
    """Read the access token from its file again; keep the present one if it cannot be used."""
    try:
        settings = read_settings(os.environ)
        require_access_token(settings)
    except SettingsError as error:
        log.warning("token_reload_failed", reason=str(error))
        return str(error)
    log.info("token_reloaded", changed=access_token.replace(settings.access_token.reveal()))
    return None


def reload_console_token(auth: AuthMiddleware, log: EventLogger) -> str | None:
    """Read the console's token from its file again; keep the present one if it cannot be used."""
    try:
        token = read_settings(os.environ).console_token.reveal()
    except SettingsError as error:
        log.warning("console_token_reload_failed", reason=str(error))
        return str(error)
    log.info("console_token_reloaded", changed=auth.replace_token(token))
    return None


def warn_of_other_redis(settings: Settings, log: EventLogger) -> str | None:
    """Log that another URL of Redis needs a restart: a process keeps its Redis."""
    try:
        redis_url = read_settings(os.environ).redis_url
    except SettingsError as error:
        return str(error)
    if redis_url == settings.redis_url:
        return None
    log.warning("restart_needed", setting="ENRICHER_REDIS_URL")
    return "ENRICHER_REDIS_URL has changed: restart this process to use it"
