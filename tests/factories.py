"""Factories: events, tickets and leases with plain defaults; a test names only what it is about."""

from typing import Any

import msgspec

from service.accept.mapping import DeploymentEvent
from service.backlog.ticket import Lease, Ticket


def deployment_id(number: int = 1) -> str:
    """Return the id of the deployment with this number, in LaunchDarkly's form."""
    return f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}"


def make_event(number: int = 1, **fields: Any) -> DeploymentEvent:
    """Return the event of one deployment, known by its id and by its version.

    ``fields`` replaces fields of the event; ``deployment_id=None`` makes one that has to be found.
    """
    event = DeploymentEvent(
        source="native",
        delivery=f"delivery-{number}",
        project="default",
        environment="production",
        application="shop",
        version=f"1.{number}",
        deployment_id=deployment_id(number),
        outcome="succeeded",
        event_time=None,
        metadata=msgspec.Raw(b"{}"),
        metadata_dropped=False,
        traceparent=None,
    )
    return msgspec.structs.replace(event, **fields)


def make_ticket(**fields: Any) -> Ticket:
    """Return a ticket that was not tried yet; ``fields`` replaces fields of it."""
    ticket = Ticket(source="native", delivery="delivery-1", outcome="succeeded")
    return msgspec.structs.replace(ticket, **fields)


def make_lease(ticket: Ticket | None = None, **fields: Any) -> Lease:
    """Return a lease on a ticket, claimed when it was queued; ``fields`` replaces fields of it."""
    lease = Lease(
        job=f"id:{deployment_id()}",
        fence=1.5,
        generation=1,
        crashes=0,
        queued_at=1_795_428_000_000,
        now=1_795_428_000_000,
        ticket=ticket or make_ticket(),
    )
    return msgspec.structs.replace(lease, **fields)
