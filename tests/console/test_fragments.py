"""Tests of the changes that a viewer of the overview is sent."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from service.console.fragments import Fragments, ListChange, find_changes

ROWS = st.permutations(["a", "b", "c", "d"]).flatmap(
    lambda keys: st.integers(0, 4).flatmap(
        lambda count: st.fixed_dictionaries(dict.fromkeys(keys[:count], st.sampled_from("xy")))
    )
)
FRAGMENTS = st.fixed_dictionaries({"error": st.sampled_from(["", "away"]), "events": ROWS})


def apply_changes(old: Fragments, changes: Mapping[str, str | ListChange]) -> Fragments:
    """Return what a viewer shows after the changes, as console.js does it."""
    shown = dict(old)
    for name, change in changes.items():
        if isinstance(change, ListChange):
            known = shown.get(name, {})
            assert isinstance(known, Mapping)
            keys = known if change.keys is None else change.keys
            shown[name] = {key: change.rows.get(key) or known[key] for key in keys}
        else:
            shown[name] = change
    return shown


@given(FRAGMENTS, FRAGMENTS)
def test_changes_make_the_new_fragments_of_the_old(old: Fragments, new: Fragments) -> None:
    """Rows come, go, change and move."""
    for known in (old, {}):
        shown = apply_changes(known, find_changes(known, new))
        assert shown == new
        assert list(shown["events"]) == list(new["events"])


@given(FRAGMENTS)
def test_equal_fragments_have_no_changes(fragments: Fragments) -> None:
    """Nothing is sent while nothing changes."""
    assert find_changes(fragments, fragments) == {}


def test_changed_row_is_sent_alone() -> None:
    """Neither the other rows nor the keys are sent."""
    old: Fragments = {"events": {"a": "1", "b": "1"}, "budget": "x"}
    new: Fragments = {"events": {"a": "1", "b": "2"}, "budget": "x"}
    assert find_changes(old, new) == {"events": ListChange({"b": "2"})}
