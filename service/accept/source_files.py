"""The files behind the sources: the sources file, secrets, presets and setup pages.

Sources can be reloaded while webhooks arrive.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

from service.accept.source_auth import ReadSecret, resolve_secret
from service.accept.sources import Source, load_sources, native_source
from service.accept.toml_tables import SourceError
from service.log import EventLogger

MIN_SECRET_LENGTH = 16
"""Characters of a webhook secret: a shorter one could be guessed from one signed webhook."""

_WHSEC_PREFIX = "whsec_"  # of a secret of Standard Webhooks

LoadSources = Callable[[], Mapping[str, Source]]


def read_configured_sources(
    path: str, *, native_secrets: Sequence[str], environ: Mapping[str, str]
) -> dict[str, Source]:
    """Read the sources of the file at ``path`` and their secrets; raises SourceError.

    With an empty path there is one source, ``native``, with ``native_secrets``.
    """
    return _read_sources(path, native_secrets, partial(_read_secret, environ=environ))


def inspect_configured_sources(
    path: str, *, native_secrets: Sequence[str], environ: Mapping[str, str]
) -> tuple[dict[str, Source], dict[str, str]]:
    """Read the sources although secrets may be missing; never serve these sources.

    Returns them by name, and what is wrong with a secret by its location, such as ``env:X``.
    Any other mistake raises SourceError, as in `read_configured_sources`.
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

    return _read_sources(path, native_secrets, read_secret), secret_problems


def list_source_files(path: str) -> list[Path]:
    """Return the file of sources at ``path`` and the secret files that it names; none if empty."""
    if not path:
        return []
    try:
        document = tomllib.loads(_read_sources_file(path))
    except (SourceError, ValueError, RecursionError):
        document = {}
    return [_expand_home(name) for name in (path, *_find_secret_files(document))]


def _expand_home(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~nobody has no home
        return Path(name)


def _find_secret_files(value: object) -> Iterator[str]:
    """Yield the path of each ``file:PATH`` in a document of TOML."""
    match value:
        case str() if value.startswith("file:"):
            yield value.removeprefix("file:")
        case dict():
            for inner in value.values():
                yield from _find_secret_files(inner)
        case list():
            for inner in value:
                yield from _find_secret_files(inner)


def read_presets() -> str:
    """Return the shipped presets, one file per CD system, as one text of TOML."""
    folder = files("service.accept").joinpath("presets")
    texts = [
        file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name.endswith(".toml")
    ]
    return "\n".join(sorted(texts))


def read_setup_page(preset: str) -> str | None:
    """Return the setup page of a shipped preset, as Markdown; None if it has no page."""
    page = files("service.accept").joinpath("presets", f"{preset}.md")
    return page.read_text(encoding="utf-8") if page.is_file() else None


class ReloadableSources(Mapping[str, Source]):
    """Sources by name, which can be reloaded while webhooks arrive.

    A reload swaps all sources at once, and a source never changes: a webhook is handled by the one
    source that it found. ``load`` may raise SourceError; the constructor lets it pass.
    """

    def __init__(self, load: LoadSources, *, log: EventLogger) -> None:
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

    def reload(self) -> str | None:
        """Load the sources and their secrets again; on a mistake, keep the present ones.

        Return the mistake, or None.
        """
        try:
            new = self._load()
        except SourceError as error:
            self._reload_error = str(error)
            self._log.warning(
                "sources_reload_failed", reason=self._reload_error, sources=sorted(self)
            )
            return self._reload_error
        old, self._sources, self._reload_error = self._sources, new, None
        self._log.info("sources_reloaded", sources=sorted(new), **_diff_sources(old, new))
        return None

    def list_warnings(self) -> list[str]:
        """Return what a person should fix although webhooks are accepted."""
        if self._reload_error is None:
            return []
        problem = "the last reload failed, and the previous sources are still used"
        return [f"sources: {problem}: {self._reload_error}"]


def _diff_sources(old: Mapping[str, Source], new: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return the names of added and removed sources, and of those with other secrets."""
    common = old.keys() & new.keys()
    return {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "secrets_changed": sorted(
            name for name in common if old[name].secrets != new[name].secrets
        ),
    }


def _read_sources(
    path: str, native_secrets: Sequence[str], read_secret: ReadSecret
) -> dict[str, Source]:
    presets = read_presets()
    if path:
        text = _read_sources_file(path)
        sources = load_sources(text, presets=presets, read_secret=read_secret, origin=path)
        for source in sources.values():
            _check_secret_lengths(source.secrets, f'{path}: source "{source.name}": its secret')
        return sources
    if not native_secrets:
        raise SourceError(
            "there is no source of webhooks: set ENRICHER_WEBHOOK_SECRET, or ENRICHER_SOURCES"
        )
    _check_secret_lengths(native_secrets, "ENRICHER_WEBHOOK_SECRET: its secret")
    return {"native": native_source(native_secrets, presets=presets)}


def _check_secret_lengths(secrets: Sequence[str], subject: str) -> None:
    """Raise SourceError if a secret could be guessed; it is named by its number."""
    for number, secret in enumerate(secrets, 1):
        if len(secret.removeprefix(_WHSEC_PREFIX)) < MIN_SECRET_LENGTH:
            problem = f"{subject} {number} has fewer than {MIN_SECRET_LENGTH} characters"
            raise SourceError(f"{problem}: take one such as `openssl rand -base64 32` prints")


def _read_sources_file(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:  # ~nobody has no home: a RuntimeError
        raise SourceError(f"ENRICHER_SOURCES cannot be read: {error}") from None


def _read_secret(reference: str, environ: Mapping[str, str]) -> str:
    """Return the secret that ``env:NAME`` or ``file:PATH`` refers to."""
    kind, _, location = reference.partition(":")
    if kind == "env":
        return environ[location]
    return Path(location).expanduser().read_text(encoding="utf-8-sig").strip()
