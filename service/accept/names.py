"""Which deployment does a body name? In its own words, through the aliases of its source.

A name is passed on as it is written. LaunchDarkly takes only letters, digits, ``.``, ``-`` and
``_`` in a version, so whoever told it of a ``1.4.0+7`` wrote something else there, and only they
know what: a guess of ours could find another deployment. A source says it in its expression, e.g.
``version = "match('^[^+]+', body.version)"``, as the presets do where it is a fact (the hex of a
``sha256:...``, the tag of an image).
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from service.accept.expressions import Expression
from service.accept.sources import Fields, Source, is_valid_key

_DEPLOYMENT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_REQUIRED_KEYS = ("project", "environment", "application", "version")
_INVALID_KEY = "\0"  # stands for a value that is no text; no shape takes it


class MappingError(Struct, frozen=True):
    """Why a deployment cannot be told, and the sender's own words for what is wrong."""

    reason: str
    labels: tuple[str, ...]


def resolve_keys(source: Source, inputs: Mapping[str, object]) -> dict[str, str | None]:
    """Find id, project, environment, application and version; None is not there."""
    fields = source.fields
    return {
        "id": _resolve_key(fields.id, inputs, {}),
        "project": _resolve_key(fields.project, inputs, {}) or source.project,
        "environment": _resolve_key(fields.environment, inputs, source.environments),
        "application": _resolve_key(fields.application, inputs, source.applications),
        "version": _resolve_key(fields.version, inputs, {}),
    }


def check_keys(fields: Fields, keys: Mapping[str, str | None]) -> MappingError | None:
    """Tell what cannot be used, and what is missing where there is no id; all at once."""
    invalid = [
        key
        for key, value in keys.items()
        if value and not (_DEPLOYMENT_ID.fullmatch(value) if key == "id" else is_valid_key(value))
    ]
    missing = [key for key in _REQUIRED_KEYS if not keys[key]] if not keys["id"] else []
    if not invalid and not missing:
        return None
    labels = {key: field_label(getattr(fields, key), key) for key in (*invalid, *missing)}
    problems = [
        f"{problem}: {', '.join(labels[key] for key in problem_keys)}"
        for problem, problem_keys in (("cannot be used", invalid), ("missing", missing))
        if problem_keys
    ]
    return MappingError("; ".join(problems), tuple(labels.values()))


def field_label(expression: Expression | None, key: str) -> str:
    """Give the sender's own name of a field, such as ``projectKey``."""
    return expression.text.removeprefix("body.") if expression else key


def to_text(value: object) -> str | None:
    """Give a text as it is and a whole number as its digits; nothing else names anything."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _resolve_key(
    expression: Expression | None, inputs: Mapping[str, object], aliases: Mapping[str, str]
) -> str | None:
    value = None if expression is None else expression.evaluate(inputs)
    if isinstance(value, str):
        return aliases.get(value, value) or None
    if value is None:
        return None
    text = to_text(value)
    return _INVALID_KEY if text is None else aliases.get(text, text)
