"""Matching of listed deployments to tickets, by id or by version, place and time.

One list can answer many tickets of one project and environment. Some tickets know the id of their
deployment, some only its version. A ticket gets its match at once if no later page can hold a
better one. Else it gets the best candidate after the last page.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from string import hexdigits

from msgspec import Raw, Struct

from service.enrich.models import DeploymentHead, Drift, parse_head, parse_list_item

_MIN_SHA_LENGTH = 7
_MAX_SHA_LENGTH = 64
# LaunchDarkly may receive the end of a deployment minutes after us, where a runner waits.
_MAX_END_DELAY_MS = 900_000
_QUERY_FIELDS = frozenset({"applicationKey", "applicationVersion", "environmentKey"})
CLOCK_SKEW_MS = 60_000  # of the sender's clock, and of times rounded to minutes
_OUTCOMES = {"finished": "succeeded", "failed": "failed"}


class DeploymentQuery(Struct, frozen=True):
    """What one event said without an id: version, place, time (epoch ms) and outcome.

    ``taken`` are the ids of deployments whose records belong to other events of the sender.
    ``has_waited`` is true once the event waited for a deployment that fits better. After that it
    gets one that fits worse. ``may_share``: it may end with a deployment of ``taken``.
    ``is_expired``: it has waited to its timeout. ``is_start``: nothing matches it, because it only
    asks what is listed.
    """

    environment: str
    application: str
    version: str
    time_ms: int
    outcome: str = ""
    taken: tuple[str, ...] = ()
    has_waited: bool = False
    may_share: bool = False
    is_expired: bool = False
    is_start: bool = False


class Choice(Struct, frozen=True):
    """The event (by its index) whose deployment is listed. ``is_shared``: it has its record."""

    index: int
    head: DeploymentHead
    is_shared: bool = False


def choose_deployment(
    listed: Iterable[DeploymentHead | None], queries: Sequence[DeploymentQuery]
) -> Choice | None:
    """Return the next deployment to publish, and its event; None while none is listed.

    The events of one version and the listed deployments are matched one to one, in the order of
    time. A deployment that fits no event well goes to one that has waited long enough: one whose
    status contradicts the outcome, or one that began after the event.

    A deployment that ended long before the event is never chosen. One in progress is chosen last.
    """
    heads = [head for head in listed if head is not None and _matches(head, queries[0])]
    pairs = _match_one_to_one(heads, queries)
    ready = [
        index
        for index, head in pairs.items()
        if not head.is_unfinished or queries[index].is_expired
    ]
    if ready:
        return Choice(min(ready), pairs[min(ready)])
    free_heads = [head for head in heads if head not in pairs.values()]
    for index, query in enumerate(queries):
        second_best = None if index in pairs else _choose_second_best(free_heads, index, query)
        if second_best is not None:
            return second_best
    has_expired = any(
        query.is_expired and index not in pairs for index, query in enumerate(queries)
    )
    if pairs and not has_expired:
        return Choice(min(pairs), pairs[min(pairs)])
    return None


def find_other_deployment(
    listed: Iterable[DeploymentHead | None], query: DeploymentQuery
) -> DeploymentHead | None:
    """Return the last listed deployment of the version, for the detail of a failed ticket."""
    heads = [head for head in listed if head is not None and _matches(head, query)]
    return max(heads, key=_time_of, default=None)


def describe_other_deployment(head: DeploymentHead) -> str:
    """Return a text that names another deployment of the version, for a person."""
    if head.is_unfinished:
        return f"another deployment of this version is in progress: {head.id}"
    ended_at = datetime.fromtimestamp(_time_of(head) / 1000, tz=UTC)
    moment = ended_at.isoformat(timespec="seconds")
    return f"an earlier deployment of this version is known: {head.id}, ended at {moment}"


def is_exact_match(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether the deployment ranks first whatever else is listed (equal ranks aside)."""
    return _matches(head, query) and _fits(head, query) and not any(_rank(head, query)[:3])


