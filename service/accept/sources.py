"""Sources: how a sender's webhooks are verified, which count, and where the body has each value.

A source is a TOML table. A preset is the same table under ``[preset.<name>]``. A source, or another
preset, that names a preset overrides it: ``when`` and ``fields`` key by key, all else as a whole::

    [[source]]
    name = "github"                            # POST /webhooks/github
    preset = "github"
    secrets = ["env:GITHUB_WEBHOOK_SECRET"]    # or "file:/path", or the secret; any may match
    project = "default"                        # used if the webhook names no project
    environments = { "Production (EU)" = "prod-eu" }     # sender's name = LaunchDarkly's key
    applications = { "web-frontend" = "web" }            # other names are used unchanged

    verify = { hmac = "X-Signature" }          # signatures.Hmac; or { ed25519 = "<header>" },
                                               # { token = "<header>" }, { query = "<parameter>" },
                                               # the name of a preset, a list of these, or "none"
    when = { "body.action" = "completed" }     # all must hold: a value, a list, or "/regex/"
    outcome = { path = "body.state", succeeded = ["success"], failed = ["error"] }
    dedupe = "headers.x_delivery"              # the delivery id; without it: a digest of the body
    strict = false                             # true: 422 for missing fields, instead of parking
    report = false                             # true: report each deployment to LaunchDarkly
    [source.fields]                            # Fields, each an expression (expressions.py)
    version = "body.sha"                       # over {headers, query, body}; headers in snake_case

A preset also has ``about``: what to configure at its sender, and where its vendor documents it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from service.accept.expressions import (
    Expression,
    ExpressionError,
    compile_expression,
    compile_regex,
    search_text,
)
from service.accept.named_fields import find_named_fields
from service.accept.signatures import AuthScheme, RequestCheck, build_checks
from service.accept.source_auth import ReadSecret, parse_schemes, resolve_secrets, secret_location
from service.accept.toml_tables import (
    KeyPath,
    SourceError,
    TomlTable,
    convert_table,
    find_similar_name,
    format_suggestion,
    parse_toml,
    refuse_unknown_keys,
)

__all__ = ["Fields", "Source", "SourceError", "load_sources", "native_source"]

EXPRESSION_ROOTS = ("body", "headers", "query", "ce")
"""The parts of a webhook that an expression may read."""

_NATIVE_SECRET_REFERENCE = "env:ENRICHER_WEBHOOK_SECRET"  # noqa: S105 - the name of the secret
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_KEY_LENGTH = 256
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a name that JMESPath reads without quotes
_KEY_PATTERN = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")

RuleValue = str | int | float | bool


class Condition(Struct, frozen=True):
    """An expression, and what it must find: one of some values, or a text that a regex matches."""

    expression: Expression
    values: tuple[RuleValue, ...] = ()
    patterns: tuple[re.Pattern[str], ...] = ()

    def is_met(self, inputs: object) -> bool:
        """Return whether the condition holds over ``{headers, query, body}``."""
        actual = self.expression.evaluate(inputs)
        return _is_one_of(actual, self.values) or any(
            search_text(pattern, actual) for pattern in self.patterns
        )


class OutcomeRule(Struct, frozen=True):
    """The values of an expression that end a deployment; any other value ends none."""

    expression: Expression
    succeeded: tuple[RuleValue, ...]
    failed: tuple[RuleValue, ...]
    started: tuple[RuleValue, ...] = ()

    def decide(self, actual: object) -> Literal["succeeded", "failed"] | None:
        """Return how a deployment ended, from the value found; None if it has not ended."""
        if _is_one_of(actual, self.succeeded):
            return "succeeded"
        return "failed" if _is_one_of(actual, self.failed) else None

    def is_start(self, actual: object) -> bool:
        """Return whether a value says that a deployment started."""
        return _is_one_of(actual, self.started)


class _OutcomeTable(Struct, frozen=True):
    path: str
    succeeded: tuple[RuleValue, ...] = ()
    failed: tuple[RuleValue, ...] = ()
    started: tuple[RuleValue, ...] = ()


def parse_expression(key: KeyPath, text: str) -> Expression:
    """Compile the expression under ``key``; raises SourceError."""
    try:
        expression = compile_expression(text)
        names = find_named_fields([expression]) or {}
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None
    except RecursionError:
        raise SourceError("the expression is nested too deeply; shorten it", key=key) from None
    for name in names:
        if name not in EXPRESSION_ROOTS:
            fixes = " or ".join(_list_fixes_of_root(name, may_be_text=key[0] == "fields"))
            problem = f"an expression reads body, headers, query or ce, not {name!r}"
            raise SourceError(f"{problem}; write {fixes}", key=key)
    return expression


def _list_fixes_of_root(name: str, *, may_be_text: bool) -> Iterator[str]:
    """Yield what the author of an expression may have meant by a name that always gives null."""
    if name.partition(".")[0] in EXPRESSION_ROOTS:
        yield f"{name} without the inner quotes"
        return
    if similar_root := find_similar_name(name, EXPRESSION_ROOTS):
        yield similar_root
    yield f"body.{name}" if _IDENTIFIER.fullmatch(name) else f"body.{json.dumps(name)}"
    if may_be_text:
        yield f"\"'{name}'\" for this text itself"


def _is_constant(expression: Expression) -> bool:
    """Return whether an expression reads nothing of a webhook."""
    return find_named_fields([expression]) == {}


def parse_outcome(raw_table: TomlTable) -> OutcomeRule:
    """Parse the table ``outcome``; raises SourceError."""
    if not raw_table:
        problem = "write path = <expression>, succeeded = [...] and failed = [...]"
        raise SourceError(problem, key=("outcome",))
    table = convert_table(raw_table, _OutcomeTable, key=("outcome",))
    # A source that ignores every webhook on purpose has both lists, and they are empty.
    if not (table.succeeded or table.failed or {"succeeded", "failed"} <= raw_table.keys()):
        problem = 'no webhook can end a deployment; add succeeded = ["<value>"] or failed = [...]'
        raise SourceError(problem, key=("outcome",))
    _refuse_invalid_outcome_values(table)
    key = ("outcome", "path")
    path = parse_expression(key, table.path)
    values = (*table.succeeded, *table.failed, *table.started)
    if _is_constant(path) and not _is_one_of(path.evaluate({}), values):
        problem = f"{table.path} is the same for every webhook, and is none of the values"
        raise SourceError(f"{problem}; write an expression such as body.state", key=key)
    return OutcomeRule(path, table.succeeded, table.failed, table.started)


def _refuse_invalid_outcome_values(table: _OutcomeTable) -> None:
    """Raise SourceError for a value that cannot be found, or that two lists have."""
    for key in ("succeeded", "failed", "started"):
        if any(_is_regex(value) for value in getattr(table, key)):
            problem = "a regex is not allowed here; put it into the path: match('...', ...)"
            raise SourceError(problem, key=("outcome", key))
    for value in table.failed:
        if _is_one_of(value, table.succeeded):
            problem = f"{json.dumps(value)} is in succeeded too; remove it from one of the two"
            raise SourceError(problem, key=("outcome", "failed"))
    ended = (*table.succeeded, *table.failed)
    if any(_is_one_of(value, ended) for value in table.started):
        problem = "a value here must not be one of succeeded or failed"
        raise SourceError(problem, key=("outcome", "started"))


def parse_condition(text: str, raw_values: Any) -> Condition:
    """Parse one row of the table ``when``; raises SourceError."""
    key = ("when", text)
    allowed = raw_values if isinstance(raw_values, list) else [raw_values]
    if not allowed or not all(isinstance(value, RuleValue) for value in allowed):
        problem = 'write a value or a list of values, and the expression in "quotes"'
        raise SourceError(problem, key=key)
    values = tuple(value for value in allowed if not _is_regex(value))
    try:
        patterns = tuple(compile_regex(value[1:-1]) for value in allowed if _is_regex(value))
    except ExpressionError as error:
        raise SourceError(str(error), key=key) from None
    condition = Condition(parse_expression(key, text), values, patterns)
    if _is_constant(condition.expression) and not condition.is_met({}):
        problem = f"{text} is the same for every webhook, and is not what is required"
        raise SourceError(f"{problem}; write an expression such as body.action", key=key)
    return condition


def _is_regex(value: RuleValue) -> bool:
    return isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == "/"


def _is_one_of(actual: object, values: tuple[RuleValue, ...]) -> bool:
    if isinstance(actual, str):
        return actual in values
    is_bool = isinstance(actual, bool)  # true is not 1 in JSON; in Python it is
    return any(actual == value and is_bool is isinstance(value, bool) for value in values)


class Fields(Struct, frozen=True, kw_only=True):
    """An expression for each fact of a deployment that a webhook may hold."""

    id: Expression | None = None
    project: Expression | None = None
    environment: Expression | None = None
    application: Expression | None = None
    version: Expression | None = None
    version_name: Expression | None = None
    started_at: Expression | None = None
    finished_at: Expression | None = None
    metadata: Expression | None = None
    traceparent: Expression | None = None


class Source(Struct, frozen=True, kw_only=True):
    """One sender of webhooks. Its repr never shows the secrets.

    ``checks`` are its schemes with its secrets: a request is genuine if one of them passes.
    ``about`` says what to configure at its sender, in plain text. With ``has_own_verify`` the
    source itself says how it is verified, and the setup page of its preset does not fit. With
    ``report`` a worker reports each deployment that LaunchDarkly does not list.
    """

    name: str
    preset: str | None
    schemes: tuple[AuthScheme, ...]
    checks: tuple[RequestCheck, ...]
    secrets: tuple[str, ...]
    secret_locations: tuple[str, ...]
    when: tuple[Condition, ...]
    outcome: OutcomeRule
    fields: Fields
    dedupe: Expression | None
    project: str | None
    environments: Mapping[str, str]
    applications: Mapping[str, str]
    strict: bool
    report: bool = False
    about: str = ""
    has_own_verify: bool = False

    def __repr__(self) -> str:
        return f"Source(name={self.name!r}, preset={self.preset!r}, secrets={len(self.secrets)})"


class _SourcesFile(Struct, frozen=True):
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
    report: bool = False
    about: str = ""


_PRESET_KEYS = tuple(key for key in _SourceTable.__struct_fields__ if key != "name")


def is_valid_key(text: str) -> bool:
    """Return whether a project, an environment, an application or a version may have this key."""
    # Printable text has no control characters, so that the usual key needs no regex.
    return 0 < len(text) <= _MAX_KEY_LENGTH and (
        text.isprintable() or _KEY_PATTERN.fullmatch(text) is not None
    )


def load_sources(
    text: str, *, presets: str, read_secret: ReadSecret, origin: str = "sources.toml"
) -> dict[str, Source]:
    """Parse a file of sources, by name; SourceError for the first mistake.

    ``presets`` is the text of presets/*.toml. ``read_secret`` returns the secret for ``env:X`` or
    ``file:/y``, or raises LookupError, OSError or ValueError. ``origin`` is the name of the file,
    with which error messages begin.
    """
    document = parse_toml(text, origin=origin)
    try:
        file = convert_table(document, _SourcesFile, key=())
        all_presets = _parse_presets(presets, file.preset)
    except SourceError as error:
        raise SourceError(f"{origin}: {error}") from None
    if not file.source:
        raise SourceError(
            f"{origin}: there is no source: add a [[source]] with a name and a preset"
        )
    sources: dict[str, Source] = {}
    for table in file.source:
        try:
            _refuse_duplicate_name(table, list(sources))
            source = _parse_source(table, all_presets, read_secret)
        except SourceError as error:
            name = json.dumps(table.get("name"), default=str)
            raise SourceError(f"{origin}: source {name}: {error}") from None
        sources[source.name] = source
    return sources


def native_source(secrets: Sequence[str], *, presets: str) -> Source:
    """Return the source that exists without a file: the native body, signed or with a token."""
    remaining_secrets = iter(secrets)
    table = {
        "name": "native",
        "preset": "native",
        "secrets": [_NATIVE_SECRET_REFERENCE] * len(secrets),
    }
    try:
        return _parse_source(table, _parse_presets(presets, {}), lambda _: next(remaining_secrets))
    except SourceError as error:
        raise SourceError(f'source "native": {error}') from None


def _parse_presets(presets: str, file_presets: Mapping[str, TomlTable]) -> dict[str, TomlTable]:
    """Return the shipped presets and those of the file, each merged with the preset it names."""
    shipped_presets: dict[str, TomlTable] = dict(parse_toml(presets, origin="presets")["preset"])
    for name, preset in file_presets.items():
        refuse_unknown_keys(preset, _PRESET_KEYS, key=("preset", name))
    merged_presets: dict[str, TomlTable] = {}
    for name, preset in file_presets.items():
        other_presets = {
            other_name: table for other_name, table in file_presets.items() if other_name != name
        }
        merged = _merge_preset(
            preset, shipped_presets | other_presets, key=("preset", name, "preset")
        )
        merged_presets[name] = {key: value for key, value in merged.items() if key != "preset"}
    return shipped_presets | merged_presets


def _refuse_duplicate_name(table: TomlTable, known_names: Sequence[str]) -> None:
    if table.get("name") in known_names:
        raise SourceError("another source has the same name; rename one", key=("name",))


def _parse_source(raw_table: TomlTable, presets: TomlTable, read_secret: ReadSecret) -> Source:
    name = raw_table.get("name")
    if not isinstance(name, str) or not _SOURCE_NAME.fullmatch(name):
        raise SourceError("use 1 to 64 letters, digits, '.', '_' or '-'", key=("name",))
    table = convert_table(_merge_preset(raw_table, presets, key=("preset",)), _SourceTable, key=())
    _refuse_invalid_keys(table)
    schemes = parse_schemes(table.verify, presets)
    secrets = resolve_secrets(table.secrets, schemes, read_secret)
    source = Source(
        name=name,
        preset=table.preset,
        schemes=schemes,
        checks=build_checks(schemes, secrets),
        secrets=secrets,
        secret_locations=tuple(secret_location(reference) for reference in table.secrets),
        when=tuple(parse_condition(text, values) for text, values in table.when.items()),
        outcome=parse_outcome(table.outcome),
        fields=_parse_fields(table.fields),
        dedupe=None if table.dedupe is None else parse_expression(("dedupe",), table.dedupe),
        project=table.project,
        environments=table.environments,
        applications=table.applications,
        strict=table.strict,
        report=table.report,
        about=table.about.strip(),
        has_own_verify="verify" in raw_table,
    )
    _refuse_incomplete_report(source, raw_table)
    _refuse_unmappable(source)
    return source


def _refuse_incomplete_report(source: Source, raw_table: TomlTable) -> None:
    """Raise SourceError if nothing could be reported as ``report`` promises."""
    if not source.report:
        for section, key in (("outcome", "started"), ("fields", "started_at")):
            if key in raw_table.get(section, {}):
                raise SourceError("it has no effect without report = true", key=(section, key))
        return
    if not source.outcome.succeeded and not source.outcome.failed:
        problem = "this source ends no deployment: there is nothing to report to LaunchDarkly"
        raise SourceError(problem, key=("report",))
    if missing := _list_missing_keys(source):
        problem = f"a report must name the {', '.join(missing)}: add it to the source"
        raise SourceError(problem, key=("report",))


def _refuse_unmappable(source: Source) -> None:
    """Raise SourceError if no webhook can identify its deployment: each would be parked."""
    ends_deployments = source.outcome.succeeded or source.outcome.failed
    missing = _list_missing_keys(source)
    if source.fields.id is not None or not ends_deployments or not missing:
        return
    expressions = ", ".join(f'{key} = "<expression>"' for key in missing if key != "project")
    fixes = ['project = "<key>"'] if "project" in missing else []
    fixes += [f"fields = {{ {expressions} }}"] if expressions else []
    problem = f"no webhook can name the {', '.join(missing)} of its deployment"
    raise SourceError(f"{problem}; add {' and '.join(fixes)}, or add id to the fields")


def _list_missing_keys(source: Source) -> list[str]:
    """Return the keys, other than the id, that neither the source nor a webhook can name."""
    fields = source.fields
    is_named = {
        "project": fields.project is not None or source.project is not None,
        "environment": fields.environment is not None,
        "application": fields.application is not None,
        "version": fields.version is not None,
    }
    return [key for key, named in is_named.items() if not named]


def _merge_preset(table: TomlTable, presets: TomlTable, *, key: KeyPath) -> TomlTable:
    """Return a table over the preset that it names, if any; ``key`` is the key of that name."""
    name = table.get("preset")
    if name is None:
        return table
    if not isinstance(name, str) or name not in presets:
        raise SourceError(f"there is no {name!r}{format_suggestion(str(name), presets)}", key=key)
    # A preset that is being merged is no longer among the presets: no preset can include itself.
    other_presets = {
        other_name: preset for other_name, preset in presets.items() if other_name != name
    }
    base = _merge_preset(presets[name], other_presets, key=("preset", name, "preset"))
    merged = {**base, **table}
    for section in ("when", "fields"):
        base_section, own_section = base.get(section), table.get(section)
        if isinstance(base_section, dict) and isinstance(own_section, dict):
            merged[section] = base_section | own_section
    return merged


def _refuse_invalid_keys(table: _SourceTable) -> None:
    """Raise SourceError for a key that no deployment can have: each event would be parked."""
    keys_by_path = {("environments", key): value for key, value in table.environments.items()}
    keys_by_path |= {("applications", key): value for key, value in table.applications.items()}
    for path, value in [(("project",), table.project), *keys_by_path.items()]:
        if value is not None and not is_valid_key(value):
            problem = "use 1 to 256 characters, and no control characters"
            raise SourceError(problem, key=path)


def _parse_fields(raw_table: Mapping[str, str]) -> Fields:
    refuse_unknown_keys(raw_table, Fields.__struct_fields__, key=("fields",))
    return Fields(
        **{key: parse_expression(("fields", key), text) for key, text in raw_table.items()}
    )
