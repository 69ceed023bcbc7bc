"""Which of the listed deployments is ours?

Senders know a version, LaunchDarkly an id. Either side may hold the full commit SHA and the other
a short one; one version may be deployed to one environment more than once.
"""

from collections.abc import Iterable
from string import hexdigits

from msgspec import Struct

from service.enrich.deployment import Outline

_SHORTEST_SHA = 7
_LONGEST_SHA = 64
_LONG_MS = 900_000  # LaunchDarkly hears of an end later than we do, by minutes where a runner waits
_SKEW_MS = 60_000  # of the sender's clock, and of times that are told in whole minutes


class Sought(Struct, frozen=True):
    """What the sender said: the version, where, and when (epoch ms)."""

    environment: str
    application: str
    version: str
    time_ms: int


def choose_deployment(listed: Iterable[Outline | None], sought: Sought) -> Outline | None:
    """Choose the one deployment meant; None while it is not there yet.

    Of several, one that may have ended by the sender's time goes before one that began after it, an
    equal version before a prefix, then the one that ended (in progress: began) nearest to that
    time, then one that ended before one in progress, then the one that started last.

    So of a version that is deployed again, the deployment in progress is chosen, and waited for,
    rather than the one that ended long before; but not where one ended just then.
    """
    ours = [one for one in listed if one is not None and _is_ours(one, sought)]
    return min(ours, key=lambda one: _distance(one, sought), default=None)


def is_beyond_doubt(one: Outline, sought: Sought) -> bool:
    """Tell whether no other deployment could be meant rather than this one."""
    return _is_ours(one, sought) and not any(_distance(one, sought)[:4])


def ended_long_before(one: Outline, sought: Sought) -> bool:
    """Tell whether one that was chosen may be an earlier deployment of that version.

    The one meant may not be listed yet: what is rolled back to or deployed again was there before.
    """
    moment = one.ended_at or one.started_at
    if moment is None or one.is_unfinished:
        return False
    return moment < sought.time_ms - _LONG_MS


def versions_match(one: str, other: str) -> bool:
    """Tell whether two versions are the same, or one the short SHA of the other.

    All digits are a build number or a date: 20260101 is no short form of 202601012.
    """
    if one == other:
        return True
    short, full = sorted((one.lower(), other.lower()), key=len)
    are_shas = _is_sha(short) and _is_sha(full) and not full.isdecimal()
    return are_shas and full.startswith(short)


def _is_sha(text: str) -> bool:
    return _SHORTEST_SHA <= len(text) <= _LONGEST_SHA and all(sign in hexdigits for sign in text)


def _is_ours(one: Outline, sought: Sought) -> bool:
    return (
        one.application_key == sought.application
        and one.environment_key in {None, sought.environment}
        and one.application_version is not None
        and versions_match(one.application_version, sought.version)
    )


def _distance(one: Outline, sought: Sought) -> tuple[int, int, int, int, int]:
    moment = one.ended_at or one.started_at or 0
    began_after = one.is_unfinished and moment > sought.time_ms + _SKEW_MS
    return (
        int(began_after),
        int(one.application_version != sought.version),
        abs(moment - sought.time_ms),
        int(one.is_unfinished),
        -(one.started_at or 0),
    )
