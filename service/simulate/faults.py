"""What each fault does to a good response."""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from service.simulate.options import Json
from service.simulate.rates import Fault
from service.simulate.responses import SimulatedResponse, json_response

_HALF = 0.5
_ERROR_STATUSES = (500, 502, 503, 504)
_HTML_HEADERS = {"Content-Type": "text/html; charset=utf-8"}
_LINK_FAULTS = frozenset(
    {Fault.FOREIGN_LINK, Fault.SCHEMELESS_LINK, Fault.FILE_LINK, Fault.LOOP_LINK}
)


class FaultContext(msgspec.Struct, frozen=True, kw_only=True):
    """The path and query of the call, the URL for hostile links, and a random number (0 to 1)."""

    href: str
    lure_url: str
    roll: float


def is_from_gateway(fault: Fault | None) -> bool:
    """Return whether a gateway in front of the API responds: it sends no rate-limit headers."""
    return fault in {Fault.ERROR_HTML, Fault.ERROR_EMPTY}


def apply_fault(
    response: SimulatedResponse, fault: Fault, context: FaultContext
) -> SimulatedResponse:
    """Return the response after the fault. A connection fault does not change the response."""
    status = _ERROR_STATUSES[int(context.roll * len(_ERROR_STATUSES)) % len(_ERROR_STATUSES)]
    match fault:
        case Fault.ERROR:
            body = {"code": "internal_service_error", "message": "Something went wrong"}
            return json_response(body, status=status)
        case Fault.ERROR_HTML:
            return SimulatedResponse(status=status, body=_error_page(status), headers=_HTML_HEADERS)
        case Fault.ERROR_EMPTY:
            return SimulatedResponse(status=status, headers={})
        case Fault.REDIRECT:
            return SimulatedResponse(
                status=302, headers={"Location": f"{context.lure_url}{context.href}"}
            )
        case Fault.RESET | Fault.DRIP | Fault.OVERSIZED:
            return response
        case _:
            return _corrupt_body(response, fault, context)


def _corrupt_body(
    response: SimulatedResponse, fault: Fault, context: FaultContext
) -> SimulatedResponse:
    if response.status != HTTPStatus.OK or not response.body:
        return response
    match fault:
        case Fault.HTML:
            return SimulatedResponse(status=200, body=_error_page(200), headers=_HTML_HEADERS)
        case Fault.TRUNCATED:
            first_half = response.body[: len(response.body) // 2]
            return msgspec.structs.replace(response, body=first_half)
        case Fault.EMPTY:
            return msgspec.structs.replace(response, body=b"")
        case Fault.WRONG_TYPES:
            corrupted = _change_types(msgspec.json.decode(response.body))
        case _:
            corrupted = _corrupt_collections(msgspec.json.decode(response.body), fault, context)
    return msgspec.structs.replace(response, body=msgspec.json.encode(corrupted))


def _change_types(value: Any) -> Any:
    """Replace numbers and booleans with strings and lists with objects, at every level."""
    match value:
        case bool():
            return str(value)
        case int():
            return "many"
        case list():
            return {str(index): _change_types(item) for index, item in enumerate(value)}
        case dict():
            return {key: _change_types(item) for key, item in value.items()}
        case _:
            return value


def _corrupt_collections(value: Any, fault: Fault, context: FaultContext) -> Any:
    match value:
        case {"items": list(), "totalCount": int(), "_links": dict()}:
            return _corrupt_collection(value, fault, context)
        case dict():
            return {key: _corrupt_collections(item, fault, context) for key, item in value.items()}
        case _:
            return value


def _corrupt_collection(collection: Json, fault: Fault, context: FaultContext) -> Json:
    if fault is Fault.REPEATED_ITEMS:
        repeated = [item for item in collection["items"] for _ in range(2)]
        return {**collection, "items": repeated}
    if fault is Fault.FALSE_TOTAL:
        total = collection["totalCount"]
        return {**collection, "totalCount": total * 3 + 7 if context.roll < _HALF else total // 2}
    if fault in _LINK_FAULTS:
        links = {**collection["_links"], "next": {"href": _lure_link(fault, context)}}
        # The total is one too high. A caller that stops at the total would never follow the link.
        return {**collection, "totalCount": collection["totalCount"] + 1, "_links": links}
    return collection


def _lure_link(fault: Fault, context: FaultContext) -> str:
    match fault:
        case Fault.FOREIGN_LINK:
            return f"{context.lure_url}{context.href}"
        case Fault.SCHEMELESS_LINK:
            return f"//{context.lure_url.partition('://')[2]}{context.href}"
        case Fault.FILE_LINK:
            return "file:///etc/passwd"
        case _:
            return context.href


def _error_page(status: int) -> bytes:
    title = f"{status} from the gateway"
    return f"<!doctype html><title>{title}</title><h1>{title}</h1>\n".encode()


_CHUNK_BYTES = 64 * 1024


class SlowBody(msgspec.Struct, frozen=True, kw_only=True):
    """The chunk size and the pause between two chunks of a slow body."""

    chunk_bytes: int
    interval_s: float


def full_response(response: SimulatedResponse) -> web.Response:
    """Return the whole response at once."""
    return web.Response(status=response.status, body=response.body, headers=response.headers)


def abort_connection(request: web.Request) -> web.Response:
    """Abort the connection. aiohttp needs a return value, but nobody receives it."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def send_slowly(
    request: web.Request, source: SimulatedResponse, slow_body: SlowBody
) -> web.StreamResponse:
    """Send the full Content-Length, then the body in small chunks with pauses."""
    response = web.StreamResponse(status=source.status, headers=source.headers)
    response.content_length = len(source.body)
    await response.prepare(request)
    for start in range(0, len(source.body), slow_body.chunk_bytes):
        await response.write(source.body[start : start + slow_body.chunk_bytes])
        await asyncio.sleep(slow_body.interval_s)
    await response.write_eof()
    return response


async def send_oversized(
    request: web.Request, source: SimulatedResponse, length: int
) -> web.StreamResponse:
    """Stream a JSON body with `length` bytes of padding, without a Content-Length."""
    response = web.StreamResponse(status=200, headers=source.headers)
    await response.prepare(request)
    await response.write(b'{"metadata":{"padding":"')
    padding = b"x" * _CHUNK_BYTES
    for start in range(0, length, _CHUNK_BYTES):
        await response.write(padding[: length - start])
    await response.write(b'"}}')
    await response.write_eof()
    return response
