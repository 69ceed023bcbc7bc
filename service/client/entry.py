"""One entry of the stream: its raw fields, and the typed record that they hold."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Struct

from ..enrich.models import Deployment, Drift, Malformed, parse_deployment
from ..publish.record import EnrichedDeployment

_DECODE_JSON = msgspec.json.Decoder(EnrichedDeployment).decode


class StreamEntry(Struct, frozen=True):
    """One entry as Redis returns it: its position, and field names and values in turn.

    ``flat_fields`` is None when Redis trimmed the entry before this reader received it.
    """

    position: bytes
    flat_fields: Sequence[bytes] | None

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The fields by name; empty when the entry was trimmed."""
        flat_fields = self.flat_fields or ()
        return dict(zip(flat_fields[::2], flat_fields[1::2], strict=True))


class Record(Struct, frozen=True, kw_only=True, dict=True):
    """One enriched deployment. ``id`` is the deployment's id and the revision, and is unique.

    ``position`` is the entry's id in the stream, ``time`` the end of the deployment (RFC 3339).
    ``fields`` and ``raw`` also hold what these types do not know.
    """

    position: str
    id: str
    time: str
    project: str
    environment: str
    application: str
    data: EnrichedDeployment
    fields: Mapping[bytes, bytes]

    @cached_property
    def raw(self) -> dict[str, Any]:
        """All of the data as plain values, decoded on first access."""
        values: dict[str, Any] = msgspec.json.decode(self.fields[b"data"])
        return values

    @cached_property
    def deployment(self) -> Deployment:
        """LaunchDarkly's deployment, typed, decoded on first access.

        A field of another type than documented is None; ``unreadable_fields`` names it.
        """
        deployment = parse_deployment(bytes(self.data.deployment))
        if isinstance(deployment, Drift | Malformed):
            raise msgspec.ValidationError(deployment.reason)
        return deployment


class InvalidEntry(Struct, frozen=True):
    """An entry that is not a record of this service, and the reason."""

    position: str
    reason: str
    fields: Mapping[bytes, bytes]


def format_fields(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the fields of an entry as text; bytes that are not UTF-8 are replaced."""
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in fields.items()
    }


def parse_entry(position: bytes, flat_fields: Sequence[bytes]) -> Record | InvalidEntry:
    """Return the record of one entry, or why the entry holds none."""
    fields = dict(zip(flat_fields[::2], flat_fields[1::2], strict=True))
    get = fields.get
    try:
        return Record(
            position=position.decode(),
            id=fields[b"id"].decode(),
            time=get(b"time", b"").decode(),
            project=get(b"projectkey", b"").decode(),
            environment=get(b"environmentkey", b"").decode(),
            application=get(b"applicationkey", b"").decode(),
            data=_DECODE_JSON(fields[b"data"]),
            fields=fields,
        )
    except KeyError as error:
        reason = f"it has no field {error.args[0].decode()!r}"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)
    return InvalidEntry(position.decode(), reason, fields)
