"""How many rounds are measured? As many as were asked for; fewer when their time is up."""

import time
from collections.abc import Iterator

MIN_ROUNDS = 3


def iterate_rounds(rounds: int, limit_s: float) -> Iterator[int]:
    """Count the rounds; after the fewest that say anything, stop when the time is up."""
    started_s = time.monotonic()
    for round_number in range(rounds):
        if round_number >= MIN_ROUNDS and time.monotonic() - started_s > limit_s * round_number / (
            round_number + 1
        ):
            return  # the next would not be done in time
        yield round_number
