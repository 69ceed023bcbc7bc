"""How long to wait? Numbers in, seconds out."""

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Full jitter: anything between nothing and a ceiling that doubles with each attempt.

    base 2 s, cap 300 s:  attempt 1 -> up to 2 s, 2 -> 4, 3 -> 8, ... 8 -> 256, 9 and on -> 300
    """

    base_s: float = 2.0
    cap_s: float = 300.0

    def max_delay(self, attempt: int) -> float:
        """Give the longest wait after the ``attempt``-th try (from 1), in seconds."""
        exponent = min(max(attempt, 1) - 1, 62)
        return min(self.cap_s, self.base_s * 2.0**exponent)

    def delay(self, attempt: int, jitter: float) -> float:
        """Give the wait after the ``attempt``-th try, in seconds; ``chance`` is in [0, 1).

        A tenth of the ceiling is the least, so that no retry follows at once.
        """
        max_delay = self.max_delay(attempt)
        return max_delay / 10 + jitter * max_delay * 9 / 10
