"""Which of the listed deployments is ours?

Senders know a version, LaunchDarkly an id. Either side may hold the full commit SHA and the other
a short one; one version may be deployed to one environment more than once.
"""

from collections.abc import Iterable
from string import hexdigits

from msgspec import Struct

from service.enrich.deployment import DeploymentHead

_MIN_SHA_LENGTH = 7
_MAX_SHA_LENGTH = 64
_MAX_END_DELAY_MS = (
    900_000  # LaunchDarkly hears of an end later than we do, by minutes where a runner waits
)
_CLOCK_SKEW_MS = 60_000  # of the sender's clock, and of times that are told in whole minutes


class DeploymentQuery(Struct, frozen=True):
    """What the sender said: the version, where, and when (epoch ms)."""

    environment: str
    application: str
    version: str
    time_ms: int


def choose_deployment(
    listed: Iterable[DeploymentHead | None], query: DeploymentQuery
) -> DeploymentHead | None:
    """Choose the one deployment meant; None while it is not there yet.

    Of several, one that may have ended by the sender's time goes before one that began after it, an
    equal version before a prefix, then the one that ended (in progress: began) nearest to that
    time, then one that ended before one in progress, then the one that started last.

    So of a version that is deployed again, the deployment in progress is chosen, and waited for,
    rather than the one that ended long before; but not where one ended just then.
    """
    candidates = [head for head in listed if head is not None and _matches(head, query)]
    return min(candidates, key=lambda head: _rank(head, query), default=None)


def is_exact_match(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Tell whether no other deployment could be meant rather than this one."""
    return _matches(head, query) and not any(_rank(head, query)[:4])


def ended_long_before(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Tell whether one that was chosen may be an earlier deployment of that version.

    The one meant may not be listed yet: what is rolled back to or deployed again was there before.
    """
    time_ms = head.ended_at or head.started_at
    if time_ms is None or head.is_unfinished:
        return False
    return time_ms < query.time_ms - _MAX_END_DELAY_MS


def versions_match(version: str, other_version: str) -> bool:
    """Tell whether two versions are the same, or one the short SHA of the other.

    All digits are a build number or a date: 20260101 is no short form of 202601012.
    """
    if version == other_version:
        return True
    short, full = sorted((version.lower(), other_version.lower()), key=len)
    are_shas = _is_sha(short) and _is_sha(full) and not full.isdecimal()
    return are_shas and full.startswith(short)


def _is_sha(text: str) -> bool:
    return _MIN_SHA_LENGTH <= len(text) <= _MAX_SHA_LENGTH and all(
        char in hexdigits for char in text
    )


def _matches(head: DeploymentHead, query: DeploymentQuery) -> bool:
    return (
        head.application_key == query.application
        and head.environment_key in {None, query.environment}
        and head.application_version is not None
        and versions_match(head.application_version, query.version)
    )


def _rank(head: DeploymentHead, query: DeploymentQuery) -> tuple[int, int, int, int, int]:
    time_ms = head.ended_at or head.started_at or 0
    started_after = head.is_unfinished and time_ms > query.time_ms + _CLOCK_SKEW_MS
    return (
        int(started_after),
        int(head.application_version != query.version),
        abs(time_ms - query.time_ms),
        int(head.is_unfinished),
        -(head.started_at or 0),
    )
