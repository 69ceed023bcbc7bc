"""Flag events: what happened to the flags of an environment, parsed from LaunchDarkly's JSON.

The struct follows LaunchDarkly's OpenAPI document (``FlagEventRep``, tag "Insights flag events
(beta)"), parsed liberally: unknown fields are ignored, and a field of another type counts as
absent. An event without a readable flag or time belongs to no deployment: it is left out, and the
list says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from service.enrich.lenient_decoder import LenientDecoder
from service.enrich.models import Deployment, FlagReference, FlagReferences, Int64
from service.enrich.pagination import PAGE_SIZE
from service.enrich.steps import Steps

MAX_EVENT_BYTES = 1 << 16
"""The largest event (bytes) that is kept; LaunchDarkly's own have a few hundred."""

_MIN_SPAN_BITS = 18  # 2^18 ms are 4.4 minutes
_REFERENCES_PER_STEP = 4096
_NULL = Raw(b"null")

UNREADABLE_EVENT = "a flag event could not be read"


class FlagEventMember(Struct, frozen=True, gc=False):
    """The person who changed the flag; only the e-mail address is read."""

    email: str | None = None


class ListedFlagEvent(Struct, frozen=True, rename="camel"):
    """One flag event; ``event_time`` is epoch ms. ``impact`` is an object as sent, or null."""

    id: str | None = None
    environment_key: str | None = None
    flag_key: str | None = None
    event_type: str | None = None
    event_time: Int64 | None = None
    description: str | None = None
    audit_log_entry_id: str | None = None
    member: FlagEventMember | None = None
    impact: Raw = _NULL

    @property
    def is_waiting(self) -> bool:
        """Whether LaunchDarkly has not computed the impact yet: a later list says more."""
        try:
            return msgspec.json.decode(self.impact, type=_Impact).reason == "waiting"
        except msgspec.MsgspecError:  # of another type
            return False


class _Impact(Struct, frozen=True):
    reason: str | None = None


class FlagEventsFound(Struct, frozen=True):
    """The flag events of one deployment, in order of time.

    ``events`` is None if none could be read. ``reason`` says why some may be missing. They
    ``may_change`` if an impact waits, or if a later refresh may read what is missing now. If they
    are ``unsettled``, a passing fault left some out: they make no revision by themselves.
    """

    events: tuple[ListedFlagEvent, ...] | None
    reason: str | None = None
    may_change: bool = False
    unsettled: bool = False


_DECODER = LenientDecoder(ListedFlagEvent)


def parse_flag_event(item: Raw, *, with_member: bool) -> ListedFlagEvent | None:
    """Return an item of a list, whose page is valid UTF-8 JSON; None if it cannot be used.

    Without ``with_member``, nothing of the result holds the e-mail address of the member.
    """
    if memoryview(item).nbytes > MAX_EVENT_BYTES:
        return None
    try:
        event, _ = _DECODER.decode(item)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not event.flag_key or event.event_time is None:
        return None
    impact = bytes(event.impact)  # a copy: the part of a page would keep the page in memory
    event = replace(event, impact=Raw(impact) if impact.startswith(b"{") else _NULL)
    return event if with_member else _without_member(event)


def _without_member(event: ListedFlagEvent) -> ListedFlagEvent:
    """Return the event without its member, whom the description may name."""
    email = None if event.member is None else event.member.email
    description = event.description
    if email and description:
        description = description.replace(email, "(member)")
    return replace(event, member=None, description=description)


