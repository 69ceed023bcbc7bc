"""The hooks that tracing puts around the stages; without tracing they change nothing."""

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
    """What wraps the stages; by default each stage is returned unchanged.

    ``middlewares`` are for the receiver, ``trace_configs`` for LaunchDarkly's session.
    ``wrap_enqueue`` carries a trace from a webhook to its ticket, ``wrap_worker`` from the ticket
    to the entry of the stream.
    """

    middlewares: tuple[Middleware, ...] = ()
    trace_configs: tuple[TraceConfig, ...] = ()
    wrap_enqueue: Callable[[Enqueue], Enqueue] = _unchanged
    wrap_worker: Callable[[WorkerDependencies], WorkerDependencies] = _unchanged


NO_TRACING = Tracing()
