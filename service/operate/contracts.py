"""Where are the contracts? At the door, as a command prints them, and beside the code."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial

from aiohttp import web
from msgspec import json

from service.operate.openapi import describe_door
from service.publish.asyncapi import describe_stream
from service.publish.record import DATA_SCHEMA
from service.publish.schema import describe_record

CONTRACTS: Mapping[str, Callable[[], object]] = {
    DATA_SCHEMA.rpartition("/")[2]: describe_record,
    "asyncapi.json": describe_stream,
    "openapi.json": describe_door,
}
"""What each file holds."""


def write_contract(name: str) -> str:
    """Write one of the contracts as people read it."""
    return json.format(json.encode(CONTRACTS[name]()), indent=2).decode() + "\n"


def add_contracts(app: web.Application) -> None:
    """Serve each of them; it is made when it is first asked for, and kept."""
    for name in CONTRACTS:
        path = DATA_SCHEMA if DATA_SCHEMA.endswith(name) else f"/{name}"
        app.router.add_get(path, _serve(cache(partial(write_contract, name))))


def _serve(write: Callable[[], str]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=write(), content_type="application/json")

    return answer
