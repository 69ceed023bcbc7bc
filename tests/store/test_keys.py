"""Tests of the names of Redis keys."""

from service.store.keys import Keys


def test_name_is_made_once() -> None:
    """Every webhook and every record reads them, so that making them each time would cost."""
    keys = Keys("team-a")
    assert keys.backlog == "{team-a}:backlog"
    assert keys.backlog is keys.backlog
    assert keys == Keys("team-a")
    assert hash(keys) == hash(Keys("team-a"))
