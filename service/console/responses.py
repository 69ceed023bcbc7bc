"""HTTP responses and form fields of the console."""

import asyncio
from urllib.parse import urlencode

from aiohttp import web

IO_TIMEOUT_S = 10.0
_FORM_CONTENT_TYPE = "application/x-www-form-urlencoded"

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send the Origin of forms as null
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


async def read_form_field(request: web.Request, name: str) -> str:
    """Return one field of a form; empty when it is missing or a file."""
    if request.content_type != _FORM_CONTENT_TYPE:
        return ""
    try:
        async with asyncio.timeout(IO_TIMEOUT_S):
            value = (await request.post()).get(name, "")
    except (TimeoutError, ValueError, LookupError, OSError, web.RequestPayloadError):
        return ""  # too slow, or not decodable
    return value if isinstance(value, str) else ""


def html_response(html: str, *, status: int = 200) -> web.Response:
    """Return a page, with the security headers."""
    return web.Response(
        text=html, status=status, content_type="text/html", headers=SECURITY_HEADERS
    )


def root_of(request: web.Request) -> str:
    """Return the relative URL of the overview, as seen from the page that is requested.

    All links of the console begin with it. So they are right behind a proxy that serves the console
    below a path of its own, and the receiver need not know that path.
    """
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"


def redirect(request: web.Request, path: str, **query: str) -> web.Response:
    """Return a redirect after a form, so that a reload does not send the form again.

    ``path`` is relative to the overview.
    """
    location = root_of(request) + path + (f"?{urlencode(query)}" if query else "")
    return web.Response(status=303, headers=SECURITY_HEADERS | {"Location": location})
