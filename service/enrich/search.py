"""Which of the tickets that wait does a listed deployment answer?

One list call can answer many tickets of one project and environment: some know the id of their
deployment, some only its version. A ticket is answered at once by what no later page can better,
else when all pages are read, by the best of what they held.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Raw, Struct

from service.enrich.deployment import DeploymentHead, Drift, parse_head, parse_list_item
from service.enrich.resolve import (
    DeploymentQuery,
    choose_deployment,
    ended_long_before,
    is_exact_match,
)

_MIN_SHA_LENGTH = 7


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
