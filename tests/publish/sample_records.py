"""What do tests of readers read? Records as the service writes them, numbered."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from service.backlog.ticket import Lease, Ticket
from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder

QUEUED_AT = 1_795_428_000_000


def entry_fields(number: int, *, revision: int = 1, **changes: object) -> dict[str, str | bytes]:
    """Write all fields of one entry."""
    deployment_id = f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}"
    body = msgspec.json.encode(
        {"id": deployment_id, "applicationKey": "shop", "endedAt": QUEUED_AT + number, **changes}
    )
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    ticket = Ticket(source="native", delivery=f"d{number}", outcome="succeeded", project="default")
    lease = Lease(
        job=f"id:{deployment_id}",
        fence=1.0,
        generation=1,
        crashes=0,
        queued_at=QUEUED_AT,
        now=QUEUED_AT,
        ticket=ticket,
    )
    entry = EntryBuilder().build(
        Found(deployment=deployment, body=body), lease, now_ms=QUEUED_AT + 5
    )
    assert isinstance(entry, Entry)
    data = BEFORE_REVISION + str(revision).encode() + entry.data_after_revision
    pairs = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    return {"id": f"{deployment_id}:{revision}", "revision": str(revision), **pairs, "data": data}


async def append_records(
    redis: Redis, stream: str, *numbers: int, revision: int = 1, **changes: object
) -> list[str]:
    """Append so many records; gives their ids."""
    ids = []
    for number in numbers:
        fields: dict[Any, Any] = {**entry_fields(number, revision=revision, **changes)}
        await redis.xadd(stream, fields)
        ids.append(str(fields["id"]))
    return ids
