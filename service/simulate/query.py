"""What does the query of a list call ask for?"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from service.simulate.answers import Reason

_DAY = 24 * 60 * 60 * 1000
_DEFAULT_LIMIT = 20
_MOST_LIMIT = 100
_DEFAULT_DAYS = 7
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Query(msgspec.Struct, frozen=True, kw_only=True):
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


def read_query(
    raw: Mapping[str, str], required: Sequence[str], now: int
) -> Query | tuple[Reason, ...]:
    """Read a list query, or say what is wrong with each attribute.

    Defaults as documented: 20 items (at most 100), from 7 days ago until now.
    """
    wrong = [
        Reason(attribute=name, reason="must be present") for name in required if not raw.get(name)
    ]
    numbers = {"from": now - _DEFAULT_DAYS * _DAY, "to": now, "limit": _DEFAULT_LIMIT}
    for name in numbers:
        if text := raw.get(name):
            try:
                numbers[name] = msgspec.convert(text, _Int64, strict=False)
            except msgspec.ValidationError:
                wrong.append(Reason(attribute=name, reason="must be an integer"))
    if not 1 <= numbers["limit"] <= _MOST_LIMIT:
        wrong.append(Reason(attribute="limit", reason=f"must be between 1 and {_MOST_LIMIT}"))
    if wrong:
        return tuple(wrong)
    return Query(
        project=raw.get("projectKey", ""),
        environment=raw.get("environmentKey", ""),
        applications=read_list(raw.get("applicationKey", "")),
        start=numbers["from"],
        end=numbers["to"],
        limit=numbers["limit"],
        expand=read_list(raw.get("expand", "")),
        after=raw.get("after", ""),
        before=raw.get("before", ""),
        status=raw.get("status", ""),
        kind=raw.get("kind", ""),
        text=raw.get("query", ""),
        sort=raw.get("sort", ""),
    )


def read_list(text: str) -> frozenset[str]:
    """Read a comma-separated list."""
    return frozenset(part.strip() for part in text.split(",") if part.strip())
