"""Tests of the parser of rate-limit headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.enrich.rate_limits import (
    RateLimitHeaders,
    RateLimitWindow,
    parse_rate_limits,
)

NOW_MS = 1_795_428_000_000
DATE = "Mon, 23 Nov 2026 10:00:00 GMT"
HTTP_DATE_MS = 1_795_428_000_000


def parse_headers(headers: dict[str, str | list[str]], route: str = "get") -> RateLimitHeaders:
    """Return the rate limits of one response; a list holds the values of a repeated header."""
    pairs = [
        (name, value)
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return parse_rate_limits(pairs, route=route, now_ms=NOW_MS)


def test_parse_rate_limits_without_headers_returns_nothing() -> None:
    """Every header may be missing."""
    assert parse_headers({}) == RateLimitHeaders()


def test_parse_rate_limits_returns_a_window_per_family() -> None:
    """Global and route windows share a reset; the token has its own."""
    rate_limits = parse_headers(
        {
            "X-Ratelimit-Global-Limit": "100",
            "X-Ratelimit-Global-Remaining": "42",
            "X-Ratelimit-Route-Remaining": "4",
            "X-Ratelimit-Reset": "1795428010000",
            "X-Ratelimit-Auth-Token-Limit": "1000",
            "X-Ratelimit-Auth-Token-Remaining": "900",
            "X-Ratelimit-Auth-Token-Reset": "1795428007000",
            "Date": DATE,
        },
        route="list",
    )
    assert rate_limits.windows == (
        RateLimitWindow(family="global", limit=100, remaining=42, reset_ms=1_795_428_010_000),
        RateLimitWindow(family="route:list", limit=None, remaining=4, reset_ms=1_795_428_010_000),
        RateLimitWindow(family="token", limit=1000, remaining=900, reset_ms=1_795_428_007_000),
    )
    assert (rate_limits.date_ms, rate_limits.retry_after_ms, rate_limits.resume_at_ms) == (
        HTTP_DATE_MS,
        None,
        None,
    )


@pytest.mark.parametrize(
    "value", ["", "-1", "1e3", "0x10", "12.5", "\u0663", "soon", "9" * 16, "+5"]
)
def test_parse_rate_limits_of_invalid_numbers_ignores_them(value: str) -> None:
    """Malformed, negative and very large values are ignored."""
    assert parse_headers({"X-Ratelimit-Global-Remaining": value}).windows == ()
    assert parse_headers({"Retry-After": value}).retry_after_ms is None


def test_parse_rate_limits_of_repeated_headers_takes_the_most_careful() -> None:
    """The smallest Remaining and the latest moment count."""
    rate_limits = parse_headers(
        {
            "X-Ratelimit-Global-Remaining": ["7", "3"],
            "X-Ratelimit-Reset": "1795428001000, 1795428002000",
            "Retry-After": ["1", "5"],
        }
    )
    assert rate_limits.windows[0].remaining == 3
    assert rate_limits.windows[0].reset_ms == 1_795_428_002_000
    assert rate_limits.retry_after_ms == 5000


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({"Retry-After": "7"}, 7000),
        ({"Retry-After": "Mon, 23 Nov 2026 10:00:30 GMT", "Date": DATE}, 30_000),
        ({"Retry-After": "Mon, 23 Nov 2026 10:00:30 GMT"}, 30_000),
        ({"Retry-After": "Mon, 23 Nov 2026 09:00:00 GMT", "Date": DATE}, None),
        ({"Retry-After": "Mon, 99 Foo 2026"}, None),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "999999999"}, 999_999_999_000),
        ({"Retry-After": "1795428030", "Date": DATE}, 30_000),
        ({"Retry-After": "1795428030"}, 30_000),
        ({"Retry-After": "1795428030500"}, 30_500),
        ({"Retry-After": "1795427970"}, None),
        ({"Retry-After": "1795427970000", "Date": DATE}, None),
        ({"Retry-After": ["1795428030", "7"]}, 30_000),
    ],
)
def test_parse_rate_limits_accepts_retry_after_as_seconds_epoch_or_date(
    headers: dict[str, str], wait_ms: int | None
) -> None:
    """A date or epoch is measured from the Date header; one in the past is ignored."""
    assert parse_headers({**headers}).retry_after_ms == wait_ms


@pytest.mark.parametrize(
    ("headers", "resume_at_ms"),
    [
        ({"X-Ratelimit-Reset": "10"}, 10),
        ({"X-Ratelimit-Reset": "10", "X-Ratelimit-Global-Remaining": "0"}, 10),
        ({"X-Ratelimit-Reset": "10", "X-Ratelimit-Route-Remaining": "3"}, None),
        ({"X-Ratelimit-Auth-Token-Reset": "20"}, 20),
        ({"X-Ratelimit-Auth-Token-Reset": "20", "X-Ratelimit-Auth-Token-Remaining": "1"}, None),
        ({"X-Ratelimit-Reset": "10", "X-Ratelimit-Auth-Token-Reset": "20"}, 20),
    ],
)
def test_resume_at_is_the_latest_reset_of_used_up_windows(
    headers: dict[str, str], resume_at_ms: int | None
) -> None:
    """A reset counts if its Remaining is 0 or unknown."""
    assert parse_headers({**headers}).resume_at_ms == resume_at_ms


@pytest.mark.parametrize("reset", ["1795428010", "1795428010000"])
def test_parse_rate_limits_takes_a_reset_in_seconds_for_what_it_is(reset: str) -> None:
    """As ms it would be a day of January 1970."""
    rate_limits = parse_headers(
        {"X-Ratelimit-Global-Remaining": "0", "X-Ratelimit-Reset": reset, "Date": DATE}
    )
    assert rate_limits.windows[0].reset_ms == rate_limits.resume_at_ms == NOW_MS + 10_000


POLICY = RateLimitWindow(family="policy", limit=100, remaining=50, reset_ms=NOW_MS + 31_000)


@pytest.mark.parametrize(
    ("headers", "window", "wait_ms"),
    [
        (
            {"RateLimit": '"a";r=50;t=30', "RateLimit-Policy": '"a";q=100;w=60'},
            POLICY,
            None,
        ),
        ({"RateLimit": "limit=100, remaining=50, reset=30"}, POLICY, None),
        (
            {
                "RateLimit-Limit": "100, 100;w=60",
                "RateLimit-Remaining": "50",
                "RateLimit-Reset": "30",
            },
            POLICY,
            None,
        ),
        ({"RateLimit": '"a";r=50'}, replace(POLICY, limit=None, reset_ms=None), None),
        ({"RateLimit": '"a";r=0;t=30'}, replace(POLICY, limit=None, remaining=0), 30_000),
        ({"RateLimit": '"a";r=0;t=1795428030'}, replace(POLICY, limit=None, remaining=0), 30_000),
        ({"RateLimit": '"a";r=0;t=3', "Retry-After": "30"}, None, 30_000),
        (
            {
                "RateLimit": ['"hour";r=900;t=30', '"minute";r=50;t=30, "bytes";r=0;t=9'],
                "RateLimit-Policy": '"minute";q=100;w=60, "bytes";q=9;w=9;qu="content-bytes"',
            },
            POLICY,
            None,
        ),
        ({"RateLimit": '"a";r=50;t=30, "b"('}, (), None),
        ({"RateLimit": '"a";r=-1;t=30', "RateLimit-Remaining": "50"}, (), None),
        ({"RateLimit": '"a";r=?1;t=30'}, (), None),
        ({"RateLimit": "50"}, (), None),
    ],
)
def test_parse_rate_limits_reads_the_fields_of_the_ietf(
    headers: dict[str, str | list[str]], window: object, wait_ms: int | None
) -> None:
    """Each form of the draft is one window more; malformed fields and limits on bytes are none."""
    rate_limits = parse_headers({**headers, "Date": DATE})
    if window is not None:
        assert rate_limits.windows == ((window,) if window else ())
    assert (rate_limits.retry_after_ms, rate_limits.resume_at_ms) == (wait_ms, None)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("Retry-After", "Date", "X-Ratelimit-Reset", "X-Ratelimit-Global-Remaining"),
                *("RateLimit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset"),
            ]
        ),
        st.lists(
            st.text()
            | st.integers().map(str)
            | st.builds('"{}";r={};t={};q={}'.format, *[st.integers() | st.text(max_size=2)] * 4),
            max_size=3,
        ),
    )
)
def test_parse_rate_limits_of_any_headers_returns_sane_values(
    headers: dict[str, str | list[str]],
) -> None:
    """No header value leads to a negative number."""
    rate_limits = parse_headers(headers)
    assert all(window.remaining >= 0 for window in rate_limits.windows)
    assert rate_limits.retry_after_ms is None or rate_limits.retry_after_ms >= 0


def test_retry_after_date_is_measured_from_the_date_header() -> None:
    """The local clock may be wrong by minutes; it is used only without a Date header."""
    rate_limits = parse_headers(
        {"Date": "Mon, 23 Nov 2026 09:00:00 GMT", "Retry-After": "Mon, 23 Nov 2026 09:00:30 GMT"}
    )
    assert rate_limits.retry_after_ms == 30_000
