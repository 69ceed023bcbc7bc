"""How many rounds are measured? As many as were asked for; fewer when their time is up."""

import time
from collections.abc import Iterator

FEWEST = 3


def take_turns(rounds: int, limit_s: float) -> Iterator[int]:
    """Count the rounds; after the fewest that say anything, stop when the time is up."""
    begun = time.monotonic()
    for turn in range(rounds):
        if turn >= FEWEST and time.monotonic() - begun > limit_s * turn / (turn + 1):
            return  # the next would not be done in time
        yield turn
