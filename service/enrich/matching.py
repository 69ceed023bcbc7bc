"""Which of the tickets that wait does a listed deployment answer?

One list call can answer many tickets of one project and environment: some know the id of their
deployment, some only its version. A ticket is answered at once by what no later page can better,
else when all pages are read, by the best of what they held.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from string import hexdigits

from msgspec import Raw, Struct

from service.enrich.models import DeploymentHead, Drift, parse_head, parse_list_item

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


class Match(Struct, frozen=True):
    """A listed deployment: what could be read of it, all of it or its outline.

    ``body`` is its JSON, bytes as sent, or None where it was not kept. ``old``: it ended long
    before the sender says, so the one meant may be still to come.
    """

    head: DeploymentHead
    body: Raw | None
    may_be_earlier: bool = False


class NoMatch(Struct, frozen=True):
    """Not on any page; ``unreadable`` is an item that could not be read, should it be the one."""

    unreadable: tuple[Drift, bytes] | None = None


class ListMatcher:
    """Who seeks what: jobs by the id of their deployment, or by what they know instead.

    At most ``most_kept`` bytes of pages stay in memory; of what comes later only the id is kept.
    """

    def __init__(
        self,
        *,
        deployment_ids: Mapping[str, str],
        queries: Mapping[str, DeploymentQuery],
        max_buffered_bytes: int,
    ) -> None:
        self._jobs_by_id: dict[str, list[str]] = defaultdict(list)
        for job, deployment_id in deployment_ids.items():
            self._jobs_by_id[deployment_id.lower()].append(job)
        self._queries = dict(queries)
        self._jobs_by_version: dict[tuple[str, str], list[str]] = defaultdict(list)
        for job, query in queries.items():
            self._jobs_by_version[query.application, _version_prefix(query.version)].append(job)
        self._unmatched = {*deployment_ids, *queries}
        self._candidates: dict[str, dict[str, DeploymentHead]] = defaultdict(dict)
        self._bodies: dict[str, Raw] = {}
        self._buffer_left = max_buffered_bytes
        self._unreadable: tuple[Drift, bytes] | None = None

    @property
    def is_done(self) -> bool:
        """Tell whether every job has its answer."""
        return not self._unmatched

    @property
    def has_only_ids(self) -> bool:
        """Tell whether every job knows the id of its deployment, so that it could ask for it."""
        return not self._queries

    def list_unmatched(self) -> list[str]:
        """List the jobs that have no answer yet."""
        return sorted(self._unmatched)

    def match_page(self, items: Iterable[Raw], *, body_bytes: int) -> Iterator[tuple[str, Match]]:
        """Look through one page of ``size`` bytes; gives the jobs that it answers for good."""
        keep_bodies = self._buffer_left > 0
        self._buffer_left -= body_bytes
        for item in items:
            match parse_list_item(item) if keep_bodies else parse_head(item):
                case Drift() as drift:
                    self._unreadable = self._unreadable or (drift, bytes(item))
                case DeploymentHead() as head:
                    yield from self._match_item(head, item if keep_bodies else None)
                case None:
                    pass

    def finish(self) -> Iterator[tuple[str, Match | NoMatch]]:
        """Give what is left: the best that was seen for each job, or that there was nothing."""
        for job in sorted(self._unmatched):
            query = self._queries.get(job)
            candidates = self._candidates.get(job, {}).values()
            chosen = None if query is None else choose_deployment(candidates, query)
            if query is None or chosen is None:
                yield job, NoMatch(self._unreadable)
            else:
                may_be_earlier = ended_long_before(chosen, query)
                yield job, Match(chosen, self._bodies.get(chosen.id), may_be_earlier)
        self._unmatched.clear()

    def _match_item(self, head: DeploymentHead, body: Raw | None) -> Iterator[tuple[str, Match]]:
        for job in self._jobs_by_id.get(head.id.lower(), ()):
            yield from self._resolve_job(job, head, body)
        version_key = (head.application_key or "", _version_prefix(head.application_version or ""))
        for job in self._jobs_by_version.get(version_key, ()):
            if is_exact_match(head, self._queries[job]):
                yield from self._resolve_job(job, head, body)
            elif job in self._unmatched:
                self._candidates[job][head.id] = head
                if body is not None:
                    self._bodies[head.id] = body

    def _resolve_job(
        self, job: str, head: DeploymentHead, body: Raw | None
    ) -> Iterator[tuple[str, Match]]:
        if job in self._unmatched:
            self._unmatched.discard(job)
            self._candidates.pop(job, None)
            yield job, Match(head, body)


def _version_prefix(version: str) -> str:
    """Give what a version and its short form have in common."""
    return version[:_MIN_SHA_LENGTH].lower()
