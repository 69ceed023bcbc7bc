"""Text as one part of a URL's path."""

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from service.url_part import quote_part


@given(st.text())
def test_any_text_is_quoted_as_urllib_quotes_it(text: str) -> None:
    """The fast way and urllib agree for every text."""
    assert quote_part(text) == quote(text, safe="")
