"""Tests of the header with which browsers say that they accept compressed events."""

import pytest

from service.console.event_stream import accepts_gzip


@pytest.mark.parametrize(
    ("accept_encoding", "is_accepted"),
    [
        ("gzip, deflate, br, zstd", True),
        ("br, GZIP;q=0.5", True),
        ("gzip", True),
        ("deflate ,gzip ; q=1", True),
        ("", False),
        ("br", False),
        ("identity, gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("x-gzip-like", False),
        ("not gzip", False),
    ],
)
def test_gzip_is_accepted_when_it_is_named(accept_encoding: str, *, is_accepted: bool) -> None:
    """A quality of 0 excludes it."""
    assert accepts_gzip(accept_encoding) is is_accepted
