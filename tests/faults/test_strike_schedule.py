"""Is the same storm drawn from the same seed, and does it reach everything?"""

from collections import Counter
from itertools import islice

from tests.faults.strike_schedule import StrikeConfig, draw_strikes
from tests.faults.traffic import TrafficConfig, draw_webhooks

STRIKE_CONFIG = StrikeConfig(interval_s=1.5, lease_s=2.0)


def test_a_seed_gives_the_same_strokes() -> None:
    """A storm can be run again; another seed is another storm."""
    first, again, other = (list(islice(draw_strikes(s, STRIKE_CONFIG), 100)) for s in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_role_is_struck_in_every_way() -> None:
    """Most strokes are kills, and no freeze is shorter than a lease."""
    strikes = list(islice(draw_strikes(1, STRIKE_CONFIG), 2000))
    seen = Counter((strike.role, strike.action) for strike in strikes)
    roles = ("worker", "receiver", "redis", "upstream")
    assert set(seen) == {(r, b) for r in roles for b in ("kill", "term", "freeze")} | {
        ("all", "kill")
    }
    assert sum(strike.action == "kill" for strike in strikes) > 1500
    assert all(
        strike.duration_s > STRIKE_CONFIG.lease_s for strike in strikes if strike.action == "freeze"
    )


def test_a_seed_gives_the_same_webhooks() -> None:
    """Known, to be found, and about what was told before; no delivery has the name of another."""
    first, again = (list(islice(draw_webhooks(7, TrafficConfig()), 1000)) for _ in range(2))
    assert first == again
    assert len({webhook.delivery for webhook in first}) == 1000
    jobs = Counter(webhook.job for webhook in first)
    assert 50 < sum(times - 1 for times in jobs.values()) < 200
    assert 50 < sum(webhook.deployment is not None for webhook in first) < 200
    assert {webhook.copies for webhook in first} == {2, 3}
