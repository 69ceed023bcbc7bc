"""Steps: a long computation as a generator that yields where other tasks may run.

A step takes a few milliseconds. The event loop runs other tasks between two steps, so a large
response blocks neither the renewal of leases nor the receiver.
"""

from collections.abc import Generator, Iterator
from typing import TypeAlias, TypeVar

from msgspec import Raw

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]

LARGE_BYTES = 1 << 18
"""From this size on, a response is parsed in several steps."""

STEP_BYTES = 1 << 20
"""How many bytes one step checks or hashes: 1 to 4 ms."""


def finish_steps(steps: Steps[T]) -> T:
    """Run all steps at once and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def pause_if(condition: bool) -> Steps[None]:
    """End a step here if a condition holds, such as that the response is large."""
    if condition:
        yield


def cut_slices(body: bytes | Raw | memoryview) -> Iterator[tuple[memoryview, bool]]:
    """Yield the bytes of each step, and whether they are the last ones."""
    view = memoryview(body)
    for start in range(0, max(1, view.nbytes), STEP_BYTES):
        end = start + STEP_BYTES
        yield view[start:end], end >= view.nbytes
