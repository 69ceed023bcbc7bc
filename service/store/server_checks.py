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

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct
from redis.exceptions import ResponseError

from . import RedisMisconfigured

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


_MIN_VERSION = (7, 0)


async def check_server(send_command: SendCommand, durability: Durability) -> list[str]:
    """Give what a person should mend, each with the fix; raises Refused when it cannot serve.

    A server that does not let us see (an ACL without INFO) is taken as it is.
    """
    try:
        reply = await send_command("INFO")
    except ResponseError:
        return []
    info_text = reply.decode() if isinstance(reply, bytes) else str(reply)
    lines = (line.partition(":") for line in info_text.splitlines())
    return check_server_info({name: value for name, _, value in lines}, durability)


def check_server_info(info: Mapping[str, str], durability: Durability) -> list[str]:
    """Judge the facts of INFO."""
    _check_version(info)
    warnings = [_check_eviction(info, durability), _check_replicas(info, durability)]
    return [warning for warning in warnings if warning]


def _check_version(info: Mapping[str, str]) -> None:
    """Refuse what is too old for us. Valkey tells the version of Redis that it is compatible to."""
    version = info.get("redis_version", "")
    version_numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if version_numbers and version_numbers < _MIN_VERSION:
        raise RedisMisconfigured(
            f"this Redis is {version}, which is too old: use Redis 7.0 or newer, or Valkey."
        )


def _check_eviction(info: Mapping[str, str], durability: Durability) -> str:
    """Refuse a server that would delete tickets when full; warn of one that would delete marks."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return ""
    if policy.startswith("allkeys") and durability != "memory":
        raise RedisMisconfigured(
            f"Redis evicts any key when its memory is full (maxmemory-policy {policy}), so an "
            "accepted webhook could be lost. Set `maxmemory-policy noeviction`, or say "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    return (
        f"when its memory is full, Redis evicts keys (maxmemory-policy {policy}), and with them "
        "what we know of deliveries and revisions: records may come twice. "
        "Set `maxmemory-policy noeviction`"
    )


def _check_replicas(info: Mapping[str, str], durability: Durability) -> str:
    replicas = info.get("connected_slaves", "0")
    if durability == "fsync" and replicas != "0":
        return (
            f"{replicas} replica(s) follow this Redis: if one takes over, it may lack webhooks "
            "that were accepted. Say ENRICHER_DURABILITY=fsync+replica to wait for one of them"
        )
    if durability in {"replica", "fsync+replica"} and replicas == "0":
        return "no replica follows this Redis: nothing can be accepted before one does"
    return ""
