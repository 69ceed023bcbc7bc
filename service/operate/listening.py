"""How is an application served? On one address, quietly, until it is left."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

_SHUTDOWN_S = 5.0


@asynccontextmanager
async def listen(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application; gives its address."""
    # aiohttp's own logger quotes malformed requests, and with them parts of secrets.
    silent = logging.Logger("silent")  # noqa: LOG001 - no part of the tree, so that nobody hears it
    silent.addHandler(logging.NullHandler())
    runner = web.AppRunner(app, access_log=None, logger=silent, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
