"""Which sources hold now? Those that were last read without a mistake."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from service.accept.sources import Source
from service.accept.toml_tables import SourceError

LoadSources = Callable[[], Mapping[str, Source]]


class ReloadLog(Protocol):
    """Where facts go: structlog's loggers fit."""

    def info(self, event: str, **fields: object) -> object:
        """Write one fact."""

    def warning(self, event: str, **fields: object) -> object:
        """Write a fact that somebody should look at."""


class ReloadableSources(Mapping[str, Source]):
    """Sources by name, that can be read anew while webhooks come in.

    A webhook is judged by the one source that it found when it came: all sources are swapped at
    once, and a source never changes. ``read`` raises SourceError; at first it is let through.
    """

    def __init__(self, load: LoadSources, *, log: ReloadLog) -> None:
        self._load = load
        self._log = log
        self._sources = load()
        self._reload_error: str | None = None

    def __getitem__(self, name: str) -> Source:
        return self._sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def reload(self) -> None:
        """Read the sources and their secrets anew; with a mistake in them the old ones stay."""
        try:
            new = self._load()
        except SourceError as error:
            self._reload_error = str(error)
            self._log.warning(
                "sources_reload_failed", reason=self._reload_error, sources=sorted(self)
            )
            return
        old, self._sources, self._reload_error = self._sources, new, None
        self._log.info("sources_reloaded", sources=sorted(new), **_diff_sources(old, new))

    def list_warnings(self) -> list[str]:
        """Say what a person should mend although webhooks are taken."""
        if self._reload_error is None:
            return []
        return [
            f"sources: the old ones hold, for the new ones have a mistake: {self._reload_error}"
        ]


def _diff_sources(old: Mapping[str, Source], new: Mapping[str, Source]) -> dict[str, list[str]]:
    """Tell which sources came, which went, and whose secrets are others now."""
    common = old.keys() & new.keys()
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "secrets_changed": sorted(
            name for name in common if old[name].secrets != new[name].secrets
        ),
    }
