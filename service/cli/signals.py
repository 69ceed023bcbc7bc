"""SIGINT and SIGTERM while a command runs: the first stops it, a second cuts the stopping short."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import partial, wraps
from typing import Any, NoReturn, ParamSpec

from service.cli.event_loop import new_event_loop

Parameters = ParamSpec("Parameters")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_async(
    function: Callable[Parameters, Coroutine[Any, Any, int | None]],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Callable[Parameters, int]:
    """Turn a coroutine function into a command: run it until it ends or a signal stops it.

    The command returns the exit code: what the coroutine returned, or 0. ``loop_factory`` None: on
    asyncio's event loop.
    """

    @wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> int:
        with _handlers_restored(), asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_run_until_signalled(function(*args, **kwargs)))

    return run


run_service = partial(run_async, loop_factory=new_event_loop)
"""As :func:`run_async`, on the event loop of the service."""


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    """Restore the signal handlers at the end. uvloop would leave those of a closed loop."""
    handlers = {number: signal.getsignal(number) for number in (*_STOP_SIGNALS, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


async def _run_until_signalled(command: Coroutine[Any, Any, int | None]) -> int:
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    for signal_number in _STOP_SIGNALS:
        loop.add_signal_handler(signal_number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        return await task or 0
    return 0


@contextlib.contextmanager
def signals_cancel_at_once() -> Iterator[None]:
    """Let a signal cancel the command inside a blocking call, where the event loop is not running.

    A prompt needs this: the handlers of the loop would wait until the user has answered.
    """
    previous_handlers = [
        (number, signal.signal(number, _raise_cancelled)) for number in _STOP_SIGNALS
    ]
    try:
        yield
    finally:
        for number, handler in previous_handlers:
            signal.signal(number, handler)


def _raise_cancelled(_signal_number: int, _frame: object) -> NoReturn:
    raise asyncio.CancelledError
