"""Records for tests of readers, built by the service and numbered."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from service.enrich.models import Deployment, parse_deployment
from service.enrich.verdict import Found
from service.publish.entry import BEFORE_REVISION, Entry, EntryBuilder
from tests.factories import make_lease, make_ticket

QUEUED_AT = 1_795_428_000_000


def entry_fields(number: int, *, revision: int = 1, **changes: object) -> dict[str, str | bytes]:
    """Return all fields of one entry, as the script appends them."""
    deployment_id = f"a0eebc99-9c0b-4ef8-bb6d-{number:012d}"
    body = msgspec.json.encode(
        {"id": deployment_id, "applicationKey": "shop", "endedAt": QUEUED_AT + number, **changes}
    )
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    ticket = make_ticket(delivery=f"d{number}", project="default")
    found = Found(deployment=deployment, chunks=(body,))
    entry = EntryBuilder().build(found, make_lease(ticket), now_ms=QUEUED_AT + 5)
    assert isinstance(entry, Entry)
    data = BEFORE_REVISION + str(revision).encode() + entry.data_after_revision
    pairs = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
    return {"id": f"{deployment_id}:{revision}", "revision": str(revision), **pairs, "data": data}


async def append_records(
    redis: Redis, stream: str, *numbers: int, revision: int = 1, **changes: object
) -> list[str]:
    """Append one record for each number and return their ids."""
    ids = []
    for number in numbers:
        fields: dict[Any, Any] = {**entry_fields(number, revision=revision, **changes)}
        await redis.xadd(stream, fields)
        ids.append(str(fields["id"]))
    return ids
