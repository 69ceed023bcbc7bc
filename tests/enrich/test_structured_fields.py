"""Tests of the parser of structured fields (RFC 9651)."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.enrich.structured_fields import BareItem, Item, parse_dictionary, parse_list

KEYS = st.from_regex(r"[a-z*][a-z0-9_.*-]{0,5}", fullmatch=True)
STRINGS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**15) + 1, 10**15 - 1),
    st.integers(-(10**12), 10**12).map(lambda number: number / 1000),
    STRINGS,
)


def encode_value(value: BareItem) -> str:
    """Return a value as RFC 9651 serialises it."""
    match value:
        case bool():
            return f"?{int(value)}"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)


def encode_item(item: Item) -> str:
    """Return an item as RFC 9651 serialises it."""
    parameters = (f"; {key}={encode_value(value)}" for key, value in item.parameters.items())
    return encode_value(item.value) + "".join(parameters)


ITEMS = st.builds(Item, VALUES, st.dictionaries(KEYS, VALUES, max_size=3))


@given(st.lists(ITEMS, max_size=4), st.sampled_from([",", ", ", " ,\t"]))
def test_parse_list_of_a_serialised_list_returns_it(items: list[Item], separator: str) -> None:
    """Every value and parameter comes back, whatever stands around the commas."""
    assert parse_list(f" {separator.join(map(encode_item, items))} ") == items


@given(st.dictionaries(KEYS, ITEMS, max_size=4))
def test_parse_dictionary_of_a_serialised_dictionary_returns_it(members: dict[str, Item]) -> None:
    """Every member comes back."""
    text = ", ".join(f"{key}={encode_item(item)}" for key, item in members.items())
    assert parse_dictionary(text) == members


@given(st.text(st.sampled_from('"\\;,=a1.-? \t:@%()*é')) | st.text())
@example("a" * 5000)
def test_parse_of_any_text_never_raises(text: str) -> None:
    """Malformed text is an empty list and an empty dictionary."""
    assert isinstance(parse_list(text), list)
    assert isinstance(parse_dictionary(text), dict)


@pytest.mark.parametrize(
    "text",
    [
        "a,",
        ",a",
        "a b",
        '"a',
        '"é"',
        "1.",
        "1.2345",
        "1" * 16,
        "a;",
        "a;B",
        "a;b=",
        "(a)",
        "?2",
        "a,,b",
    ],
)
def test_parse_list_of_a_malformed_field_is_empty(text: str) -> None:
    """The RFC lets a field count as absent when any part of it is malformed."""
    assert parse_list(text) == []
    assert parse_list(f"good, {text}") == []


def test_parse_dictionary_reads_flags_and_the_last_of_repeated_keys() -> None:
    """A member without a value means true, and keeps its parameters."""
    assert parse_dictionary("a;b, c=1, c=2;d") == {
        "a": Item(True, {"b": True}),
        "c": Item(2, {"d": True}),
    }
    assert parse_dictionary("a, =1") == parse_dictionary("A=1") == {}
