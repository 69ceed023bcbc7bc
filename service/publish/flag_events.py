"""The flag events of a record: which are in it, whether they are complete, and their digest."""

from collections.abc import Sequence
from hashlib import sha256

import msgspec
from msgspec import UNSET, UnsetType

from service.enrich.flag_events import FlagEventsFound, ListedFlagEvent
from service.publish.record import FlagEvent, FlagEventsCompleteness

TOO_LARGE_FLAG_EVENTS = FlagEventsFound(
    None, reason="the record would exceed ENRICHER_MAX_RECORD_BYTES", unsettled=True
)
"""What takes the place of flag events that do not fit into the record; the deployment does."""

_DIGEST_LENGTH = 16


def build_flag_events(found: FlagEventsFound | None) -> tuple[FlagEvent, ...] | None:
    """Return the flag events of a record; None if nobody asked for them, or none could be read."""
    if found is None or found.events is None:
        return None
    return tuple(map(_build_flag_event, found.events))


def _build_flag_event(event: ListedFlagEvent) -> FlagEvent:
    email = None if event.member is None else event.member.email
    return FlagEvent(
        flag_key=event.flag_key or "",
        event_type=event.event_type,
        event_time=event.event_time or 0,
        description=event.description,
        impact=event.impact,
        audit_log_entry_id=event.audit_log_entry_id,
        member_email=email or UNSET,
    )


def build_completeness(found: FlagEventsFound | None) -> FlagEventsCompleteness | UnsetType:
    """Return whether the flag events are complete, and why not."""
    if found is None:
        return UNSET
    reason = UNSET if found.reason is None else found.reason
    return FlagEventsCompleteness(complete=found.reason is None, reason=reason)


def extend_digest(
    digest: str, found: FlagEventsFound | None, events: Sequence[FlagEvent] | None
) -> str:
    """Return the digest of the content with its flag events: ``content.events``.

    Without events it is the digest of the content, as if nobody had asked. So is that of events
    which a passing fault left incomplete: they make no revision by themselves.
    """
    if not events or found is None or found.unsettled:
        return digest
    return f"{digest}.{sha256(msgspec.json.encode(events)).hexdigest()[:_DIGEST_LENGTH]}"
