"""What is to be seen in Redis right now? One round trip for all who watch, whatever waits."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from service.backlog.failure import Failed
from service.operate.console.figures import Measures, Window, read_windows
from service.operate.console.sightings import Sighting, sight_failed, sight_record, sight_ticket
from service.operate.survey import Survey
from service.store import Unavailable
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import Script, load_script

LARGEST = 65_536  # bytes of a record that is read whole; of a larger one its fields tell enough

_TICKETS, _FAILURES, _RECORDS = 8, 8, 16
_PATIENCE_S = 2.0


class Glimpse(Struct, frozen=True, kw_only=True):
    """What was seen: measures, windows, who is next, what came out, what failed; newest first."""

    measures: Measures
    windows: Sequence[Window]
    tickets: Sequence[Sighting]
    records: Sequence[Sighting]
    failures: Sequence[Failed]

    def list_newest(self) -> list[Sighting]:
        """List what is in hand, what waits, then what ended, the newest first."""
        failed = map(sight_failed, self.failures)
        ended = sorted((*self.records, *failed), key=lambda one: one.at_ms, reverse=True)
        present = sorted(self.tickets, key=lambda one: one.fate != "in hand")
        return [*present, *ended]


class Looker:
    """Looks at one namespace. Records and failures seen before are not read again.

    ``survey`` measures the namespace, ``read_failed`` reads failures by their jobs, and
    ``count_received`` tells how many webhooks this process took; raises Unavailable.
    """

    def __init__(
        self,
        group: GroupCommit,
        *,
        keys: Keys,
        survey: Callable[[], Awaitable[Survey | None]],
        read_failed: Callable[[Iterable[str]], Awaitable[Sequence[Failed]]],
        count_received: Callable[[], int],
    ) -> None:
        self._group = group
        self._keys = (
            *(keys.backlog, keys.tickets, keys.failed, keys.enriched, keys.budget),
            keys.counts,
        )
        self._survey = survey
        self._read_failed = read_failed
        self._count_received = count_received
        self._glimpse: Script = load_script(__package__, "glimpse")
        self._records: list[Sighting] = []
        self._failed: dict[tuple[str, float], Failed] = {}
        self._last = "-"
        self._appended = 0

    async def look(self) -> Glimpse:
        """See how things are now."""
        seen = self._group.submit(
            self._glimpse,
            keys=self._keys,
            args=(_TICKETS, _FAILURES, _RECORDS, self._last, LARGEST),
            patience_s=_PATIENCE_S,
        )
        survey = await self._survey()  # shares the round trip
        reply = cast("list[Any]", await seen)
        if survey is None:
            raise Unavailable("it does not answer in time")
        now_ms, appended, failed, budget = *reply[:3], read_fields(reply[3])
        if appended < self._appended:  # another stream by this name: begin anew
            self._records, self._last, self._appended = [], "-", 0
            return await self.look()
        self._appended = appended
        self._note_records(reply[6])
        return Glimpse(
            measures=self._measure(survey, at_ms=now_ms, appended=appended, failed=failed),
            windows=read_windows(budget, now_ms=now_ms),
            tickets=[
                sight_ticket(read_text(job), score, stored, now_ms=now_ms)
                for job, score, stored in split_rows(reply[4], 3)
            ],
            records=tuple(self._records),
            failures=await self._note_failed(reply[5]),
        )

    def _measure(self, survey: Survey, *, at_ms: int, appended: int, failed: int) -> Measures:
        return Measures(
            at_ms=at_ms,
            waiting=survey.waiting,
            due=survey.due,
            in_hand=survey.leased,
            oldest_s=survey.oldest_s,
            failed=failed,
            records=survey.records,
            groups=survey.groups,
            unread=survey.unread,
            appended=appended,
            received=self._count_received(),
            in_flight=survey.in_flight,
            room=min(survey.calls_left.values()),
            closed_s=survey.closed_s,
            why=survey.why if survey.closed_s else "",
        )

    def _note_records(self, entries: Sequence[Any]) -> None:
        """Put those that are new before those known."""
        new = [
            sight_record(read_text(position), pair_fields(fields))
            for position, fields in split_rows(entries, 2)
        ]
        if new:
            self._last = read_text(entries[0])
            self._records = [*new, *self._records][:_RECORDS]

    async def _note_failed(self, pairs: Sequence[Any]) -> list[Failed]:
        """Read those failures that are new; what is gone is forgotten."""
        named = [(read_text(job), float(score)) for job, score in split_rows(pairs, 2)]
        unknown = [job for job, at_ms in named if (job, at_ms) not in self._failed]
        found = {one.job: one for one in await self._read_failed(unknown)} if unknown else {}
        fresh = {(one.job, one.at_ms): one for one in found.values()}
        known = self._failed | fresh
        self._failed = {pair: known[pair] for pair in named if pair in known}
        return list(self._failed.values())


def read_text(value: object) -> str:
    """Read a reply as text, whatever its bytes are."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_fields(flat: Sequence[object]) -> Mapping[str, str]:
    """Read names and values that stand in one row."""
    return {read_text(name): read_text(value) for name, value in split_rows(flat, 2)}


def pair_fields(flat: Sequence[Any]) -> Mapping[bytes, bytes]:
    """Pair the names and values of an entry."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def split_rows(flat: Sequence[Any], width: int) -> list[Sequence[Any]]:
    """Split a reply that is a table in one row."""
    return [flat[at : at + width] for at in range(0, len(flat), width)]
