"""What is a source? How its webhooks are verified, which of them count, and where they keep what.

A source is TOML; a preset is the same TOML under ``[preset.<name>]``, and a source that names one
says only what differs (``when`` and ``fields`` key by key, anything else as a whole)::

    [[source]]
    name = "github"                            # POST /webhooks/github
    preset = "github"
    secrets = ["env:GITHUB_WEBHOOK_SECRET"]    # or "file:/path", or the secret; any may match
    project = "default"                        # where the sender names none
    environments = { "Production (EU)" = "prod-eu" }     # sender's name -> key; or as it is
    applications = { "web-frontend" = "web" }            # as environments

    verify = { hmac = "X-Signature" }          # signature.Hmac; or { token = "<header>" },
                                               # { query = "<parameter>" }, the name of a preset,
                                               # a list of these, or "none"
    when = { "body.action" = "completed" }     # each holds a value, a list of values, or "/regex/"
    outcome = { path = "body.state", succeeded = ["success"], failed = ["error"] }
    dedupe = "headers.x_delivery"              # without it: the digest of the body
    strict = false                             # true: the sender hears (422) of missing fields
    [source.fields]                            # Fields, each an expression (expressions.py)
    version = "body.sha"                       # over {headers, query, body}; headers in snake_case
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.rules import Condition, Outcome, read_condition, read_expression, read_outcome
from service.accept.schemes import ReadSecret, read_schemes, read_secrets
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

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    """One sender of webhooks, ready to be used. Its repr never shows the secrets."""

    name: str
    preset: str | None
    schemes: tuple[Scheme, ...]
    secrets: tuple[str, ...]
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


def load_sources(text: str, *, presets: str, read_secret: ReadSecret) -> dict[str, Source]:
    """Read a file of sources, by name; the first thing that is wrong is a SourceError.

    ``presets`` is the text of presets.toml. ``read_secret`` gives what ``env:X`` and ``file:/y``
    stand for, and raises LookupError, OSError or ValueError when it cannot.
    """
    file = convert_table(parse_toml(text), _File, key="")
    if not file.source:
        raise SourceError("there is no source: add a [[source]] with a name and a preset")
    known = parse_toml(presets)["preset"] | file.preset
    sources: dict[str, Source] = {}
    for written in file.source:
        source = _read_source(written, known, read_secret)
        if source.name in sources:
            raise SourceError(f'source "{source.name}": name: there are two; rename one')
        sources[source.name] = source
    return sources


def native_source(secrets: Sequence[str], *, presets: str) -> Source:
    """Give the source that there is without a file: the native body, signed or with a token."""
    places = [f"env:{place}" for place in range(len(secrets))]
    return _read_source(
        {"name": "native", "preset": "native", "secrets": places},
        parse_toml(presets)["preset"],
        lambda reference: secrets[places.index(reference)],
    )


def _read_source(written: Table, presets: Table, read_secret: ReadSecret) -> Source:
    name = written.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SourceError(f"source {name!r}: name: give 1 to 64 letters, digits, '.', '_' or '-'")
    try:
        table = convert_table(_merge(written, presets), _SourceTable, key="")
        schemes = read_schemes(table.verify, presets)
        return Source(
            name=name,
            preset=table.preset,
            schemes=schemes,
            secrets=read_secrets(table.secrets, schemes, read_secret),
            when=tuple(read_condition(text, values) for text, values in table.when.items()),
            outcome=read_outcome(table.outcome),
            fields=_read_fields(table.fields),
            dedupe=None if table.dedupe is None else read_expression("dedupe", table.dedupe),
            project=table.project,
            environments=table.environments,
            applications=table.applications,
            strict=table.strict,
        )
    except SourceError as error:
        raise SourceError(f'source "{name}": {error}') from None


def _merge(written: Table, presets: Table) -> Table:
    name = written.get("preset")
    if name is None:
        return written
    if not isinstance(name, str) or name not in presets:
        raise SourceError(f"preset: there is no {name!r}{suggest(str(name), presets)}")
    merged = {**presets[name], **written}
    for key in ("when", "fields"):
        theirs, own = presets[name].get(key), written.get(key)
        if isinstance(theirs, dict) and isinstance(own, dict):
            merged[key] = theirs | own
    return merged


def _read_fields(written: Mapping[str, str]) -> Fields:
    refuse_unknown(written, Fields.__struct_fields__, key="fields")
    return Fields(**{key: read_expression(f"fields.{key}", text) for key, text in written.items()})