class FlagEventCollector:
    """The events of one list while its pages are read; each event is kept once.

    At most ``max_events`` items are read and ``max_bytes`` of them kept. ``reason`` says why events
    are missing.
    """

    def __init__(
        self, environment: str, *, with_members: bool, max_events: int, max_bytes: int
    ) -> None:
        self._environment = environment
        self._with_members = with_members
        self._max_events = max_events
        self._bytes_left = max_bytes
        self._seen: set[str | bytes] = set()
        self._events: dict[str, list[ListedFlagEvent]] = {}
        self.reason: str | None = None
        self.item_count = 0

    def add_page(self, items: Sequence[Raw]) -> bool:
        """Add the events of a page; return whether it held an event that is new."""
        count_before = len(self._seen)
        for item in items:
            if self.item_count >= self._max_events or self._bytes_left <= 0:
                self.reason = f"more than {self.item_count} flag events"
                break
            self.item_count += 1
            self._add_item(item)
        return len(self._seen) > count_before

    def list_by_flag(self) -> Mapping[str, tuple[ListedFlagEvent, ...]]:
        """Return the events of each flag, in order of time."""
        return {flag: _sort_by_time(events) for flag, events in self._events.items()}

    def _add_item(self, item: Raw) -> None:
        event = parse_flag_event(item, with_member=self._with_members)
        if event is None:
            self.reason = self.reason or UNREADABLE_EVENT
            return
        identity = event.id or bytes(item)
        if identity in self._seen:
            return
        self._seen.add(identity)
        self._bytes_left -= memoryview(item).nbytes
        if event.environment_key in {None, self._environment}:
            self._events.setdefault(event.flag_key or "", []).append(event)


def find_touched_flags(deployment: Deployment, project: str) -> Steps[AbstractSet[str]]:
    """Return the flags of a project that the deployment or its pull requests reference."""
    pulls = deployment.pull_requests
    items = [item for item in (None if pulls is None else pulls.items) or () if item is not None]
    collections = [deployment.flag_references, *(item.flag_references for item in items)]
    flags: set[str] = set()
    count = 0
    for collection in collections:
        references = _list_references(collection)
        count += len(references) + 1
        if count >= _REFERENCES_PER_STEP:
            count = 0
            yield
        flags.update(
            reference.flag_key
            for reference in references
            if reference is not None and reference.flag_key and reference.project_key == project
        )
    return flags


def _list_references(collection: FlagReferences | None) -> list[FlagReference | None]:
    return [] if collection is None else collection.items or []


def select_flag_events(
    events_by_flag: Mapping[str, tuple[ListedFlagEvent, ...]],
    flags: AbstractSet[str],
    *,
    since_ms: int,
) -> tuple[ListedFlagEvent, ...]:
    """Return the events of these flags since a time (epoch ms), in order of time."""
    selected = [
        event
        for flag in flags & events_by_flag.keys()
        for event in events_by_flag[flag]
        if (event.event_time or 0) >= since_ms
    ]
    return _sort_by_time(selected)


def _sort_by_time(events: Iterable[ListedFlagEvent]) -> tuple[ListedFlagEvent, ...]:
    return tuple(sorted(events, key=lambda event: (event.event_time or 0, event.id or "")))


def find_start(deployment: Deployment, *, reported_at: int | None, published_at: int) -> int | None:
    """Return from when on events belong to a deployment (epoch ms, > 0); None before its end.

    Without an end of LaunchDarkly it is when the webhook says that the deployment ended, else when
    its first record was published.
    """
    if deployment.is_unfinished:
        return None
    return max(1, deployment.ended_at or reported_at or published_at)


def round_start(since_ms: int, *, now_ms: int) -> int:
    """Return a start at or before ``since_ms`` that many deployments share.

    It is a power of two (ms) before now: 4, 9, 17 … minutes. So a list for older deployments
    serves the younger ones.
    """
    span_bits = max(_MIN_SPAN_BITS, max(0, now_ms - since_ms).bit_length())
    return max(1, now_ms - (1 << span_bits))


def build_flag_event_query(project: str, environment: str, *, since_ms: int) -> dict[str, str]:
    """Return the parameters of the list of all flag events of an environment since a time."""
    return {
        "projectKey": project,
        "environmentKey": environment,
        "from": str(since_ms),
        "limit": PAGE_SIZE,
    }
