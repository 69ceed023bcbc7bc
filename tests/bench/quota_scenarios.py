"""The scenarios of the quota benchmark."""

from msgspec import Struct

from service.simulate.quota import Limits


class Scenario(Struct, frozen=True, kw_only=True):
    """One scenario: its rate limits, the numbers of workers and the number of windows."""

    description: str
    limits: Limits
    workers: tuple[int, ...] = (1, 4, 16)
    windows: int = 6

    @property
    def tickets(self) -> int:
        """The tickets that keep all workers busy for the windows, and for one more."""
        limit = self.limits.global_limit or self.limits.address_limit or 0
        return (limit - self.limits.competing_per_window) * (self.windows + 1)


SCENARIOS = {
    "all-headers": Scenario(
        description="2 s by the clock; all headers",
        limits=Limits(global_limit=200, window_ms=2000),
    ),
    "no-limit": Scenario(
        description="2 s by the clock; no Limit header",
        limits=Limits(global_limit=200, window_ms=2000, send_limit=False),
        workers=(4,),
    ),
    "competitor": Scenario(
        description="2 s by the clock; another client uses 60 of 200",
        limits=Limits(global_limit=200, window_ms=2000, competing_per_window=60),
    ),
    "first-call": Scenario(
        description="4 s from the first call",
        limits=Limits(global_limit=300, window_ms=4000, aligned_to="first_call"),
        workers=(4,),
        windows=4,
    ),
    "documented": Scenario(
        description="10 s from the first call",
        limits=Limits(global_limit=500, window_ms=10_000, aligned_to="first_call"),
        workers=(16,),
        windows=3,
    ),
    "no-reset": Scenario(
        description="10 s by the clock; no Reset header",
        limits=Limits(global_limit=500, window_ms=10_000, reset="absent"),
        workers=(4,),
        windows=2,
    ),
    "only-429": Scenario(
        description="2 s by the clock; no headers except Retry-After",
        limits=Limits(address_limit=200, window_ms=2000),
        workers=(4,),
        windows=8,
    ),
}
