"""Times of events, in the formats of many senders."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.accept.mapping import parse_time

NOON_MS = 1_746_187_200_000  # 2025-05-02T12:00:00Z


@pytest.mark.parametrize(
    "written",
    [
        NOON_MS,
        NOON_MS // 1000,
        NOON_MS / 1000,
        float(NOON_MS),
        str(NOON_MS),
        str(NOON_MS // 1000),
        "2025-05-02T12:00:00Z",
        "2025-05-02T12:00:00.000+00:00",
        "2025-05-02T12:00:00.0000000Z",
        "2025-05-02T12:00Z",
        "2025-05-02T20:00:00.000+0800",
        "2025-05-02 12:00:00 +0000",
        "2025-05-02 07:30:00 -0430",
        "2025-05-02T14:00:00+02",
        "2025-05-02 12:00:00 UTC",
        f"{NOON_MS // 1000}.000",
    ],
)
def test_time_is_parsed_in_every_format_of_senders(written: object) -> None:
    """Epoch seconds, epoch milliseconds, digits in a text, ISO 8601 with an offset."""
    assert parse_time(written) == NOON_MS


@pytest.mark.parametrize(
    "written",
    [
        None,
        True,
        0,
        -1,
        10**30,
        1e300,
        "",
        "now",
        "-5",
        "9" * 5000,
        "2025-05-02",
        "2025-05-02T12:00:00",
        "2025-06-31T12:00:00Z",
        "2025-05-02T25:00:00Z",
        "2025-05-02T12:00:00+99:99",
        "٢025-05-02T12:00:00Z",
        "Fri, 02 May 2025 12:00:00 GMT",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "1.5.2",
        [NOON_MS],
        {"$date": NOON_MS},
    ],
)
def test_other_values_are_not_parsed_as_time(written: object) -> None:
    """A time without an offset is ambiguous, and is not parsed."""
    assert parse_time(written) is None


def test_time_fractions_are_cut_to_milliseconds() -> None:
    """Azure writes seven digits."""
    assert parse_time("2025-05-02T12:00:00.1239999Z") == NOON_MS + 123


@given(ms=st.integers(100_000_000_000, 253_402_300_799_999))
def test_time_in_milliseconds_is_unchanged(ms: int) -> None:
    """LaunchDarkly's own senders write milliseconds."""
    assert parse_time(ms) == parse_time(str(ms)) == ms


@example(ms=1_746_187_200_001)
@given(ms=st.integers(1, 253_402_300_799_999))
def test_parsed_time_is_exact_to_the_millisecond(ms: int) -> None:
    """ISO 8601 and seconds with a fraction neither lose nor gain a millisecond."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert parse_time(moment.isoformat()) == ms
    if ms < 100_000_000_000_000:
        assert parse_time(ms / 1000) == parse_time(f"{ms // 1000}.{ms % 1000:03}") == ms


@given(written=st.text() | st.integers() | st.floats() | st.none())
def test_arbitrary_values_parse_to_a_time_in_range_or_none(written: object) -> None:
    """Nothing is raised, and no year is out of range."""
    time_ms = parse_time(written)
    assert time_ms is None or 0 <= time_ms <= 253_402_300_799_999
