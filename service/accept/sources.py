"""What is a source? How its webhooks are verified, which of them count, and where they keep what.

A source is TOML; a preset is the same TOML under ``[preset.<name>]``, and whoever names one, a
source or a further preset, says only what differs (``when`` and ``fields`` key by key, anything
else as a whole)::

    [[source]]
    name = "github"                            # POST /webhooks/github
    preset = "github"
    secrets = ["env:GITHUB_WEBHOOK_SECRET"]    # or "file:/path", or the secret; any may match
    project = "default"                        # where the sender names none
    environments = { "Production (EU)" = "prod-eu" }     # sender's name -> key; or as it is
    applications = { "web-frontend" = "web" }            # as environments

    verify = { hmac = "X-Signature" }          # signature.Hmac; or { ed25519 = "<header>" },
                                               # { token = "<header>" }, { query = "<parameter>" },
                                               # the name of a preset, a list of these, or "none"
    when = { "body.action" = "completed" }     # each holds a value, a list of values, or "/regex/"
    outcome = { path = "body.state", succeeded = ["success"], failed = ["error"] }
    dedupe = "headers.x_delivery"              # without it: the digest of the body
    strict = false                             # true: the sender hears (422) of missing fields
    [source.fields]                            # Fields, each an expression (expressions.py)
    version = "body.sha"                       # over {headers, query, body}; headers in snake_case
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from service.accept.checks import Check, prepare_checks
from service.accept.expressions import Expression
from service.accept.lines import KeyPath, find_line
from service.accept.rules import Condition, Outcome, read_condition, read_expression, read_outcome
from service.accept.schemes import ReadSecret, name_place, read_schemes, read_secrets
from service.accept.signature import Scheme
from service.accept.tables import (
    SourceError,
    Table,
    convert_table,
    parse_toml,
    refuse_unknown,
    suggest,
)

__all__ = ["Fields", "Source", "SourceError", "load_sources", "native_source"]

_NATIVE_SECRET = "env:ENRICHER_WEBHOOK_SECRET"  # noqa: S105 - where it is, not what it is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")


class Fields(Struct, frozen=True, kw_only=True):
    """Where a body keeps what we need."""

    id: Expression | None = None
    project: Expression | None = None
    environment: Expression | None = None
    application: Expression | None = None
    version: Expression | None = None
    finished_at: Expression | None = None
    metadata: Expression | None = None
    traceparent: Expression | None = None


class Source(Struct, frozen=True, kw_only=True):
    """One sender of webhooks, ready to be used. Its repr never shows the secrets.

    ``checks`` are its schemes made ready with its secrets: what is asked of each request.
    """

    name: str
    preset: str | None
    schemes: tuple[Scheme, ...]
    checks: tuple[Check, ...]
    secrets: tuple[str, ...]
    secret_places: tuple[str, ...]
    when: tuple[Condition, ...]
    outcome: Outcome
    fields: Fields
    dedupe: Expression | None
    project: str | None
    environments: Mapping[str, str]
    applications: Mapping[str, str]
    strict: bool

    def __repr__(self) -> str:
        return f"Source(name={self.name!r}, preset={self.preset!r}, secrets={len(self.secrets)})"


class _File(Struct, frozen=True):
    source: tuple[dict[str, Any], ...] = ()
    preset: dict[str, dict[str, Any]] = {}


class _SourceTable(Struct, frozen=True, kw_only=True):
    name: str
    preset: str | None = None
    verify: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    secrets: tuple[str, ...] = ()
    when: dict[str, Any] = {}
    outcome: dict[str, Any] = {}
    fields: dict[str, str] = {}
    dedupe: str | None = None
    project: str | None = None
    environments: dict[str, str] = {}
    applications: dict[str, str] = {}
    strict: bool = False


_PRESET_KEYS = tuple(key for key in _SourceTable.__struct_fields__ if key != "name")


def is_name(text: str) -> bool:
    """Tell whether a project, an environment, an application or a version can be called so."""
    return _KEY.fullmatch(text) is not None


def load_sources(
    text: str, *, presets: str, read_secret: ReadSecret, origin: str = "sources.toml"
) -> dict[str, Source]:
    """Read a file of sources, by name; the first thing that is wrong is a SourceError.

    ``presets`` is the text of presets/*.toml. ``read_secret`` gives what ``env:X`` and ``file:/y``
    stand for, and raises LookupError, OSError or ValueError when it cannot. ``origin`` is the name
    of the file: messages begin with it and the line.
    """
    written = parse_toml(text, origin=origin)
    try:
        file = convert_table(written, _File, key=())
        known = _read_presets(presets, file.preset)
    except SourceError as error:
        raise SourceError(f"{origin}:{find_line(text, error.key)[0]}: {error}") from None
    if not file.source:
        raise SourceError(
            f"{origin}: there is no source: add a [[source]] with a name and a preset"
        )
    sources: dict[str, Source] = {}
    for place, table in enumerate(file.source):
        try:
            _refuse_namesake(table, file.source[:place], text)
            source = _read_source(table, known, read_secret)
        except SourceError as error:
            line = _find_line_of(error.key, text, place, file)
            name = json.dumps(table.get("name"), default=str)
            raise SourceError(f"{origin}:{line}: source {name}: {error}") from None
        sources[source.name] = source
    return sources


def native_source(secrets: Sequence[str], *, presets: str) -> Source:
    """Give the source that there is without a file: the native body, signed or with a token."""
    live = iter(secrets)
    table = {"name": "native", "preset": "native", "secrets": [_NATIVE_SECRET] * len(secrets)}
    try:
        return _read_source(table, _read_presets(presets, {}), lambda _: next(live))
    except SourceError as error:
        raise SourceError(f'source "native": {error}') from None


def _read_presets(presets: str, own: Mapping[str, Table]) -> dict[str, Table]:
    """Give the presets that ship, and those of the file with what each of them builds on."""
    known: dict[str, Table] = dict(parse_toml(presets, origin="presets")["preset"])
    for name, preset in own.items():
        refuse_unknown(preset, _PRESET_KEYS, key=("preset", name))
    whole: dict[str, Table] = {}
    for name, preset in own.items():
        others = {other: table for other, table in own.items() if other != name}
        merged = _merge(preset, known | others, key=("preset", name, "preset"))
        whole[name] = {key: value for key, value in merged.items() if key != "preset"}
    return known | whole


def _refuse_namesake(table: Table, before: Sequence[Table], text: str) -> None:
    for place, other in enumerate(before):
        if other.get("name") == table.get("name"):
            line, _ = find_line(text, ("source", place, "name"))
            raise SourceError(f"line {line} has the same; rename one", key=("name",))


def _read_source(written: Table, presets: Table, read_secret: ReadSecret) -> Source:
    name = written.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SourceError("give 1 to 64 letters, digits, '.', '_' or '-'", key=("name",))
    table = convert_table(_merge(written, presets, key=("preset",)), _SourceTable, key=())
    _refuse_unusable(table)
    schemes = read_schemes(table.verify, presets)
    secrets = read_secrets(table.secrets, schemes, read_secret)
    return Source(
        name=name,
        preset=table.preset,
        schemes=schemes,
        checks=prepare_checks(schemes, secrets),
        secrets=secrets,
        secret_places=tuple(name_place(reference) for reference in table.secrets),
        when=tuple(read_condition(text, values) for text, values in table.when.items()),
        outcome=read_outcome(table.outcome),
        fields=_read_fields(table.fields),
        dedupe=None if table.dedupe is None else read_expression(("dedupe",), table.dedupe),
        project=table.project,
        environments=table.environments,
        applications=table.applications,
        strict=table.strict,
    )


def _merge(written: Table, presets: Table, *, key: KeyPath) -> Table:
    """Give what is written, and under it what it builds on; ``key`` is where it says on what."""
    name = written.get("preset")
    if name is None:
        return written
    if not isinstance(name, str) or name not in presets:
        raise SourceError(f"there is no {name!r}{suggest(str(name), presets)}", key=key)
    others = {other: preset for other, preset in presets.items() if other != name}  # no circles
    base = _merge(presets[name], others, key=("preset", name, "preset"))
    merged = {**base, **written}
    for part in ("when", "fields"):
        theirs, own = base.get(part), written.get(part)
        if isinstance(theirs, dict) and isinstance(own, dict):
            merged[part] = theirs | own
    return merged


def _refuse_unusable(table: _SourceTable) -> None:
    """Refuse a name that no deployment can have: each event would be set aside for it."""
    names = {("environments", key): name for key, name in table.environments.items()}
    names |= {("applications", key): name for key, name in table.applications.items()}
    for place, name in [(("project",), table.project), *names.items()]:
        if name is not None and not is_name(name):
            what = "give 1 to 256 characters, and no control characters"
            raise SourceError(what, key=place)


def _read_fields(written: Mapping[str, str]) -> Fields:
    refuse_unknown(written, Fields.__struct_fields__, key=("fields",))
    return Fields(**{key: read_expression(("fields", key), text) for key, text in written.items()})


def _find_line_of(key: KeyPath, text: str, place: int, file: _File) -> int:
    """Find the line of a source's key: in the source, or in a preset of the file under it."""
    table, paths = file.source[place], [find_line(text, ("source", place, *key))]
    for _ in file.preset:
        name = str(table.get("preset"))
        paths.append(find_line(text, ("preset", name, *key)))
        table = file.preset.get(name, {})
    line, _ = max(paths, key=lambda found: found[1])
    return line
