"""Which of the tickets that wait does a listed deployment answer?

One list call can answer many tickets of one project and environment: some know the id of their
deployment, some only its version. A ticket is answered at once by what no later page can better,
else when all pages are read, by the best of what they held.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Raw, Struct

from service.enrich.deployment import Drift, Outline, read_item, read_outline
from service.enrich.resolve import (
    Sought,
    choose_deployment,
    ended_long_before,
    is_beyond_doubt,
)

_SHORTEST_SHA = 7


class Listed(Struct, frozen=True):
    """A listed deployment: what could be read of it, all of it or its outline.

    ``body`` is its JSON, bytes as sent, or None where it was not kept. ``old``: it ended long
    before the sender says, so the one meant may be still to come.
    """

    known: Outline
    body: Raw | None
    old: bool = False


class Missing(Struct, frozen=True):
    """Not on any page; ``unreadable`` is an item that could not be read, should it be the one."""

    unreadable: tuple[Drift, bytes] | None = None


class Search:
    """Who seeks what: jobs by the id of their deployment, or by what they know instead.

    At most ``most_kept`` bytes of pages stay in memory; of what comes later only the id is kept.
    """

    def __init__(
        self, *, ids: Mapping[str, str], sought: Mapping[str, Sought], most_kept: int
    ) -> None:
        self._ids: dict[str, list[str]] = defaultdict(list)
        for job, name in ids.items():
            self._ids[name.lower()].append(job)
        self._sought = dict(sought)
        self._by_version: dict[tuple[str, str], list[str]] = defaultdict(list)
        for job, one in sought.items():
            self._by_version[one.application, _abridge(one.version)].append(job)
        self._open = {*ids, *sought}
        self._candidates: dict[str, dict[str, Outline]] = defaultdict(dict)
        self._bodies: dict[str, Raw] = {}
        self._left = most_kept
        self._unreadable: tuple[Drift, bytes] | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether every job has its answer."""
        return not self._open

    @property
    def is_by_id(self) -> bool:
        """Tell whether every job knows the id of its deployment, so that it could ask for it."""
        return not self._sought

    def list_open(self) -> list[str]:
        """List the jobs that have no answer yet."""
        return sorted(self._open)

    def take_page(self, items: Iterable[Raw], *, size: int) -> Iterator[tuple[str, Listed]]:
        """Look through one page of ``size`` bytes; gives the jobs that it answers for good."""
        keeps = self._left > 0
        self._left -= size
        for item in items:
            match read_item(item) if keeps else read_outline(item):
                case Drift() as drift:
                    self._unreadable = self._unreadable or (drift, bytes(item))
                case Outline() as outline:
                    yield from self._take(outline, item if keeps else None)
                case None:
                    pass

    def close(self) -> Iterator[tuple[str, Listed | Missing]]:
        """Give what is left: the best that was seen for each job, or that there was nothing."""
        for job in sorted(self._open):
            sought = self._sought.get(job)
            seen = self._candidates.get(job, {}).values()
            chosen = None if sought is None else choose_deployment(seen, sought)
            if sought is None or chosen is None:
                yield job, Missing(self._unreadable)
            else:
                old = ended_long_before(chosen, sought)
                yield job, Listed(chosen, self._bodies.get(chosen.id), old)
        self._open.clear()

    def _take(self, outline: Outline, body: Raw | None) -> Iterator[tuple[str, Listed]]:
        for job in self._ids.get(outline.id.lower(), ()):
            yield from self._answer(job, outline, body)
        key = (outline.application_key or "", _abridge(outline.application_version or ""))
        for job in self._by_version.get(key, ()):
            if is_beyond_doubt(outline, self._sought[job]):
                yield from self._answer(job, outline, body)
            elif job in self._open:
                self._candidates[job][outline.id] = outline
                if body is not None:
                    self._bodies[outline.id] = body

    def _answer(self, job: str, outline: Outline, body: Raw | None) -> Iterator[tuple[str, Listed]]:
        if job in self._open:
            self._open.discard(job)
            self._candidates.pop(job, None)
            yield job, Listed(outline, body)


def _abridge(version: str) -> str:
    """Give what a version and its short form have in common."""
    return version[:_SHORTEST_SHA].lower()
