"""Probes of Redis, LaunchDarkly and the receiver's address; each returns facts within seconds."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.doctor.checks import (
    BacklogFacts,
    FlagEventFacts,
    ReceiverFacts,
    RedisFacts,
    ScopeFacts,
    UpstreamFacts,
)
from service.doctor.write_check import WriteFacts
from service.enrich.client import LaunchDarkly, open_session
from service.enrich.models import DeploymentPage, parse_deployment_page
from service.enrich.pagination import API_ROOT
from service.enrich.reporter import REPORT_PATH
from service.enrich.verdict import ApiResponse, NoResponse
from service.metrics.namespace import NamespaceStats, format_forbidden
from service.store import RedisMisconfigured, RedisUnavailable
from service.store.connect import (
    UNAVAILABLE_ERRORS,
    close_connection,
    is_bad_password,
)
from service.store.durability import Barrier
from service.store.keys import Keys
from service.store.redis_clock import read_clock
from service.store.script_check import open_script_connection
from service.store.services import Durability, find_service
from service.store.url import parse_redis_url

_REDIS_TIMEOUT_S, _UPSTREAM_TIMEOUT_S, _RECEIVER_TIMEOUT_S = 4.0, 4.0, 1.5
_MAX_RESPONSE_BYTES = 1 << 20
_MAX_MESSAGE_LENGTH = 200

Clock = Callable[[], float]


def redis_location(url: str) -> str:
    """Return the hosts and ports of a Redis URL, without login and options."""
    address = parse_redis_url(url)
    if address.seeds:
        return ", ".join(f"{host_port.host}:{host_port.port}" for host_port in address.seeds)
    parts = urlsplit(address.server_url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def redis_hosts(url: str) -> list[str]:
    """Return the host names in a Redis URL."""
    address = parse_redis_url(url)
    hosts = [seed.host for seed in address.seeds] or [urlsplit(address.server_url).hostname or ""]
    return [host for host in hosts if host]


async def probe_redis(
    client: Redis, facts: RedisFacts, *, keys: Keys, url: str, clock: Clock
) -> RedisFacts:
    """Return the facts about Redis: server, durability, clock; ``clock`` returns epoch seconds."""
    replace = msgspec.structs.replace
    try:
        async with asyncio.timeout(_REDIS_TIMEOUT_S):
            facts = await _probe_durability(client, facts, keys)
            before = clock()
            seconds, micros = await client.time()
            ahead_s = int(seconds) + int(micros) / 1_000_000 - (before + clock()) / 2
            info = await _read_info(client)
            service = find_service(redis_hosts(url), info)
            return replace(facts, info=info, service=service, clock_ahead_s=ahead_s)
    except (RedisUnavailable, *UNAVAILABLE_ERRORS, RedisError) as error:
        connection_error = str(error) or "no answer in time"
        return replace(
            facts, connection_error=connection_error, bad_password=is_bad_password(error)
        )


async def _probe_durability(client: Redis, facts: RedisFacts, keys: Keys) -> RedisFacts:
    """Open a connection as the service does, and keep its errors and warnings."""
    durability = cast("Durability", facts.durability)
    try:
        connection, barrier, warnings = await open_script_connection(
            client, durability, probe_key=keys.write_probe
        )
    except RedisMisconfigured as refusal:
        return msgspec.structs.replace(facts, startup_error=str(refusal))
    await close_connection(client, connection)
    return msgspec.structs.replace(
        facts, warnings=tuple(warnings), guarantee=_describe_barrier(durability, barrier)
    )


def _describe_barrier(durability: Durability, barrier: Barrier | None) -> str:
    if durability == "server":
        return "the service itself must make each write durable before it answers"
    if barrier is None:
        return "each write is on disk before it is answered"
    return f"each batch ends with {' and '.join(str(command[0]) for command in barrier.commands)}"


async def _read_info(client: Redis) -> dict[str, str]:
    try:
        info = await client.info()
    except ResponseError:  # an ACL without INFO
        return {}
    return {name: str(value) for name, value in info.items()}


async def probe_backlog(
    client: Redis,
    read_stats: Callable[[], Awaitable[NamespaceStats]],
    *,
    keys: Keys,
    limit: int,
    lease_s: float,
    scopes: Sequence[str],
) -> BacklogFacts | str:
    """Return the facts about backlog, budget, failed tickets and scopes, or why Redis gave none."""
    try:
        async with asyncio.timeout(_REDIS_TIMEOUT_S):
            stats = await read_stats()
            return BacklogFacts(
                waiting=stats.backlog,
                limit=limit,
                due=stats.due,
                overdue_s=stats.overdue_s,
                oldest_s=stats.oldest_age_s,
                leased=stats.leased if stats.running_leases else 0,
                idle_workers=await _count_idle_workers(client),
                failed_total=stats.failed_total,
                failed={reason: count for reason, count in stats.failed.items() if count},
                closed_s=stats.closed_s,
                closed_reason=stats.closed_reason,
                forbidden=format_forbidden(stats),
                clock_behind_s=stats.clock_behind_s,
                stalled_s=stats.find_stall_s(lease_s),
                calls_available=stats.calls_left["list"],
                opens_in_s=stats.next_call_in_s,
                group_idle_s=await _read_group_idle_times(client, keys),
                scope_age_s=await _read_scope_ages(client, keys, scopes),
            )
    except (RedisUnavailable, *UNAVAILABLE_ERRORS, RedisError) as error:
        return str(error) or "no answer in time"


async def _read_scope_ages(
    client: Redis, keys: Keys, scopes: Sequence[str]
) -> dict[str, float | None]:
    """Return how long ago each scope was listed to its end; None for never."""
    now_ms = (await read_clock(client, keys.clock)).now_ms
    finished_ms: dict[str, Any] = {
        name: await client.hget(keys.reconcile(name), "ran") for name in scopes
    }
    return {
        name: None if ended_ms is None else max(0.0, (now_ms - float(ended_ms)) / 1000)
        for name, ended_ms in finished_ms.items()
    }


async def _read_group_idle_times(client: Redis, keys: Keys) -> dict[str, float]:
    """Return for how long each reader group has not read, as the last trimming recorded it."""
    now_ms = (await read_clock(client, keys.clock)).now_ms
    stored: Any = await client.hgetall(keys.reader_groups)
    return {
        name.decode("utf-8", "replace"): max(0.0, (now_ms - float(activity.split()[0])) / 1000)
        for name, activity in stored.items()
    }


async def _count_idle_workers(client: Redis) -> int | None:
    """Return how many clients are blocked on a list, as idle workers are."""
    try:
        clients: Any = await client.client_list()
    except ResponseError:  # managed servers refuse CLIENT LIST
        return None
    return sum(str(connection.get("cmd")).startswith("blpop") for connection in clients)


async def probe_upstream(
    facts: UpstreamFacts, *, token: str, path: str, clock: Clock
) -> UpstreamFacts:
    """Make one cheap call and return its facts; ``clock`` returns epoch seconds."""
    async with open_session(token, max_connections=1, proxy=facts.proxy) as session:
        upstream = LaunchDarkly(
            session, origin=facts.origin, max_bytes=_MAX_RESPONSE_BYTES, clock=clock
        )
        try:
            async with asyncio.timeout(_UPSTREAM_TIMEOUT_S):
                response = await upstream.get(path, route="list" if facts.project else "get")
        except TimeoutError:
            response = NoResponse("timed out")
    match response:
        case NoResponse(reason):
            return msgspec.structs.replace(facts, no_response_reason=reason)
        case ApiResponse(status=status, body=body, rate_limits=rate_limits):
            date_ms = rate_limits.date_ms
            is_json, message = _parse_message(body)
            return msgspec.structs.replace(
                facts,
                status=status,
                is_json=is_json,
                message=message,
                clock_ahead_s=None if date_ms is None else date_ms / 1000 - clock(),
                windows=rate_limits.windows,
            )


async def probe_write(
    sources: Sequence[str], *, origin: str, proxy: str | None, token: str, clock: Clock
) -> WriteFacts:
    """Post an empty event, which LaunchDarkly refuses, and return its status."""
    async with open_session(token, max_connections=1, proxy=proxy) as session:
        upstream = LaunchDarkly(session, origin=origin, max_bytes=_MAX_RESPONSE_BYTES, clock=clock)
        try:
            async with asyncio.timeout(_UPSTREAM_TIMEOUT_S):
                response = await upstream.post(REPORT_PATH, b"{}", route="report")
        except TimeoutError:
            response = NoResponse("timed out")
    return WriteFacts(sources, response.status if isinstance(response, ApiResponse) else 0)


def upstream_path(scope: tuple[str, str] | None, *, unknown_id: str) -> str:
    """Return the path of the call: a list of one if a project is known, else a deployment."""
    if scope is None:
        return f"{API_ROOT}deployments/{unknown_id}"
    query = {"projectKey": scope[0], "environmentKey": scope[1], "limit": "1"}
    return f"{API_ROOT}deployments?{urlencode(query)}"


async def probe_scopes(
    scopes: Sequence[tuple[str, str]],
    *,
    origin: str,
    proxy: str | None,
    token: str,
    clock: Clock,
) -> list[ScopeFacts]:
    """Ask for one deployment of any time of each scope, until a call is not answered in time."""
    facts: list[ScopeFacts] = []
    async with open_session(token, max_connections=1, proxy=proxy) as session:
        upstream = LaunchDarkly(session, origin=origin, max_bytes=_MAX_RESPONSE_BYTES, clock=clock)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UPSTREAM_TIMEOUT_S):
                for scope in scopes:
                    path = f"{upstream_path(scope, unknown_id='')}&from=1"
                    match await upstream.get(path, route="list"):
                        case ApiResponse(status=status, body=body):
                            facts.append(
                                ScopeFacts("/".join(scope), status, _is_empty_list(status, body))
                            )
    return facts


async def probe_flag_events(
    scope: tuple[str, str] | None, *, origin: str, proxy: str | None, token: str, clock: Clock
) -> FlagEventFacts:
    """Ask for one flag event of a project and environment, if they are known."""
    if scope is None:
        return FlagEventFacts("")
    query = {"projectKey": scope[0], "environmentKey": scope[1], "limit": "1"}
    facts = FlagEventFacts("/".join(scope))
    async with open_session(token, max_connections=1, proxy=proxy) as session:
        upstream = LaunchDarkly(session, origin=origin, max_bytes=_MAX_RESPONSE_BYTES, clock=clock)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UPSTREAM_TIMEOUT_S):
                path = f"{API_ROOT}flag-events?{urlencode(query)}"
                match await upstream.get(path, route="flag-events"):
                    case ApiResponse(status=status, body=body):
                        _, message = _parse_message(body)
                        return msgspec.structs.replace(facts, status=status, message=message)
    return facts


def _is_empty_list(status: int, body: bytes) -> bool:
    if status != HTTPStatus.OK:
        return False
    page = parse_deployment_page(body)
    return isinstance(page, DeploymentPage) and not page.items


def _parse_message(body: bytes) -> tuple[bool, str]:
    """Return whether a body is a JSON object, and its message."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False, ""
    return True, str(fields.get("message", ""))[:_MAX_MESSAGE_LENGTH]


async def probe_receiver(url: str, *, host: str, port: int) -> ReceiverFacts:
    """Return what answers at the receiver's address; if nothing does, whether it can be bound."""
    if port == 0:
        return ReceiverFacts(url, "any")
    timeout = aiohttp.ClientTimeout(total=_RECEIVER_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/healthz", allow_redirects=False) as response,
        ):
            body = await response.content.read(_MAX_MESSAGE_LENGTH)
    except aiohttp.ClientConnectorError:
        bind_error = _try_bind(host, port)
        return ReceiverFacts(url, "unusable" if bind_error else "free", bind_error)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ReceiverFacts(url, "stranger")
    return ReceiverFacts(url, "ours" if body == b'{"status":"alive"}' else "stranger")


def _try_bind(host: str, port: int) -> str:
    """Return why the address cannot be bound; empty when it can."""
    try:
        addresses: Sequence[Any] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, socket_type, protocol, _, address = addresses[0]
        with socket.socket(family, socket_type, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""
