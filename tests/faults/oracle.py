"""Was anything lost, twice or left over? Judged over what was read: thinks only."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct


class Delivery(Struct, frozen=True, kw_only=True):
    """One webhook as its sender saw it: the job it asks for, and how it was answered.

    ``epoch`` numbers what the upstream told at the moment it was first sent. ``queued`` counts
    the answers 202, ``duplicates`` the answers 200.
    """

    name: str
    job: str
    epoch: int
    queued: int = 0
    duplicates: int = 0

    @property
    def is_accepted(self) -> bool:
        """Tell whether it was answered by any 2xx."""
        return self.queued + self.duplicates > 0


class Record(Struct, frozen=True, kw_only=True):
    """One entry of the stream: where it stands, its id, and what it says of which job.

    ``epoch`` numbers what the upstream told when this was fetched, where it can be known.
    """

    entry: tuple[int, int]
    id: str
    job: str
    revision: int
    digest: bytes
    epoch: int | None = None
    complete: bool = True


class Left(Struct, frozen=True, kw_only=True):
    """What is in Redis at the end: jobs, failed jobs with reasons, keys without TTL."""

    backlog: frozenset[str] = frozenset()
    tickets: frozenset[str] = frozenset()
    failed: Mapping[str, str] = {}
    lasting: frozenset[str] = frozenset()


class Judgement(Struct, frozen=True, kw_only=True):
    """What came of it. Names of deliveries and jobs; ``is_clean`` when nothing is wrong.

    ``stale``: the last record of a job is older than the last accepted event about it.
    ``invented``: a record of what nobody asked for. ``twice_queued``: 202 said twice.
    """

    deliveries: int
    accepted: int
    jobs: int
    records: int
    published_jobs: int
    incomplete: int
    lost: Sequence[str]
    stale: Sequence[str]
    duplicated: Sequence[str]
    invented: Sequence[str]
    twice_queued: Sequence[str]
    stuck: Sequence[str]
    both: Sequence[str]
    failed: Mapping[str, int]
    lasting: Sequence[str]

    @property
    def is_clean(self) -> bool:
        """Tell whether every accepted webhook ended exactly once."""
        return not any(
            (
                *(self.lost, self.stale, self.duplicated, self.invented),
                *(self.twice_queued, self.stuck, self.both, self.lasting),
            )
        )


def judge(
    deliveries: Iterable[Delivery],
    records: Iterable[Record],
    left: Left,
    *,
    may_last: frozenset[str] = frozenset(),
) -> Judgement:
    """Compare what was accepted with what came out and what is left; ``may_last`` needs no TTL."""
    sent = list(deliveries)
    accepted = [delivery for delivery in sent if delivery.is_accepted]
    wanted: dict[str, int] = {}
    for delivery in accepted:
        wanted[delivery.job] = max(wanted.get(delivery.job, 0), delivery.epoch)
    by_job: defaultdict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.entry):
        by_job[record.job].append(record)
    open_jobs = left.backlog | left.tickets | left.failed.keys()
    done = {job: told for job, told in by_job.items() if job in wanted and job not in open_jobs}
    every = [record for told in by_job.values() for record in told]
    return Judgement(
        deliveries=len(sent),
        accepted=len(accepted),
        jobs=len(wanted),
        records=len(every),
        published_jobs=len(by_job),
        incomplete=sum(not record.complete for record in every),
        lost=sorted(wanted.keys() - by_job.keys() - open_jobs),
        stale=sorted(job for job, told in done.items() if _is_stale(told[-1], wanted[job])),
        duplicated=sorted({*_find_repeated_ids(every), *_find_repeated_content(by_job)}),
        invented=sorted(by_job.keys() - {delivery.job for delivery in sent}),
        twice_queued=sorted(delivery.name for delivery in sent if delivery.queued > 1),
        stuck=sorted(left.backlog | left.tickets),
        both=sorted((left.backlog | left.tickets) & left.failed.keys()),
        failed=Counter(left.failed.values()),
        lasting=sorted(left.lasting - may_last),
    )


def _is_stale(last: Record, wanted: int) -> bool:
    return last.epoch is not None and last.epoch < wanted


def _find_repeated_ids(records: Iterable[Record]) -> set[str]:
    return {name for name, times in Counter(record.id for record in records).items() if times > 1}


def _find_repeated_content(by_job: Mapping[str, Sequence[Record]]) -> set[str]:
    """Find jobs whose revisions are not 1, 2, 3 ..., or of which two in a row say the same."""
    return {
        job
        for job, told in by_job.items()
        if [record.revision for record in told] != list(range(1, len(told) + 1))
        or any(one.digest == next_.digest for one, next_ in itertools.pairwise(told))
    }
