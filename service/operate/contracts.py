"""Where are the contracts? At the door, as a command prints them, and beside the code."""

from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial

from aiohttp import web
from msgspec import json

from service.operate.openapi import build_openapi
from service.publish.asyncapi import build_asyncapi
from service.publish.record import DATA_SCHEMA_PATH
from service.publish.schema import build_record_schema

CONTRACTS: Mapping[str, Callable[[], object]] = {
    DATA_SCHEMA_PATH.rpartition("/")[2]: build_record_schema,
    "asyncapi.json": build_asyncapi,
    "openapi.json": build_openapi,
}
"""What each file holds."""


def render_contract(name: str) -> str:
    """Write one of the contracts as people read it."""
    return json.format(json.encode(CONTRACTS[name]()), indent=2).decode() + "\n"


def add_contract_routes(app: web.Application) -> None:
    """Serve each of them; it is made when it is first asked for, and kept."""
    for name in CONTRACTS:
        path = DATA_SCHEMA_PATH if DATA_SCHEMA_PATH.endswith(name) else f"/{name}"
        app.router.add_get(path, _build_contract_handler(cache(partial(render_contract, name))))


def _build_contract_handler(
    render: Callable[[], str],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=render(), content_type="application/json")

    return handle
