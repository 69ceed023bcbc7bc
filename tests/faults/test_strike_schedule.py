"""Tests of the schedule: equal seeds give equal storms, and every target is struck."""

from collections import Counter
from itertools import islice

from tests.faults.strike_schedule import StrikeConfig, draw_strikes
from tests.faults.traffic import TrafficConfig, draw_webhooks

STRIKE_CONFIG = StrikeConfig(interval_s=1.5, lease_s=2.0)


def test_equal_seeds_give_equal_strikes() -> None:
    """A storm can be repeated; another seed gives another storm."""
    first, again, other = (list(islice(draw_strikes(s, STRIKE_CONFIG), 100)) for s in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_role_is_struck_by_every_action() -> None:
    """Most strikes are kills. All but kills, stops and jumps last longer than a lease."""
    strikes = list(islice(draw_strikes(1, STRIKE_CONFIG), 4000))
    seen = Counter((strike.role, strike.action) for strike in strikes)
    own_actions = {
        ("worker", "log"),
        ("receiver", "log"),
        ("redis", "memory"),
        ("redis", "clock"),
        ("upstream", "forbid"),
        ("upstream", "cut"),
        ("all", "kill"),
    }
    roles = ("worker", "receiver", "redis", "upstream")
    assert set(seen) == {(r, b) for r in roles for b in ("kill", "term", "freeze")} | own_actions
    assert sum(strike.action == "kill" for strike in strikes) > 2000
    assert all(
        strike.duration_s > STRIKE_CONFIG.lease_s
        for strike in strikes
        if strike.action not in {"kill", "term", "clock"}
    )
    jumps_s = [strike.clock_ahead_s for strike in strikes if strike.action == "clock"]
    assert min(jumps_s) < -STRIKE_CONFIG.lease_s < STRIKE_CONFIG.lease_s < max(jumps_s)


def test_equal_seeds_give_equal_webhooks() -> None:
    """Webhooks have an id, have to be found, or repeat a deployment. Deliveries are unique."""
    first, again = (list(islice(draw_webhooks(7, TrafficConfig()), 1000)) for _ in range(2))
    assert first == again
    assert len({webhook.delivery for webhook in first}) == 1000
    jobs = Counter(webhook.job for webhook in first)
    assert 50 < sum(times - 1 for times in jobs.values()) < 200
    assert 50 < sum(webhook.deployment is not None for webhook in first) < 200
    assert {webhook.copies for webhook in first} == {2, 3}
    assert not any(webhook.is_reported for webhook in first)


def test_some_deployments_are_reported_by_the_service_alone() -> None:
    """LaunchDarkly does not know them before; a half of them has the webhook of a start."""
    config = TrafficConfig(reported_share=0.2)
    reported = [
        webhook for webhook in islice(draw_webhooks(7, config), 1000) if webhook.is_reported
    ]
    assert 150 < len(reported) < 250
    assert not any(webhook.deployment for webhook in reported)
    assert 50 < sum(webhook.has_start for webhook in reported) < 150
    assert {webhook.event["eventType"] for webhook in reported} == {"finished", "failed"}
