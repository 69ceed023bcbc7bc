"""Is this server fit for us? What it says of itself, and what a person should mend."""

from collections.abc import Mapping

from redis.exceptions import ResponseError

from service.store import RedisMisconfigured
from service.store.durability import Durability, SendCommand

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
