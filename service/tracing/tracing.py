"""What is done differently when traces are collected? Unless one is handed in, nothing."""

from collections.abc import Callable
from typing import TypeVar

from aiohttp import TraceConfig
from aiohttp.typedefs import Middleware
from msgspec import Struct

from service.accept.handler import Enqueue
from service.worker import WorkerDependencies

T = TypeVar("T")


def _unchanged(value: T) -> T:
    return value


class Tracing(Struct, frozen=True, kw_only=True):
    """What stands around the stages' verbs. As it comes, it hands each back as it is.

    ``middlewares`` are the receiver's, ``calls`` those of LaunchDarkly's session, ``carry``
    is the way from a webhook to its ticket, and ``join`` a worker's from the ticket to the entry.
    """

    middlewares: tuple[Middleware, ...] = ()
    trace_configs: tuple[TraceConfig, ...] = ()
    wrap_enqueue: Callable[[Enqueue], Enqueue] = _unchanged
    wrap_worker: Callable[[WorkerDependencies], WorkerDependencies] = _unchanged


NO_TRACING = Tracing()
