"""The rounds of a measurement: as many as configured, fewer when the time is up."""

import time
from collections.abc import Iterator

MIN_ROUNDS = 3


def iterate_rounds(rounds: int, limit_s: float) -> Iterator[int]:
    """Yield round numbers; after the minimum, stop when the next round would exceed the time."""
    started_s = time.monotonic()
    for round_number in range(rounds):
        if round_number >= MIN_ROUNDS and time.monotonic() - started_s > limit_s * round_number / (
            round_number + 1
        ):
            return  # the next round would end too late
        yield round_number
