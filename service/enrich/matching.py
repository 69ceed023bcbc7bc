"""Matching of listed deployments to tickets, by id or by version, place and time.

One list can answer many tickets of one project and environment. Some tickets know the id of their
deployment, some only its version. A ticket gets its match at once if no later page can hold a
better one. Else it gets the best candidate after the last page.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from string import hexdigits

from msgspec import Raw, Struct

from service.enrich.models import DeploymentHead, Drift, parse_head, parse_list_item

_MIN_SHA_LENGTH = 7
_MAX_SHA_LENGTH = 64
# LaunchDarkly may receive the end of a deployment minutes after us, where a runner waits.
_MAX_END_DELAY_MS = 900_000
_QUERY_FIELDS = frozenset({"applicationKey", "applicationVersion", "environmentKey"})
_CLOCK_SKEW_MS = 60_000  # of the sender's clock, and of times rounded to minutes


class DeploymentQuery(Struct, frozen=True):
    """What a sender reported without an id: the version, the place, and the time (epoch ms)."""

    environment: str
    application: str
    version: str
    time_ms: int


def choose_deployment(
    listed: Iterable[DeploymentHead | None], query: DeploymentQuery
) -> DeploymentHead | None:
    """Return the deployment that the sender meant; None while it is not listed.

    Of several candidates, these go first, in this order:

    1. one that did not begin after the sender's time;
    2. an equal version, before a short SHA;
    3. the one that ended (in progress: began) nearest to the sender's time;
    4. one that ended, before one in progress;
    5. the one that started last.

    If a version is deployed again, the deployment in progress is chosen and waited for, not the
    one that ended long before. A deployment that ended just at the sender's time still wins.
    """
    candidates = [head for head in listed if head is not None and _matches(head, query)]
    return min(candidates, key=lambda head: _rank(head, query), default=None)


def is_exact_match(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether the deployment ranks first whatever else is listed (equal ranks aside)."""
    return _matches(head, query) and not any(_rank(head, query)[:4])


def ended_long_before(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether the chosen deployment may be an earlier one of the same version.

    After a rollback or a redeployment, the list holds the earlier deployment of that version
    before the one that the sender meant.
    """
    time_ms = head.ended_at or head.started_at
    if time_ms is None or head.is_unfinished:
        return False
    return time_ms < query.time_ms - _MAX_END_DELAY_MS


def versions_match(version: str, other_version: str) -> bool:
    """Return whether two versions are equal, or one is the short SHA of the other.

    A version of digits only is a build number or a date: 20260101 is not short for 202601012.
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
    """The listed deployment of a ticket: all of it, or only its head.

    ``body`` is its JSON as LaunchDarkly sent it, or None if it was not kept. If ``may_be_earlier``
    is set, it ended long before the sender's time: the deployment meant may not be listed yet.
    """

    head: DeploymentHead
    body: Raw | None
    may_be_earlier: bool = False


class NoMatch(Struct, frozen=True):
    """No page held the deployment. ``unreadable``, the first unparsable JSON, may hold it."""

    unreadable: tuple[Drift, bytes] | None = None


class ListMatcher:
    """Matches the items of list pages to jobs, by the id of their deployment or by a query.

    Once pages of ``max_buffered_bytes`` are in memory, only the heads of further items are kept.
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
        """Whether every job has its match."""
        return not self._unmatched

    @property
    def has_only_ids(self) -> bool:
        """Whether every job knows the id of its deployment and could fetch it without the list."""
        return not self._queries

    def list_unmatched(self) -> list[str]:
        """Return the jobs without a match, sorted."""
        return sorted(self._unmatched)

    def match_page(self, items: Iterable[Raw], *, body_bytes: int) -> Iterator[tuple[str, Match]]:
        """Match the items of one page of ``body_bytes``; yield each job whose match is final."""
        keep_bodies = self._buffer_left > 0
        self._buffer_left -= body_bytes
        for item in items:
            match parse_list_item(item) if keep_bodies else parse_head(item):
                case Drift() as drift:
                    self.keep_unreadable(drift, item)
                case DeploymentHead() as head:
                    if not _QUERY_FIELDS.isdisjoint(head.unreadable_fields):
                        self.keep_unreadable(Drift(reason="a key of another type"), item)
                    yield from self._match_item(head, item if keep_bodies else None)
                case None:
                    pass

    def keep_unreadable(self, drift: Drift, json: bytes | Raw) -> None:
        """Keep the first JSON that may be, or lead to, the deployment of a job without a match."""
        self._unreadable = self._unreadable or (drift, bytes(json))

    def finish(self) -> Iterator[tuple[str, Match | NoMatch]]:
        """Yield the best candidate of each job that is left, or ``NoMatch``."""
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
    """Return the part that a version and its short SHA have in common."""
    return version[:_MIN_SHA_LENGTH].lower()
