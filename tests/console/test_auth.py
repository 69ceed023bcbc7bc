"""Tests of the console's sessions and CSRF tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.console.auth import SESSION_S, ConsoleAuth, derive_key, is_own_origin

NOW_S = 1_795_428_000.0
SESSION_ID = "0a" * 16
AUTH = ConsoleAuth(
    token="a-token-of-the-operators", signing_key=derive_key("a-token-of-the-operators")
)
SESSION = AUTH.issue_session(now_s=NOW_S, session_id=SESSION_ID)


@pytest.mark.parametrize(
    ("later_s", "is_valid"),
    [(0, True), (SESSION_S, True), (SESSION_S + 1, False), (10 * SESSION_S, False)],
)
def test_session_after_its_end_is_invalid(later_s: float, is_valid: bool) -> None:
    """A session ends after half a day, whatever the cookie's own age says."""
    assert AUTH.is_valid_session(SESSION, now_s=NOW_S + later_s) is is_valid


def test_session_of_another_token_is_invalid() -> None:
    """A new token signs everybody out; receivers with the same token share their sessions."""
    other = ConsoleAuth(
        token="another-token-of-theirs", signing_key=derive_key("another-token-of-theirs")
    )
    replica = ConsoleAuth(token=AUTH.token, signing_key=derive_key(AUTH.token))
    assert not other.is_valid_session(SESSION, now_s=NOW_S)
    assert replica.is_valid_session(SESSION, now_s=NOW_S)


@given(st.text() | st.from_regex(r"\d{1,14}\.[0-9a-f]{32}\.[0-9a-f]{64}", fullmatch=True))
def test_session_that_was_not_issued_is_invalid(forged: str) -> None:
    """No other text is a session, and none is a CSRF token."""
    assert not AUTH.is_valid_session(forged, now_s=NOW_S)
    assert not AUTH.is_valid_csrf_token(forged, session=SESSION)


def test_session_with_a_changed_end_is_invalid() -> None:
    """The signature covers the end of the session."""
    end, session_id, signature = SESSION.split(".")
    assert not AUTH.is_valid_session(f"{int(end) + 1}.{session_id}.{signature}", now_s=NOW_S)


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({"Origin": "http://h:1", "Host": "h:1"}, True),
        ({"Origin": "https://h", "Host": "H"}, True),
        ({"Origin": "https://evil", "Host": "h"}, False),
        ({"Origin": "null", "Host": "h"}, False),
        ({"Origin": "https://h", "Host": "upstream", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://h", "Host": "h", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "https://h", "Host": "h", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Host": "h"}, False),
    ],
)
def test_form_is_accepted_from_the_console_only(headers: dict[str, str], *, is_own: bool) -> None:
    """Behind a proxy that changes Host, the browser's own word decides."""
    assert is_own_origin(headers) is is_own


def test_csrf_token_of_another_session_is_invalid() -> None:
    """A form that was shown to somebody else is refused."""
    other = AUTH.issue_session(now_s=NOW_S, session_id="0b" * 16)
    assert AUTH.is_valid_csrf_token(AUTH.csrf_token(SESSION), session=SESSION)
    assert not AUTH.is_valid_csrf_token(AUTH.csrf_token(SESSION), session=other)


def test_consoles_at_one_host_have_cookies_of_their_own() -> None:
    """Another port or another token: signing in at one does not sign out of the other."""
    other = ConsoleAuth(token="another", signing_key=derive_key("another-token-of-theirs"))
    names = [auth.cookie_name(host) for auth in (AUTH, other) for host in ("h:1", "h:2", "h")]
    assert len(set(names)) == len(names)
    assert AUTH.cookie_name("h") == ConsoleAuth(
        token=AUTH.token, signing_key=derive_key(AUTH.token)
    ).cookie_name("h")
