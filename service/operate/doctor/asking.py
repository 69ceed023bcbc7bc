"""What do Redis, LaunchDarkly and the door's address tell? Asked briefly, whoever is away."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from service.backlog.failed import FailedOnes
from service.enrich.budget import load_room
from service.enrich.launchdarkly import LaunchDarkly, open_session
from service.enrich.pages import ROOT
from service.enrich.verdict import Answer, Silence
from service.operate.doctor.entrance import DoorFacts
from service.operate.doctor.store import StoreFacts
from service.operate.doctor.upstream import UpstreamFacts
from service.operate.doctor.waiting import WaitingFacts
from service.store import Refused
from service.store.address import read_address
from service.store.connect import AWAY, is_bad_password
from service.store.durability import Barrier, Durability
from service.store.keys import Keys
from service.store.opening import close_connection, open_connection
from service.store.script import read_lua

_REDIS_S, _UPSTREAM_S, _DOOR_S = 4.0, 4.0, 1.5
_LOOKED_AT = 1000
_ANSWER_BYTES = 1 << 20
_WORDS = 200

Clock = Callable[[], float]


def name_place(url: str) -> str:
    """Say where a Redis is, without login and options."""
    address = read_address(url)
    if address.places:
        return ", ".join(f"{place.host}:{place.port}" for place in address.places)
    parts = urlsplit(address.plain)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


async def ask_store(client: Redis, facts: StoreFacts, *, clock: Clock) -> StoreFacts:
    """Ask Redis what it is, what it can promise, and the time; ``clock`` gives epoch seconds."""
    replace = msgspec.structs.replace
    try:
        async with asyncio.timeout(_REDIS_S):
            facts = await _ask_promise(client, facts)
            before = clock()
            seconds, micros = await client.time()
            ahead_s = int(seconds) + int(micros) / 1_000_000 - (before + clock()) / 2
            return replace(facts, info=await _ask_info(client), ahead_s=ahead_s)
    except (*AWAY, RedisError) as error:
        trouble = str(error) or "no answer in time"
        return replace(facts, trouble=trouble, bad_password=is_bad_password(error))


async def _ask_promise(client: Redis, facts: StoreFacts) -> StoreFacts:
    """Open a connection as the service does, and see what it would refuse or warn of."""
    durability = cast("Durability", facts.durability)
    try:
        connection, barrier, warnings = await open_connection(client, durability)
    except Refused as refusal:
        return msgspec.structs.replace(facts, refusal=str(refusal))
    await close_connection(client, connection)
    return msgspec.structs.replace(
        facts, warnings=tuple(warnings), promise=_describe_barrier(barrier)
    )


def _describe_barrier(barrier: Barrier | None) -> str:
    if barrier is None:
        return "each write is on disk before it is answered"
    return f"{' and '.join(str(command[0]) for command in barrier.commands)} closes each group"


async def _ask_info(client: Redis) -> dict[str, str]:
    try:
        info = await client.info()
    except ResponseError:  # an ACL without INFO
        return {}
    return {name: str(value) for name, value in info.items()}


async def ask_waiting(
    client: Redis, ones: FailedOnes, *, keys: Keys, limit: int, share: float, scopes: Sequence[str]
) -> WaitingFacts | str:
    """Ask how backlog, budget, failures and scopes stand; a string says why it cannot be told."""
    try:
        async with asyncio.timeout(_REDIS_S):
            reply: Any = await client.eval(
                load_room() + read_lua("service.operate", "look"),
                7,
                *(keys.backlog, keys.failed, keys.enriched),
                *(keys.budget, keys.calls, keys.callers, keys.probe),
                share,
            )
            survey: Any = await client.eval(
                read_lua(__package__, "survey"), 2, keys.backlog, keys.tickets, _LOOKED_AT
            )
            return WaitingFacts(
                waiting=reply[0],
                limit=limit,
                due=survey[0],
                overdue_s=survey[1] / 1000,
                oldest_s=survey[3] / 1000,
                leased=survey[2],
                listening=await _count_listening(client),
                failed_total=reply[1],
                failed=await _count_failed(ones),
                closed_s=reply[3] / 1000,
                why=reply[4].decode(),
                room=reply[6],
                opens_s=reply[7] / 1000,
                unseen_s=await _measure_unseen(client, keys),
                listed_s=await _measure_rounds(client, keys, scopes),
            )
    except (*AWAY, RedisError) as error:
        return str(error) or "no answer in time"


async def _measure_rounds(
    client: Redis, keys: Keys, scopes: Sequence[str]
) -> dict[str, float | None]:
    """Measure how long ago each scope was listed to its end; None for never."""
    seconds, _ = await client.time()
    ran: dict[str, Any] = {name: await client.hget(keys.round(name), "ran") for name in scopes}
    return {
        name: None if told is None else max(0.0, seconds - float(told) / 1000)
        for name, told in ran.items()
    }


async def _measure_unseen(client: Redis, keys: Keys) -> dict[str, float]:
    """Measure for how long each reader group was not seen, as trimming found it."""
    seconds, _ = await client.time()
    stored: Any = await client.hgetall(keys.readers)
    return {
        name.decode("utf-8", "replace"): max(0.0, seconds - float(seen) / 1000)
        for name, seen in stored.items()
    }


async def _count_listening(client: Redis) -> int | None:
    """Count clients blocked on a list: an idle worker waits for the bell so."""
    try:
        clients: Any = await client.client_list()
    except ResponseError:  # as on managed servers
        return None
    return sum(str(one.get("cmd")).startswith("blpop") for one in clients)


async def _count_failed(ones: FailedOnes) -> dict[str, int]:
    counts: Counter[str] = Counter()
    async for failed in ones.list_newest((float("-inf"), float("inf"))):
        counts[failed.reason] += 1
        if counts.total() >= _LOOKED_AT:
            break
    return dict(counts)


async def ask_upstream(
    facts: UpstreamFacts, *, token: str, path: str, clock: Clock
) -> UpstreamFacts:
    """Make one cheap call; ``clock`` gives epoch seconds."""
    async with open_session(token, connections=1) as session:
        upstream = LaunchDarkly(session, origin=facts.origin, max_bytes=_ANSWER_BYTES, clock=clock)
        try:
            async with asyncio.timeout(_UPSTREAM_S):
                answer = await upstream.get(path, route="list" if facts.project else "get")
        except TimeoutError:
            answer = Silence("timed out")
    match answer:
        case Silence(reason):
            return msgspec.structs.replace(facts, silence=reason)
        case Answer(status=status, body=body, hints=hints):
            date_ms = hints.date_ms
            is_json, words = _read_words(body)
            return msgspec.structs.replace(
                facts,
                status=status,
                is_json=is_json,
                words=words,
                ahead_s=None if date_ms is None else date_ms / 1000 - clock(),
                windows=hints.windows,
            )


def write_question(place: tuple[str, str] | None, *, stranger: str) -> str:
    """Write the path of the call: a short list where a project is known, else a deployment."""
    if place is None:
        return f"{ROOT}deployments/{stranger}"
    query = {"projectKey": place[0], "environmentKey": place[1], "limit": "1"}
    return f"{ROOT}deployments?{urlencode(query)}"


def _read_words(body: bytes) -> tuple[bool, str]:
    """Tell whether a body is a JSON object, and what its message says."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False, ""
    return True, str(said.get("message", ""))[:_WORDS]


async def ask_door(url: str, *, host: str, port: int) -> DoorFacts:
    """See who answers at the door's address; where nobody does, whether one could listen."""
    if port == 0:
        return DoorFacts(url, "any")
    timeout = aiohttp.ClientTimeout(total=_DOOR_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/healthz", allow_redirects=False) as answer,
        ):
            said = await answer.content.read(_WORDS)
    except aiohttp.ClientConnectorError:
        trouble = _try_to_listen(host, port)
        return DoorFacts(url, "unusable" if trouble else "free", trouble)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return DoorFacts(url, "stranger")
    return DoorFacts(url, "ours" if said == b'{"status":"alive"}' else "stranger")


def _try_to_listen(host: str, port: int) -> str:
    """Listen for a moment; gives why that cannot be."""
    try:
        places: Sequence[Any] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = places[0]
        with socket.socket(family, kind, protocol) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""
