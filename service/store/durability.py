"""Durability: what a Redis server must confirm before a webhook counts as accepted.

``fsync``          The write is on the master's disk. A crash or a power cut loses nothing. A
                   replica that takes over may lack the last writes: replication is asynchronous.
``replica``        A replica received the write. A failover to it loses nothing. A master that
                   returns from a power cut without its last second makes the replica lose it too.
``fsync+replica``  Both, so neither event loses anything.
``server``         The server acknowledges a write only when it is durable, as some managed
                   services do. Nothing else is confirmed.
``memory``         Nothing is confirmed.

One of several replicas is enough. Sentinel and Cluster prefer the most advanced replica, but do
not guarantee it. If no failover may lose anything, use exactly one replica.

A server may hide its settings or lack a command. That alone is no reason to refuse it: it is
refused when it is known that it does not give what is configured, or cannot confirm it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import assert_never

from msgspec import Struct
from redis.exceptions import ResponseError

from . import RedisMisconfigured
from .error_replies import format_error
from .exchange import decode_text
from .services import Durability, ManagedService

SendCommand = Callable[..., Awaitable[object]]
"""Sends one command and returns its reply."""

BARRIER_TIMEOUT_MS = 4000

_START_WITH_FSYNC = (
    "Start it with `--appendonly yes --appendfsync always`, or set ENRICHER_DURABILITY=memory to "
    "accept the loss."
)
_SERVER_VALUE = "server if the service itself makes each acknowledged write durable"
_APPENDONLY_OFF = "appendonly is disabled"  # in WAITAOF's error


class Barrier(Struct, frozen=True):
    """The commands that end a batch of durable writes; each must confirm at least one copy."""

    commands: tuple[tuple[str | int, ...], ...]

    def is_met_by(self, replies: Sequence[object]) -> bool:
        """Return whether every reply confirms a copy.

        WAIT replies with the number of replicas, WAITAOF with [own disk, number of replicas].
        """
        counts = [reply[0] if isinstance(reply, list) and reply else reply for reply in replies]
        return all(isinstance(count, int) and count >= 1 for count in counts)


async def choose_barrier(
    send_command: SendCommand, durability: Durability, service: ManagedService | None = None
) -> Barrier | None:
    """Return the barrier that makes writes on this server durable; None if none is needed.

    For ``fsync``, ``appendfsync always`` needs no barrier: Redis then replies only after the
    fsync. Otherwise one WAITAOF (Redis and Valkey 7.2 or newer) ends every batch. For ``replica``
    it is one WAIT. Raises :class:`RedisMisconfigured` with the fix if the server is known not to
    make writes durable or cannot confirm it; the fix is that of ``service``, if it is known.
    """
    match durability:
        case "memory":
            return None
        case "server":
            await _check_server_durability(send_command)
            return None
        case "replica":
            return await _require_wait(send_command, service)
        case "fsync":
            return await _choose_fsync_barrier(send_command, service)
        case "fsync+replica":
            fsync_barrier = await _choose_fsync_barrier(send_command, service)
            replica_barrier = await _require_wait(send_command, service)
            # Not WAITAOF 1 1: replicas report their fsync only once a second.
            return Barrier(
                (*(fsync_barrier.commands if fsync_barrier else ()), *replica_barrier.commands)
            )
        case _:
            assert_never(durability)


async def count_replicas(send_command: SendCommand) -> int | str:
    """Return the number of replicas that WAIT reports, or why WAIT fails. It does not wait."""
    try:
        reply = await send_command("WAIT", 0, 1)
    except ResponseError as error:
        return format_error(error)
    return reply if isinstance(reply, int) else 0


async def _require_wait(send_command: SendCommand, service: ManagedService | None) -> Barrier:
    replicas = await count_replicas(send_command)
    if isinstance(replicas, int):
        return Barrier((("WAIT", 1, BARRIER_TIMEOUT_MS),))
    fix = (
        f"{service.advice}."
        if service
        else (
            f"Set ENRICHER_DURABILITY=fsync if Redis writes to disk, {_SERVER_VALUE}, or memory to "
            "accept the loss."
        )
    )
    raise RedisMisconfigured(
        f"Redis cannot confirm that a replica has a write: WAIT fails ({replicas}). {fix}"
    )


class _DiskSettings(Struct, frozen=True):
    """What CONFIG says about the disk; ``hidden`` is why it does not say it, empty if it does."""

    values: Mapping[str, str]
    hidden: str = ""

    @property
    def is_off(self) -> bool:
        """Whether the server is known to write nothing to disk before it answers."""
        return not self.hidden and self.values["appendonly"] != "yes"

    @property
    def delay_reason(self) -> str:
        """Why a write may not be on disk when it is answered; empty if it is."""
        if self.hidden:
            return self.hidden
        if self.values.get("appendfsync") != "always":
            return f"appendfsync is {self.values.get('appendfsync')!r}"
        if self.values.get("no-appendfsync-on-rewrite") == "yes":  # no fsync during a rewrite
            return "no-appendfsync-on-rewrite is yes"
        return ""


async def _choose_fsync_barrier(
    send_command: SendCommand, service: ManagedService | None
) -> Barrier | None:
    settings = await _read_disk_settings(send_command)
    if settings.is_off:
        raise RedisMisconfigured(
            "Redis does not write to disk (appendonly no), so an accepted webhook could be lost. "
            + (f"{service.advice}." if service else _START_WITH_FSYNC)
        )
    if not settings.delay_reason:
        return None
    try:
        await send_command("WAITAOF", 1, 0, 1)
    except ResponseError as error:
        raise RedisMisconfigured(
            await _explain_missing_waitaof(send_command, settings, error, service)
        ) from None
    return Barrier((("WAITAOF", 1, 0, BARRIER_TIMEOUT_MS),))


async def _explain_missing_waitaof(
    send_command: SendCommand,
    settings: _DiskSettings,
    error: ResponseError,
    service: ManagedService | None,
) -> str:
    """Return why fsync cannot be had, and which durability can."""
    problem = (
        f"Redis cannot confirm that a write is on disk: {settings.delay_reason}, and WAITAOF fails "
        f"({format_error(error)})."
    )
    if _APPENDONLY_OFF in str(error):
        problem = (
            f"Redis does not write to disk (WAITAOF: {format_error(error)}), so an accepted "
            "webhook could be lost."
        )
    if service is not None:
        return f"{problem} {service.advice}."
    if _APPENDONLY_OFF in str(error):
        return f"{problem} {_START_WITH_FSYNC}"
    if not settings.hidden:
        return (
            f"{problem} Use `appendfsync always`, or Redis/Valkey 7.2 or newer, or set "
            "ENRICHER_DURABILITY=memory to accept the loss."
        )
    replicas = await count_replicas(send_command)
    replica_value = " replica to wait for a replica," if isinstance(replicas, int) else ""
    return (
        f"{problem} Set ENRICHER_DURABILITY={_SERVER_VALUE},{replica_value} or memory to accept "
        "the loss."
    )


async def _check_server_durability(send_command: SendCommand) -> None:
    """Raise RedisMisconfigured if the settings show that acknowledged writes may be lost."""
    settings = await _read_disk_settings(send_command)
    if settings.is_off:
        raise RedisMisconfigured(
            "Redis does not write to disk (appendonly no), so ENRICHER_DURABILITY=server does not "
            f"hold. {_START_WITH_FSYNC}"
        )
    if not settings.hidden and settings.delay_reason:
        raise RedisMisconfigured(
            "Redis answers before a write is on disk "
            f"({settings.delay_reason}), so ENRICHER_DURABILITY=server does not hold. "
            "Set ENRICHER_DURABILITY=fsync."
        )


async def _read_disk_settings(send_command: SendCommand) -> _DiskSettings:
    try:
        reply = await send_command("CONFIG", "GET", "*append*")
    except ResponseError as error:
        return _DiskSettings({}, hidden=f"CONFIG GET fails ({format_error(error)})")
    pairs = reply.items() if isinstance(reply, dict) else _pair_up(reply)
    values = {decode_text(name): decode_text(value) for name, value in pairs}
    if "appendonly" not in values:
        return _DiskSettings(values, hidden="CONFIG GET does not show appendonly")
    return _DiskSettings(values)


def _pair_up(flat: object) -> list[tuple[object, object]]:
    items = flat if isinstance(flat, list) else []
    return list(zip(items[::2], items[1::2], strict=False))
