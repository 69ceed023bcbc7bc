"""What does a reader hold in its hand? One entry of the stream, typed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Struct

from ..enrich.models import Deployment
from ..publish.record import EnrichedDeployment

_DECODE_JSON = msgspec.json.Decoder(EnrichedDeployment).decode


class StreamEntry(Struct, frozen=True):
    """One entry as Redis gives it: its position, and names and values in turn.

    ``parts`` is None when the entry was trimmed from the stream before it was read.
    """

    position: bytes
    flat_fields: Sequence[bytes] | None


class Record(Struct, frozen=True, kw_only=True, dict=True):
    """One enriched deployment. ``id`` is unique for ever: deployment and revision.

    ``position`` is where it stands in the stream, ``time`` when the deployment ended (RFC 3339).
    ``fields`` and ``raw`` hold all that came, also what these types do not know.
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
        """All of the data as plain values, decoded when first asked for."""
        values: dict[str, Any] = msgspec.json.decode(self.fields[b"data"])
        return values

    @cached_property
    def deployment(self) -> Deployment:
        """The deployment as LaunchDarkly tells it, typed, decoded when first asked for."""
        return msgspec.json.decode(self.data.deployment, type=Deployment, strict=False)


class InvalidEntry(Struct, frozen=True):
    """An entry that is no record of ours, and why."""

    position: str
    reason: str
    fields: Mapping[bytes, bytes]


def format_fields(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the fields of an entry as text; bytes that are not UTF-8 are replaced."""
    return {_decode_text(name): _decode_text(value) for name, value in fields.items()}


def _decode_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def parse_entry(position: bytes, flat_fields: Sequence[bytes]) -> Record | InvalidEntry:
    """Read one entry of the stream."""
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
