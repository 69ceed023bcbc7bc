"""Tests of the faults: which fault hits a call, and what it does to the response."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulate.faults import FaultContext, apply_fault, is_from_gateway
from service.simulate.rates import Fault, Rates, choose_fault
from service.simulate.responses import SimulatedResponse, json_response

CONTEXT = FaultContext(href="/api/x?after=1", lure_url="http://lure.test", roll=0.3)
LINKS = {"self": {"href": "/self", "type": "application/json"}}
VALID_BODY = {
    "id": "one",
    "startedAt": 5,
    "archived": False,
    "pullRequests": {"totalCount": 2, "items": [{"id": "a"}, {"id": "b"}], "_links": LINKS},
    "flagReferences": {"totalCount": 0, "items": []},
}


def corrupt_valid(fault: Fault, context: FaultContext = CONTEXT) -> Any:
    """Apply a fault to a valid response and decode the result."""
    return msgspec.json.decode(apply_fault(json_response(VALID_BODY), fault, context).body)


def test_every_fault_has_a_rate_of_zero_by_default() -> None:
    """Faults and rates have the same names, and every rate is 0 by default."""
    assert msgspec.structs.asdict(Rates()) == {str(fault): 0.0 for fault in Fault}


@given(st.sampled_from(Fault), st.floats(0, 1, exclude_max=True))
def test_rate_of_one_hits_every_call(fault: Fault, roll: float) -> None:
    """A fault with rate 1 hits every call; a fault with rate 0 hits none."""
    assert choose_fault(msgspec.structs.replace(Rates(), **{fault: 1.0}), roll) is fault
    assert choose_fault(Rates(), roll) is None


def test_rates_divide_the_calls() -> None:
    """With rates of a half and a quarter, a quarter of the calls have no fault."""
    rates = Rates(error=0.5, drip=0.25)
    hits = [choose_fault(rates, roll / 100) for roll in range(100)]
    assert (hits.count(Fault.ERROR), hits.count(Fault.DRIP), hits.count(None)) == (50, 25, 25)


@pytest.mark.parametrize("roll", [0.0, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.ERROR_HTML, Fault.ERROR_EMPTY])
def test_error_has_any_server_error_status(fault: Fault, roll: float) -> None:
    """The random number picks 500, 502, 503 or 504."""
    scene = FaultContext(href="/", lure_url="", roll=roll)
    statuses = {0.0: 500, 0.3: 502, 0.6: 503, 0.99: 504}
    assert apply_fault(json_response(VALID_BODY), fault, scene).status == statuses[roll]


@pytest.mark.parametrize(
    ("fault", "body", "gateway"),
    [
        (Fault.ERROR, b'{"code":', False),
        (Fault.ERROR_HTML, b"<!doctype html>", True),
        (Fault.ERROR_EMPTY, b"", True),
    ],
)
def test_error_has_json_html_or_empty_body(fault: Fault, body: bytes, gateway: bool) -> None:
    """HTML pages and empty errors come from the gateway in front of the API."""
    response = apply_fault(json_response(VALID_BODY), fault, CONTEXT)
    assert response.body.startswith(body)
    assert bool(response.body) == bool(body)
    assert is_from_gateway(fault) is gateway


@pytest.mark.parametrize("fault", [Fault.HTML, Fault.TRUNCATED, Fault.EMPTY])
def test_unreadable_body_has_status_200(fault: Fault) -> None:
    """An HTML page, half a body and an empty body are no JSON."""
    response = apply_fault(json_response(VALID_BODY), fault, CONTEXT)
    assert response.status == 200
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(response.body)


def test_wrong_types_change_every_level() -> None:
    """Numbers and booleans become strings and lists become objects; strings stay."""
    left = corrupt_valid(Fault.WRONG_TYPES)
    assert (left["id"], left["startedAt"], left["archived"]) == ("one", "many", "False")
    assert left["pullRequests"]["items"] == {"0": {"id": "a"}, "1": {"id": "b"}}


@pytest.mark.parametrize(
    ("fault", "href"),
    [
        (Fault.FOREIGN_LINK, "http://lure.test/api/x?after=1"),
        (Fault.SCHEMELESS_LINK, "//lure.test/api/x?after=1"),
        (Fault.FILE_LINK, "file:///etc/passwd"),
        (Fault.LOOP_LINK, "/api/x?after=1"),
    ],
)
def test_hostile_link_replaces_next_and_raises_total(fault: Fault, href: str) -> None:
    """The next link is replaced, and the total makes a caller follow it."""
    left = corrupt_valid(fault)
    assert left["pullRequests"]["_links"]["next"]["href"] == href
    assert left["pullRequests"]["totalCount"] == 3
    assert left["flagReferences"] == VALID_BODY["flagReferences"]


def test_repeated_items_appear_twice() -> None:
    """Each item appears twice, under an unchanged total."""
    left = corrupt_valid(Fault.REPEATED_ITEMS)
    assert [item["id"] for item in left["pullRequests"]["items"]] == ["a", "a", "b", "b"]
    assert left["pullRequests"]["totalCount"] == 2


@pytest.mark.parametrize(("roll", "total"), [(0.1, 13), (0.9, 1)])
def test_false_total_is_too_large_or_too_small(roll: float, total: int) -> None:
    """The random number decides whether the total is too large or too small."""
    scene = FaultContext(href="/", lure_url="", roll=roll)
    left = corrupt_valid(Fault.FALSE_TOTAL, scene)
    assert left["pullRequests"]["totalCount"] == total


def test_redirect_points_to_lure_url() -> None:
    """The same path is redirected to another host."""
    response = apply_fault(json_response(VALID_BODY), Fault.REDIRECT, CONTEXT)
    assert response.status == 302
    assert response.headers["Location"] == "http://lure.test/api/x?after=1"


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.DRIP, Fault.OVERSIZED])
def test_connection_fault_keeps_the_response(fault: Fault) -> None:
    """Connection faults change how a response is sent, not its content."""
    response = json_response(VALID_BODY)
    assert apply_fault(response, fault, CONTEXT) is response


@pytest.mark.parametrize("fault", [Fault.TRUNCATED, Fault.WRONG_TYPES, Fault.LOOP_LINK])
def test_error_response_is_not_corrupted(fault: Fault) -> None:
    """Unreadable bodies and hostile links hit only good responses."""
    response = SimulatedResponse(status=404, body=b"{}")
    assert apply_fault(response, fault, CONTEXT) is response