def ended_long_before(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether the deployment is an earlier one of the same version.

    After a rollback or a redeployment, the list holds the earlier deployment of that version
    before the one that the sender meant.
    """
    time_ms = head.ended_at or head.started_at
    if time_ms is None or head.is_unfinished:
        return False
    return time_ms < query.time_ms - _MAX_END_DELAY_MS


def contradicts_outcome(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether LaunchDarkly says "failed" and the event "succeeded", or the reverse.

    ``status`` is an open string: any value but these two contradicts nothing.
    """
    outcome = _OUTCOMES.get(head.status or "")
    return bool(outcome and query.outcome) and outcome != query.outcome


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


def _time_of(head: DeploymentHead) -> int:
    return head.ended_at or head.started_at or 0


def _began_after(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether it began after the event: in progress now, or so late that it is another."""
    if head.is_unfinished:
        return _time_of(head) > query.time_ms + CLOCK_SKEW_MS
    return (head.started_at or _time_of(head)) > query.time_ms + _MAX_END_DELAY_MS


def _fits(head: DeploymentHead, query: DeploymentQuery) -> bool:
    """Return whether nothing says that the deployment is not the one of the event."""
    return not (
        head.id in query.taken
        or ended_long_before(head, query)
        or contradicts_outcome(head, query)
        or _began_after(head, query)
        or query.is_start
    )


def _rank(head: DeploymentHead, query: DeploymentQuery) -> tuple[int, int, int, int]:
    """Return the rank among those that fit: the smallest is the best.

    An equal version goes before a short SHA, then the one that ended (in progress: began) nearest
    to the event, then one that ended, then the one that started last.
    """
    return (
        int(head.application_version != query.version),
        abs(_time_of(head) - query.time_ms),
        int(head.is_unfinished),
        -(head.started_at or 0),
    )


def _match_one_to_one(
    heads: Sequence[DeploymentHead], queries: Sequence[DeploymentQuery]
) -> dict[int, DeploymentHead]:
    """Return the deployment of each event that has one, by the index of the event.

    As many events as possible get a deployment; then the sum of the ranks is the smallest. No
    event gets an earlier deployment than an event before it.
    """
    if len(queries) == 1:
        fitting = [head for head in heads if _fits(head, queries[0])]
        return {0: min(fitting, key=lambda head: _rank(head, queries[0]))} if fitting else {}
    order = sorted(range(len(queries)), key=lambda index: queries[index].time_ms)
    best = _Matching()
    row = [best] * (len(heads) + 1)  # row[n]: the best matching with the first n deployments
    sorted_heads = sorted(heads, key=_time_of)
    for index in order:
        previous, row = row, [row[0]]
        for position, head in enumerate(sorted_heads):
            options = [previous[position + 1], row[position]]
            if _fits(head, queries[index]):
                options.append(previous[position].add(index, head, _rank(head, queries[index])))
            row.append(min(options, key=_Matching.sort_key))
    return dict(row[-1].pairs)


class _Matching(Struct, frozen=True):
    """Some pairs of event and deployment, and the sum of their ranks."""

    pairs: tuple[tuple[int, DeploymentHead], ...] = ()
    rank_sum: tuple[int, ...] = (0, 0, 0, 0)

    def add(self, index: int, head: DeploymentHead, rank: tuple[int, ...]) -> "_Matching":
        """Return the matching with one more pair."""
        rank_sum = tuple(a + b for a, b in zip(self.rank_sum, rank, strict=True))
        return _Matching((*self.pairs, (index, head)), rank_sum)

    def sort_key(self) -> tuple[int, tuple[int, ...]]:
        """Return what is the smallest for the best matching."""
        return -len(self.pairs), self.rank_sum


def _choose_second_best(
    heads: Sequence[DeploymentHead], index: int, query: DeploymentQuery
) -> Choice | None:
    """Return a deployment for an event that none fits, if the event has waited long enough."""
    late = [
        head
        for head in heads
        if query.has_waited
        and head.id not in query.taken
        and not ended_long_before(head, query)
        and (query.is_expired or head.is_unfinished or not _began_after(head, query))
    ]
    if late:
        return Choice(index, min(late, key=lambda head: _rank(head, query)))
    shared = [
        head
        for head in heads
        if query.may_share
        and head.id in query.taken
        and not ended_long_before(head, query)
        and not contradicts_outcome(head, query)
    ]
    if shared:
        return Choice(index, min(shared, key=lambda head: _rank(head, query)), is_shared=True)
    return None


class Match(Struct, frozen=True):
    """The listed deployment of a ticket: all of it, or only its head.

    ``body`` is its JSON as LaunchDarkly sent it, or None if it was not kept. ``index`` is the event
    of the ticket that it belongs to. ``is_shared``: another event of the sender has its record.
    """

    head: DeploymentHead
    body: Raw | None
    index: int = 0
    is_shared: bool = False


class NoMatch(Struct, frozen=True):
    """No page held the deployment. ``unreadable``, the first unparsable JSON, may hold it.

    ``index`` is the event of the ticket that expired first. ``other`` is another deployment of the
    version, the last one of those ``listed``.
    """

    unreadable: tuple[Drift, bytes] | None = None
    index: int = 0
    other: DeploymentHead | None = None
    listed: tuple[DeploymentHead, ...] = ()


class ListMatcher:
    """Matches the items of list pages to jobs, by the id of their deployment or by a query.

    Once pages of ``max_buffered_bytes`` are in memory, only the heads of further items are kept.
    """

    def __init__(
        self,
        *,
        deployment_ids: Mapping[str, str],
        queries: Mapping[str, Sequence[DeploymentQuery]],
        max_buffered_bytes: int,
    ) -> None:
        self._jobs_by_id: dict[str, list[str]] = defaultdict(list)
        for job, deployment_id in deployment_ids.items():
            self._jobs_by_id[deployment_id.lower()].append(job)
        self._queries = dict(queries)
        self._jobs_by_version: dict[tuple[str, str], list[str]] = defaultdict(list)
        for job, (query, *_) in queries.items():
            self._jobs_by_version[query.application, _version_prefix(query.version)].append(job)
        self._unmatched = {*deployment_ids, *queries}
        self._candidates: dict[str, dict[str, DeploymentHead]] = defaultdict(dict)
        self._bodies: dict[str, Raw] = {}
        self._buffer_left = max_buffered_bytes
        self._is_dense = True
        self._wanted_items = 0
        self._unreadable: tuple[Drift, bytes] | None = None

    @property
    def is_done(self) -> bool:
        """Whether every job has its match."""
        return not self._unmatched

    @property
    def keeps_bodies(self) -> bool:
        """Whether further items are kept, or only their heads."""
        return self._buffer_left > 0

    @property
    def has_only_ids(self) -> bool:
        """Whether every job knows the id of its deployment and could fetch it without the list."""
        return not self._queries

    def list_unmatched(self) -> list[str]:
        """Return the jobs without a match, sorted."""
        return sorted(self._unmatched)

    def match_page(self, items: Sequence[Raw], *, body_bytes: int) -> Iterator[tuple[str, Match]]:
        """Match the items of one page of ``body_bytes``; yield each job whose match is final.

        While most items belong to no job, only their heads are parsed, and the rest of an item when
        a job needs it.
        """
        keep_bodies = self.keeps_bodies
        self._buffer_left -= body_bytes
        parse = parse_list_item if keep_bodies and self._is_dense else parse_head
        self._wanted_items = 0
        for item in items:
            match parse(item):
                case Drift() as drift:
                    self.keep_unreadable(drift, item)
                case DeploymentHead() as head:
                    if not _QUERY_FIELDS.isdisjoint(head.unreadable_fields):
                        self.keep_unreadable(Drift(reason="a key of another type"), item)
                    yield from self._match_item(head, item if keep_bodies else None)
                case None:
                    pass
        self._is_dense = 2 * self._wanted_items >= len(items)

    def keep_unreadable(self, drift: Drift, json: bytes | Raw) -> None:
        """Keep the first JSON that may be, or lead to, the deployment of a job without a match."""
        self._unreadable = self._unreadable or (drift, bytes(json))

    def finish(self) -> Iterator[tuple[str, Match | NoMatch]]:
        """Yield the best candidate of each job that is left, or ``NoMatch``."""
        for job in sorted(self._unmatched):
            yield job, self._choose(job)
        self._unmatched.clear()

    def _choose(self, job: str) -> Match | NoMatch:
        queries = self._queries.get(job)
        if queries is None:
            return NoMatch(self._unreadable)
        candidates = self._candidates.get(job, {}).values()
        choice = None if queries[0].is_start else choose_deployment(candidates, queries)
        if choice is not None:
            body = self._bodies.get(choice.head.id)
            return Match(choice.head, body, choice.index, choice.is_shared)
        expired = next((index for index, query in enumerate(queries) if query.is_expired), None)
        index = len(queries) - 1 if expired is None else expired
        listed = tuple(head for head in candidates if _matches(head, queries[index]))
        other = find_other_deployment(listed, queries[index])
        return NoMatch(self._unreadable, index, other, listed)

    def _match_item(self, head: DeploymentHead, body: Raw | None) -> Iterator[tuple[str, Match]]:
        version_key = (head.application_key or "", _version_prefix(head.application_version or ""))
        jobs_of_id = self._jobs_by_id.get(head.id.lower(), ())
        jobs_of_version = self._jobs_by_version.get(version_key, ())
        self._wanted_items += bool(jobs_of_id or jobs_of_version)
        for job in jobs_of_id:
            yield from self._resolve_job(job, Match(head, body))
        for job in jobs_of_version:
            queries = self._queries[job]
            exact = [index for index, query in enumerate(queries) if is_exact_match(head, query)]
            if exact:
                yield from self._resolve_job(job, Match(head, body, exact[0]))
            elif job in self._unmatched:
                self._candidates[job][head.id] = head
                if body is not None:
                    self._bodies[head.id] = body

    def _resolve_job(self, job: str, match: Match) -> Iterator[tuple[str, Match]]:
        if job in self._unmatched:
            self._unmatched.discard(job)
            self._candidates.pop(job, None)
            yield job, match


def _version_prefix(version: str) -> str:
    """Return the part that a version and its short SHA have in common."""
    return version[:_MIN_SHA_LENGTH].lower()
