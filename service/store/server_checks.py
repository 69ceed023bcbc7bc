"""Durability: what a Redis server must confirm before a webhook counts as accepted.

``fsync``          The write is on the master's disk. A crash or a power cut loses nothing. A
                   replica that takes over may lack the last writes: replication is asynchronous.
``replica``        A replica received the write. A failover to it loses nothing. A master that
                   returns from a power cut without its last second makes the replica lose it too.
``fsync+replica``  Both, so neither event loses anything.
``memory``         Nothing is confirmed.

One of several replicas is enough. Sentinel and Cluster prefer the most advanced replica, but do
not guarantee it. If no failover may lose anything, use exactly one replica.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct
from redis.exceptions import ResponseError

from . import RedisMisconfigured
from .exchange import decode_text

Durability = Literal["fsync", "replica", "fsync+replica", "memory"]
SendCommand = Callable[..., Awaitable[object]]
"""Sends one command and returns its reply."""

BARRIER_TIMEOUT_MS = 4000


class Barrier(Struct, frozen=True):
    """The commands that end a batch of durable writes; each must confirm at least one copy."""

    commands: tuple[tuple[str | int, ...], ...]

    def is_met_by(self, replies: Sequence[object]) -> bool:
        """Return whether every reply confirms a copy.

        WAIT replies with the number of replicas, WAITAOF with [own disk, number of replicas].
        """
        counts = [reply[0] if isinstance(reply, list) else reply for reply in replies]
        return all(isinstance(count, int) and count >= 1 for count in counts)


async def choose_barrier(send_command: SendCommand, durability: Durability) -> Barrier | None:
    """Return the barrier that makes writes on this server durable; None if none is needed.

    For ``fsync``, ``appendfsync always`` needs no barrier: Redis then replies only after the
    fsync. With ``everysec``, one WAITAOF (Redis and Valkey 7.2 or newer) ends every batch.
    Raises :class:`RedisMisconfigured` with the fix if the server cannot make writes durable.
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
            # Not WAITAOF 1 1: replicas report their fsync only once a second.
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
    if config is None:  # CONFIG is forbidden, as on managed servers: try WAITAOF
        return await _require_waitaof(send_command, reason="CONFIG is not allowed")
    if config.get("appendonly") != "yes":
        raise RedisMisconfigured(
            "Redis does not write to disk (appendonly no), so an accepted webhook could be lost. "
            "Start it with `--appendonly yes --appendfsync always`, or set "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    if config.get("appendfsync") != "always":
        return await _require_waitaof(
            send_command, reason=f"appendfsync is {config.get('appendfsync')!r}"
        )
    if config.get("no-appendfsync-on-rewrite") == "yes":  # no fsync during a rewrite
        return await _require_waitaof(send_command, reason="no-appendfsync-on-rewrite is yes")
    return None


async def _require_waitaof(send_command: SendCommand, *, reason: str) -> Barrier:
    try:
        await send_command("WAITAOF", 1, 0, 1)  # also an error when appendonly is off
    except ResponseError as error:
        raise RedisMisconfigured(
            f"Redis cannot confirm that a write is on disk: {reason}, and WAITAOF fails "
            f"({error}). Use `appendfsync always`, or Redis/Valkey 7.2 or newer, or set "
            "ENRICHER_DURABILITY=memory to accept the loss."
        ) from None
    return Barrier((("WAITAOF", 1, 0, BARRIER_TIMEOUT_MS),))


async def _read_config(send_command: SendCommand) -> dict[str, str] | None:
    try:
        reply = await send_command("CONFIG", "GET", "*append*")
    except ResponseError:
        return None
    pairs = reply.items() if isinstance(reply, dict) else _pair_up(reply)
    return {decode_text(name): decode_text(value) for name, value in pairs}


def _pair_up(flat: object) -> list[tuple[object, object]]:
    items = flat if isinstance(flat, list) else []
    return list(zip(items[::2], items[1::2], strict=True))


_MIN_VERSION = (7, 0)


async def check_server(send_command: SendCommand, durability: Durability) -> list[str]:
    """Return warnings about the server, each with its fix.

    Raises RedisMisconfigured if the server cannot be used. A server that forbids INFO is accepted.
    """
    try:
        reply = await send_command("INFO")
    except ResponseError:
        return []
    lines = (line.partition(":") for line in decode_text(reply).splitlines())
    return check_server_info({name: value for name, _, value in lines}, durability)


def check_server_info(info: Mapping[str, str], durability: Durability) -> list[str]:
    """Return warnings about the fields of INFO. Raises RedisMisconfigured as `check_server`."""
    _check_version(info)
    warnings = [_check_eviction(info, durability), _check_replicas(info, durability)]
    return [warning for warning in warnings if warning]


def _check_version(info: Mapping[str, str]) -> None:
    """Reject a server older than 7.0. Valkey reports the Redis version it is compatible with."""
    version = info.get("redis_version", "")
    version_numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if version_numbers and version_numbers < _MIN_VERSION:
        raise RedisMisconfigured(
            f"this Redis is {version}, which is too old: use Redis 7.0 or newer, or Valkey."
        )


def _check_eviction(info: Mapping[str, str], durability: Durability) -> str:
    """Reject a server that may evict tickets when full; warn if it may evict delivery marks."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or info.get("maxmemory", "0") == "0":
        return ""
    if policy.startswith("allkeys") and durability != "memory":
        raise RedisMisconfigured(
            f"Redis evicts any key when its memory is full (maxmemory-policy {policy}), so an "
            "accepted webhook could be lost. Set `maxmemory-policy noeviction`, or set "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    return (
        f"when its memory is full, Redis evicts keys (maxmemory-policy {policy}), including the "
        "marks of deliveries and revisions: records may be published twice. "
        "Set `maxmemory-policy noeviction`"
    )


def _check_replicas(info: Mapping[str, str], durability: Durability) -> str:
    replicas = info.get("connected_slaves", "0")
    if durability == "fsync" and replicas != "0":
        return (
            f"{replicas} replica(s) follow this Redis: if one takes over, it may lack webhooks "
            "that were accepted. Set ENRICHER_DURABILITY=fsync+replica to wait for one replica"
        )
    if durability in {"replica", "fsync+replica"} and replicas == "0":
        return "no replica follows this Redis: no webhook can be accepted until one does"
    return ""
