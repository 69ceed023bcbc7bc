"""How is an application served? On one address, quietly, until it is left."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

_SHUTDOWN_TIMEOUT_S = 5.0


@asynccontextmanager
async def serve_app(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve an application; gives its address."""
    # aiohttp's own logger quotes malformed requests, and with them parts of secrets.
    silent_logger = logging.Logger("silent")  # noqa: LOG001 - no part of the tree, so that nobody hears it
    silent_logger.addHandler(logging.NullHandler())
    runner = web.AppRunner(
        app, access_log=None, logger=silent_logger, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
