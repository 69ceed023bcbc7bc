"""Runs long computations step by step, and other tasks of the event loop in between."""

import asyncio
from typing import TypeVar

from service.enrich.steps import Steps

T = TypeVar("T")


class StepRunner:
    """Runs one computation of several steps at a time.

    Else the event loop would run a step of each before it looks at its connections.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, steps: Steps[T]) -> T:
        """Run a computation and return its result; one of a single step runs at once."""
        try:
            next(steps)
            async with self._lock:
                while True:
                    await asyncio.sleep(0)
                    next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
