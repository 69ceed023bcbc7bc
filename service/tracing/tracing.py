"""What is done differently when traces are collected? Unless one is handed in, nothing."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from aiohttp import TraceConfig
from aiohttp.typedefs import Middleware
from msgspec import Struct

from service.accept.webhooks import Remember
from service.backlog.ticket import Lease
from service.enrich.verdict import Verdict
from service.publish.record import Entry
from service.publish.stream import Settled

T = TypeVar("T")

Enrich = Callable[[Lease], Awaitable[Verdict]]
Append = Callable[[Entry, Lease], Awaitable[Settled]]


def _leave(verb: T) -> T:
    return verb


class Tracing(Struct, frozen=True, kw_only=True):
    """What stands around the stages' verbs. As it comes, it hands each back as it is.

    ``middlewares`` are the door's, ``calls`` those of the session that asks LaunchDarkly, and
    ``attempt`` is entered for each try at a ticket.
    """

    middlewares: tuple[Middleware, ...] = ()
    calls: tuple[TraceConfig, ...] = ()
    carry: Callable[[Remember], Remember] = _leave
    attempt: Callable[[Lease], AbstractContextManager[object]] = nullcontext
    enrich: Callable[[Enrich], Enrich] = _leave
    append: Callable[[Append], Append] = _leave


OFF = Tracing()
