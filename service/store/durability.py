"""When is a write kept? What the server must promise before we say so to a sender.

``fsync``          on the disk of the master: a crash and a power cut lose nothing, but a replica
                   that takes over may lack the last writes, since replication is asynchronous
``replica``        received by a replica: a failover to it loses nothing, but a master that comes
                   back from a power cut without its last second makes the replica forget it too
``fsync+replica``  both, so neither loses anything
``memory``         nothing is waited for

Of several replicas one is enough for us. Sentinel and Cluster prefer the one that is furthest, yet
promise it no more than that; where nothing may be lost whichever takes over, have one replica.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, assert_never

from msgspec import Struct
from redis.exceptions import ResponseError

from service.store import RedisMisconfigured

Durability = Literal["fsync", "replica", "fsync+replica", "memory"]
SendCommand = Callable[..., Awaitable[object]]
"""Send one command, give its reply."""

BARRIER_TIMEOUT_MS = 4000


class Barrier(Struct, frozen=True):
    """The commands that close a group of writes; each must report that there is a copy."""

    commands: tuple[tuple[str | int, ...], ...]

    def is_met_by(self, replies: Sequence[object]) -> bool:
        """Tell whether every reply suffices: of WAIT (replicas), of WAITAOF (own disk, others)."""
        counts = [reply[0] if isinstance(reply, list) else reply for reply in replies]
        return all(isinstance(count, int) and count >= 1 for count in counts)


async def choose_barrier(send_command: SendCommand, durability: Durability) -> Barrier | None:
    """Find what makes this server keep our writes; None when it does so by itself.

    ``fsync``: ``appendfsync always`` needs nothing more, since Redis then answers only after
    the fsync; with ``everysec``, one WAITAOF (Redis and Valkey >= 7.2) closes every group.
    Raises :class:`Refused` with the fix when the server cannot give it.
    """
    match durability:
        case "memory":
            return None
        case "replica":
            return Barrier((("WAIT", 1, BARRIER_TIMEOUT_MS),))
        case "fsync":
            return await _choose_fsync_barrier(send_command)
        case "fsync+replica":
            fsync_barrier = await _choose_fsync_barrier(send_command)
            # Not WAITAOF 1 1: replicas tell of their disks but once in a second.
            return Barrier(
                (
                    *(fsync_barrier.commands if fsync_barrier else ()),
                    ("WAIT", 1, BARRIER_TIMEOUT_MS),
                )
            )
        case _:
            assert_never(durability)


async def _choose_fsync_barrier(send_command: SendCommand) -> Barrier | None:
    config = await _read_config(send_command)
    if config is None:  # CONFIG is forbidden, as on managed servers: WAITAOF itself tells
        return await _require_waitaof(send_command, reason="CONFIG is not allowed")
    if config.get("appendonly") != "yes":
        raise RedisMisconfigured(
            "Redis does not write to disk (appendonly no), so an accepted webhook could be lost. "
            "Start it with `--appendonly yes --appendfsync always`, or say "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    if config.get("appendfsync") != "always":
        return await _require_waitaof(
            send_command, reason=f"appendfsync is {config.get('appendfsync')!r}"
        )
    if config.get("no-appendfsync-on-rewrite") == "yes":  # then `always` pauses for each rewrite
        return await _require_waitaof(send_command, reason="no-appendfsync-on-rewrite is yes")
    return None


async def _require_waitaof(send_command: SendCommand, *, reason: str) -> Barrier:
    try:
        await send_command("WAITAOF", 1, 0, 1)  # an error too when the server writes to no disk
    except ResponseError as error:
        raise RedisMisconfigured(
            f"Redis cannot promise that a write is on disk: {reason}, and WAITAOF does not help "
            f"({error}). Use `appendfsync always`, or Redis/Valkey 7.2 or newer, or say "
            "ENRICHER_DURABILITY=memory to accept the loss."
        ) from None
    return Barrier((("WAITAOF", 1, 0, BARRIER_TIMEOUT_MS),))


async def _read_config(send_command: SendCommand) -> dict[str, str] | None:
    try:
        reply = await send_command("CONFIG", "GET", "*append*")
    except ResponseError:
        return None
    pairs = reply.items() if isinstance(reply, dict) else _pair_up(reply)
    return {_decode_text(name): _decode_text(value) for name, value in pairs}


def _pair_up(flat: object) -> list[tuple[object, object]]:
    items = flat if isinstance(flat, list) else []
    return list(zip(items[::2], items[1::2], strict=True))


def _decode_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
