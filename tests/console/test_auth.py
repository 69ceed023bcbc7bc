"""Does a pass let in whom it was written for, and only for its time?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.console.auth import SESSION_S, ConsoleAuth, derive_key

NOW_S = 1_795_428_000.0
NUMBER = "0a" * 16
GATE = ConsoleAuth(
    token="a-token-of-the-operators", signing_key=derive_key("a-token-of-the-operators")
)
PASS = GATE.issue_session(now_s=NOW_S, session_id=NUMBER)


@pytest.mark.parametrize(
    ("later_s", "lets_in"),
    [(0, True), (SESSION_S, True), (SESSION_S + 1, False), (10 * SESSION_S, False)],
)
def test_a_pass_ends(later_s: float, lets_in: bool) -> None:
    """After half a day one signs in again, whatever the cookie says of its age."""
    assert GATE.is_valid_session(PASS, now_s=NOW_S + later_s) is lets_in


def test_a_pass_of_another_token_is_none() -> None:
    """Who changes the token signs everybody out; receivers with one token share their passes."""
    other = ConsoleAuth(
        token="another-token-of-theirs", signing_key=derive_key("another-token-of-theirs")
    )
    twin = ConsoleAuth(token=GATE.token, signing_key=derive_key(GATE.token))
    assert not other.is_valid_session(PASS, now_s=NOW_S)
    assert twin.is_valid_session(PASS, now_s=NOW_S)


@given(st.text() | st.from_regex(r"\d{1,14}\.[0-9a-f]{32}\.[0-9a-f]{64}", fullmatch=True))
def test_nobody_makes_a_pass(given: str) -> None:
    """Anything else is none, and no mark either."""
    assert not GATE.is_valid_session(given, now_s=NOW_S)
    assert not GATE.is_valid_csrf_token(given, session=PASS)


def test_a_pass_cannot_be_made_to_last() -> None:
    """Its end is under the seal."""
    end, number, seal = PASS.split(".")
    assert not GATE.is_valid_session(f"{int(end) + 1}.{number}.{seal}", now_s=NOW_S)


def test_a_mark_is_for_one_pass() -> None:
    """A form that was shown to somebody else is refused."""
    other = GATE.issue_session(now_s=NOW_S, session_id="0b" * 16)
    assert GATE.is_valid_csrf_token(GATE.csrf_token(PASS), session=PASS)
    assert not GATE.is_valid_csrf_token(GATE.csrf_token(PASS), session=other)
