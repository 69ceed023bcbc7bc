"""Checks of a Redis server: its version, its eviction policy and its replicas."""

from collections.abc import Mapping

from redis.exceptions import ResponseError

from . import RedisMisconfigured
from .durability import SendCommand, count_replicas
from .exchange import decode_text
from .services import Durability

_MIN_VERSION = (7, 0)


async def read_info(send_command: SendCommand) -> dict[str, str]:
    """Return the fields of INFO; none if the server forbids it."""
    try:
        reply = await send_command("INFO")
    except ResponseError:
        return {}
    lines = (line.partition(":") for line in decode_text(reply).splitlines())
    return {name: value for name, _, value in lines}


async def check_server(
    send_command: SendCommand, durability: Durability, info: Mapping[str, str]
) -> list[str]:
    """Return warnings about a server with these fields of INFO, each with its fix.

    Raises RedisMisconfigured if the server cannot be used. INFO may count no replicas where WAIT
    does, so WAIT is asked too.
    """
    needs_replica = durability in {"replica", "fsync+replica"}
    if needs_replica or (durability == "fsync" and info.get("connected_slaves", "0") != "0"):
        replicas = await count_replicas(send_command)
        if isinstance(replicas, str):
            return check_server_info(info, durability, wait_error=replicas)
        if needs_replica:
            info = {**info, "connected_slaves": str(replicas)}
    return check_server_info(info, durability)


def check_server_info(
    info: Mapping[str, str], durability: Durability, *, wait_error: str = ""
) -> list[str]:
    """Return warnings about the fields of INFO. Raises RedisMisconfigured as `check_server`.

    ``wait_error`` is why WAIT fails, empty if it does not.
    """
    _check_version(info)
    warnings = [
        _check_eviction(info, durability),
        _check_replicas(info, durability, wait_error=wait_error),
    ]
    return [warning for warning in warnings if warning]


def _check_version(info: Mapping[str, str]) -> None:
    """Reject a server older than 7.0. Valkey reports the Redis version it is compatible with.

    Upstash reports an old version although it has the newer commands; its scripts are tried.
    """
    version = "" if "upstash_version" in info else info.get("redis_version", "")
    version_numbers = tuple(
        int(part) for part in version.split(".")[:2] if part.isascii() and part.isdecimal()
    )
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


def _check_replicas(info: Mapping[str, str], durability: Durability, *, wait_error: str) -> str:
    replicas = info.get("connected_slaves", "")
    if durability == "fsync" and replicas not in {"", "0"}:
        problem = (
            f"{replicas} replica(s) follow this Redis: if one takes over, it may lack webhooks "
            "that were accepted"
        )
        if wait_error:
            return f"{problem}, and this cannot be prevented, because WAIT fails ({wait_error})"
        return f"{problem}. Set ENRICHER_DURABILITY=fsync+replica to wait for one replica"
    if durability in {"replica", "fsync+replica"} and replicas == "0":
        return "no replica follows this Redis: no webhook can be accepted until one does"
    return ""
