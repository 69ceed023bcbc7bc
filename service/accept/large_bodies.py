"""The processing of large bodies in a thread, beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from service.accept.named_fields import LARGE_BYTES

P = ParamSpec("P")
T = TypeVar("T")


async def run_aside(size: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that processes ``size`` bytes, in a thread if they are many.

    The event loop goes on wherever the function releases the interpreter lock: between two calls
    of C code, and within a digest or a compression.
    """
    if size < LARGE_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
