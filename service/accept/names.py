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
from service.accept.sources import Fields, Source, is_name

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_NEEDED = ("project", "environment", "application", "version")
_UNUSABLE = "\0"  # stands for a value that is no text; no shape takes it


class Trouble(Struct, frozen=True):
    """Why a deployment cannot be told, and the sender's own words for what is wrong."""

    reason: str
    words: tuple[str, ...]


def find_names(source: Source, view: Mapping[str, object]) -> dict[str, str | None]:
    """Find id, project, environment, application and version; None is not there."""
    fields = source.fields
    return {
        "id": _find_name(fields.id, view, {}),
        "project": _find_name(fields.project, view, {}) or source.project,
        "environment": _find_name(fields.environment, view, source.environments),
        "application": _find_name(fields.application, view, source.applications),
        "version": _find_name(fields.version, view, {}),
    }


def judge_names(fields: Fields, names: Mapping[str, str | None]) -> Trouble | None:
    """Tell what cannot be used, and what is missing where there is no id; all at once."""
    bad = [
        key
        for key, name in names.items()
        if name and not (_ID.fullmatch(name) if key == "id" else is_name(name))
    ]
    lacking = [key for key in _NEEDED if not names[key]] if not names["id"] else []
    if not bad and not lacking:
        return None
    words = {key: sender_word(getattr(fields, key), key) for key in (*bad, *lacking)}
    problems = [
        f"{problem}: {', '.join(words[key] for key in keys)}"
        for problem, keys in (("cannot be used", bad), ("missing", lacking))
        if keys
    ]
    return Trouble("; ".join(problems), tuple(words.values()))


def sender_word(expression: Expression | None, key: str) -> str:
    """Give the sender's own name of a field, such as ``projectKey``."""
    return expression.text.removeprefix("body.") if expression else key


def to_text(value: object) -> str | None:
    """Give a text as it is and a whole number as its digits; nothing else names anything."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def _find_name(
    expression: Expression | None, view: Mapping[str, object], aliases: Mapping[str, str]
) -> str | None:
    value = None if expression is None else expression.find(view)
    if isinstance(value, str):
        return aliases.get(value, value) or None
    if value is None:
        return None
    name = to_text(value)
    return _UNUSABLE if name is None else aliases.get(name, name)
