"""The oracle: it finds lost, duplicated and stuck work in what was sent and read. Pure."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct


class SentDelivery(Struct, frozen=True, kw_only=True):
    """One webhook as its sender saw it: its job and the responses to it.

    ``epoch`` is the epoch of the upstream when the sender first sent it. ``queued`` counts the
    responses 202, ``duplicates`` the responses 200.
    """

    name: str
    job: str
    epoch: int
    queued: int = 0
    duplicates: int = 0

    @property
    def is_accepted(self) -> bool:
        """Whether any response was a 2xx."""
        return self.queued + self.duplicates > 0


class StreamRecord(Struct, frozen=True, kw_only=True):
    """One entry of the stream: its position, its id, its job and its content.

    ``epoch`` is the epoch of the upstream when a worker fetched it, or None when unknown.
    ``flag_events`` are the ids of its flag events.
    """

    entry: tuple[int, int]
    id: str
    job: str
    revision: int
    digest: bytes
    epoch: int | None = None
    complete: bool = True
    flag_events: tuple[str, ...] = ()


class LeftoverState(Struct, frozen=True, kw_only=True):
    """The state of Redis at the end: jobs, failed jobs with reasons, keys without TTL."""

    backlog: frozenset[str] = frozenset()
    tickets: frozenset[str] = frozenset()
    failed: Mapping[str, str] = {}
    keys_without_ttl: frozenset[str] = frozenset()


class OracleReport(Struct, frozen=True, kw_only=True):
    """The findings: names of deliveries and jobs; ``is_clean`` when all lists are empty.

    ``stale``: the last record of a job is older than its last accepted event. ``unrequested``: a
    record of a job that no delivery asked for. ``queued_twice``: a delivery with two responses 202.
    ``with_flag_events`` counts the records that have some.
    """

    deliveries: int
    accepted: int
    jobs: int
    records: int
    published_jobs: int
    incomplete: int
    with_flag_events: int
    lost: Sequence[str]
    stale: Sequence[str]
    duplicated: Sequence[str]
    unrequested: Sequence[str]
    queued_twice: Sequence[str]
    stuck: Sequence[str]
    pending_and_failed: Sequence[str]
    failed: Mapping[str, int]
    keys_without_ttl: Sequence[str]

    @property
    def is_clean(self) -> bool:
        """Whether every accepted webhook ended exactly once."""
        return not any(
            (
                *(self.lost, self.stale, self.duplicated, self.unrequested),
                *(self.queued_twice, self.stuck, self.pending_and_failed, self.keys_without_ttl),
            )
        )


def check_deliveries(
    deliveries: Iterable[SentDelivery],
    records: Iterable[StreamRecord],
    leftover: LeftoverState,
    *,
    allowed_without_ttl: frozenset[str] = frozenset(),
) -> OracleReport:
    """Compare the accepted deliveries with the records and with the state that is left.

    ``allowed_without_ttl`` names the keys that need no TTL.
    """
    sent = list(deliveries)
    accepted = [delivery for delivery in sent if delivery.is_accepted]
    newest_epoch: dict[str, int] = {}
    for delivery in accepted:
        newest_epoch[delivery.job] = max(newest_epoch.get(delivery.job, 0), delivery.epoch)
    by_job: defaultdict[str, list[StreamRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.entry):
        by_job[record.job].append(record)
    unfinished_jobs = leftover.backlog | leftover.tickets | leftover.failed.keys()
    finished = {
        job: job_records
        for job, job_records in by_job.items()
        if job in newest_epoch and job not in unfinished_jobs
    }
    all_records = [record for job_records in by_job.values() for record in job_records]
    return OracleReport(
        deliveries=len(sent),
        accepted=len(accepted),
        jobs=len(newest_epoch),
        records=len(all_records),
        published_jobs=len(by_job),
        incomplete=sum(not record.complete for record in all_records),
        with_flag_events=sum(bool(record.flag_events) for record in all_records),
        lost=sorted(newest_epoch.keys() - by_job.keys() - unfinished_jobs),
        stale=sorted(
            job
            for job, job_records in finished.items()
            if _is_stale(job_records[-1], newest_epoch[job])
        ),
        duplicated=_list_duplicated(all_records, by_job),
        unrequested=sorted(by_job.keys() - {delivery.job for delivery in sent}),
        queued_twice=sorted(delivery.name for delivery in sent if delivery.queued > 1),
        stuck=sorted(leftover.backlog | leftover.tickets),
        pending_and_failed=sorted((leftover.backlog | leftover.tickets) & leftover.failed.keys()),
        failed=Counter(leftover.failed.values()),
        keys_without_ttl=sorted(leftover.keys_without_ttl - allowed_without_ttl),
    )


def find_wrong_reports(reported: Mapping[str, str], known: Iterable[tuple[str, str]]) -> list[str]:
    """Return the jobs that LaunchDarkly does not know exactly once, as they ended.

    ``reported`` has the type of the event of each job. ``known`` are job and status of all
    deployments that were reported to LaunchDarkly.
    """
    statuses: defaultdict[str, list[str]] = defaultdict(list)
    for job, status in known:
        statuses[job].append(status)
    return sorted(
        f"{job}: {', '.join(statuses[job]) or 'not reported'}"
        for job, event_type in reported.items()
        if statuses[job] != [event_type]
    )


def _is_stale(last: StreamRecord, expected_epoch: int) -> bool:
    return last.epoch is not None and last.epoch < expected_epoch


def _list_duplicated(
    records: Sequence[StreamRecord], by_job: Mapping[str, Sequence[StreamRecord]]
) -> list[str]:
    repeated_flag_events = _find_repeated_flag_events(records)
    return sorted(
        {*_find_repeated_ids(records), *_find_repeated_content(by_job), *repeated_flag_events}
    )


def _find_repeated_ids(records: Iterable[StreamRecord]) -> set[str]:
    return {
        record_id
        for record_id, count in Counter(record.id for record in records).items()
        if count > 1
    }


def _find_repeated_flag_events(records: Iterable[StreamRecord]) -> set[str]:
    """Find records that have a flag event twice."""
    return {record.id for record in records if len({*record.flag_events}) < len(record.flag_events)}


def _find_repeated_content(by_job: Mapping[str, Sequence[StreamRecord]]) -> set[str]:
    """Find jobs whose revisions are not 1, 2, 3 …, and jobs with two equal records in a row."""
    return {
        job
        for job, job_records in by_job.items()
        if [record.revision for record in job_records] != list(range(1, len(job_records) + 1))
        or any(
            previous.digest == following.digest
            for previous, following in itertools.pairwise(job_records)
        )
    }
