"""What does the query of a list call ask for?"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from service.simulate.answers import FieldError

_DAY_MS = 24 * 60 * 60 * 1000
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 100
_DEFAULT_DAYS = 7
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A list query with its defaults filled in. `start` and `end` are epoch milliseconds."""

    project: str
    environment: str
    applications: frozenset[str]
    start: int
    end: int
    limit: int
    expand: frozenset[str]
    after: str
    before: str
    status: str
    kind: str
    text: str
    sort: str


def parse_query(
    parameters: Mapping[str, str], required: Sequence[str], now: int
) -> ListQuery | tuple[FieldError, ...]:
    """Read a list query, or say what is wrong with each attribute.

    Defaults as documented: 20 items (at most 100), from 7 days ago until now.
    """
    errors = [
        FieldError(attribute=name, reason="must be present")
        for name in required
        if not parameters.get(name)
    ]
    numbers = {"from": now - _DEFAULT_DAYS * _DAY_MS, "to": now, "limit": _DEFAULT_LIMIT}
    for name in numbers:
        if text := parameters.get(name):
            try:
                numbers[name] = msgspec.convert(text, _Int64, strict=False)
            except msgspec.ValidationError:
                errors.append(FieldError(attribute=name, reason="must be an integer"))
    if not 1 <= numbers["limit"] <= _MAX_LIMIT:
        errors.append(FieldError(attribute="limit", reason=f"must be between 1 and {_MAX_LIMIT}"))
    if errors:
        return tuple(errors)
    return ListQuery(
        project=parameters.get("projectKey", ""),
        environment=parameters.get("environmentKey", ""),
        applications=parse_list(parameters.get("applicationKey", "")),
        start=numbers["from"],
        end=numbers["to"],
        limit=numbers["limit"],
        expand=parse_list(parameters.get("expand", "")),
        after=parameters.get("after", ""),
        before=parameters.get("before", ""),
        status=parameters.get("status", ""),
        kind=parameters.get("kind", ""),
        text=parameters.get("query", ""),
        sort=parameters.get("sort", ""),
    )


def parse_list(text: str) -> frozenset[str]:
    """Read a comma-separated list."""
    return frozenset(part.strip() for part in text.split(",") if part.strip())
