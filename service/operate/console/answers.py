"""How does the console answer? Pages that no other site may hold, and forms that are short."""

import asyncio
from urllib.parse import urlencode

from aiohttp import web

SLOWEST_S = 10.0
_FORM = "application/x-www-form-urlencoded"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # none at all would make the Origin of our own forms null
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def read_field(request: web.Request, name: str) -> str:
    """Read one field of a form; empty when there is none. Files are not taken."""
    if request.content_type != _FORM:
        return ""
    try:
        async with asyncio.timeout(SLOWEST_S):
            given = (await request.post()).get(name, "")
    except (TimeoutError, ValueError, LookupError, OSError, web.RequestPayloadError):
        return ""  # too slow, or no text that anybody could read
    return given if isinstance(given, str) else ""


def write_page(page: str, *, status: int = 200) -> web.Response:
    """Answer with a page."""
    return web.Response(text=page, status=status, content_type="text/html", headers=HEADERS)


def go_to(path: str, **query: str) -> web.Response:
    """Send a browser on after a form, so that reloading sends it no second time."""
    where = f"{path}?{urlencode(query)}" if query else path
    return web.Response(status=303, headers=HEADERS | {"Location": where})
