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

from service.store import Refused

Durability = Literal["fsync", "replica", "fsync+replica", "memory"]
Ask = Callable[..., Awaitable[object]]
"""Send one command, give its reply."""

BARRIER_TIMEOUT_MS = 4000


class Barrier(Struct, frozen=True):
    """The commands that close a group of writes; each must report that there is a copy."""

    commands: tuple[tuple[str | int, ...], ...]

    def is_met_by(self, replies: Sequence[object]) -> bool:
        """Tell whether every reply suffices: of WAIT (replicas), of WAITAOF (own disk, others)."""
        counts = [reply[0] if isinstance(reply, list) else reply for reply in replies]
        return all(isinstance(count, int) and count >= 1 for count in counts)


async def choose_barrier(ask: Ask, wanted: Durability) -> Barrier | None:
    """Find what makes this server keep our writes; None when it does so by itself.

    ``fsync``: ``appendfsync always`` needs nothing more, since Redis then answers only after
    the fsync; with ``everysec``, one WAITAOF (Redis and Valkey >= 7.2) closes every group.
    Raises :class:`Refused` with the fix when the server cannot give it.
    """
    match wanted:
        case "memory":
            return None
        case "replica":
            return Barrier((("WAIT", 1, BARRIER_TIMEOUT_MS),))
        case "fsync":
            return await _choose_fsync(ask)
        case "fsync+replica":
            disk = await _choose_fsync(ask)
            # Not WAITAOF 1 1: replicas tell of their disks but once in a second.
            return Barrier((*(disk.commands if disk else ()), ("WAIT", 1, BARRIER_TIMEOUT_MS)))
        case _:
            assert_never(wanted)


async def _choose_fsync(ask: Ask) -> Barrier | None:
    config = await _read_config(ask)
    if config is None:  # CONFIG is forbidden, as on managed servers: WAITAOF itself tells
        return await _try_waitaof(ask, why="CONFIG is not allowed")
    if config.get("appendonly") != "yes":
        raise Refused(
            "Redis does not write to disk (appendonly no), so an accepted webhook could be lost. "
            "Start it with `--appendonly yes --appendfsync always`, or say "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    if config.get("appendfsync") != "always":
        return await _try_waitaof(ask, why=f"appendfsync is {config.get('appendfsync')!r}")
    if config.get("no-appendfsync-on-rewrite") == "yes":  # then `always` pauses for each rewrite
        return await _try_waitaof(ask, why="no-appendfsync-on-rewrite is yes")
    return None


async def _try_waitaof(ask: Ask, *, why: str) -> Barrier:
    try:
        await ask("WAITAOF", 1, 0, 1)  # an error too when the server writes to no disk
    except ResponseError as error:
        raise Refused(
            f"Redis cannot promise that a write is on disk: {why}, and WAITAOF does not help "
            f"({error}). Use `appendfsync always`, or Redis/Valkey 7.2 or newer, or say "
            "ENRICHER_DURABILITY=memory to accept the loss."
        ) from None
    return Barrier((("WAITAOF", 1, 0, BARRIER_TIMEOUT_MS),))


async def _read_config(ask: Ask) -> dict[str, str] | None:
    try:
        reply = await ask("CONFIG", "GET", "*append*")
    except ResponseError:
        return None
    pairs = reply.items() if isinstance(reply, dict) else _pair_up(reply)
    return {_text(name): _text(value) for name, value in pairs}


def _pair_up(flat: object) -> list[tuple[object, object]]:
    items = flat if isinstance(flat, list) else []
    return list(zip(items[::2], items[1::2], strict=True))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
