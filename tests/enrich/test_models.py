"""Is LaunchDarkly read liberally, and garbage told from drift?"""

import pytest

from service.enrich.models import (
    Deployment,
    DeploymentHead,
    DeploymentPage,
    Drift,
    Malformed,
    parse_deployment,
    parse_deployment_page,
    parse_head,
)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"a","startedAt":"1706701522000"}',
        b'{"id":"a","startedAt":1706701522000.0}',
        b'{"id":"a","startedAt":1706701522000,"leadTime":null,"pullRequests":null,"novel":[{}]}',
        b'{"id":"a","startedAt":1706701522000,"pullRequests":{"items":[null,{"leadTime":{}}]}}',
    ],
)
def test_parse_deployment_accepts_strings_nulls_and_unknown_fields(body: bytes) -> None:
    """Digit strings, nulls, null items, unknown fields, a leadTime of another type."""
    deployment = parse_deployment(body)
    assert isinstance(deployment, Deployment)
    assert deployment.started_at == 1_706_701_522_000


@pytest.mark.parametrize(
    "body",
    [b'{"id":7}', b"{}", b'{"id":null}', b"[]", b"7", b"null", b'"x"',
     b'{"id":"a","startedAt":"soon"}', b'{"id":"a","pullRequests":[]}',
     b'{"id":"a","pullRequests":{"items":{}}}', b'{"id":"a","pullRequests":{"items":["x"]}}'],
)  # fmt: skip
def test_parse_deployment_of_another_shape_returns_drift(body: bytes) -> None:
    """It says where and what."""
    told = parse_deployment(body)
    assert isinstance(told, Drift)
    assert told.reason


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"id":"a"', b'{"id":"a","x":"\xff"}', b'{"id":"a","x":NaN}', b'{"id":"a"}{}',
     b'{"id":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
)  # fmt: skip
def test_parse_deployment_of_invalid_json_returns_malformed(body: bytes) -> None:
    """Cut, HTML, not UTF-8 anywhere, nested beyond reason: never an exception."""
    assert isinstance(parse_deployment(body), Malformed)


def test_parse_deployment_page_keeps_readable_items() -> None:
    """Null items, missing totals, and one that cannot be read costs the others nothing."""
    page = parse_deployment_page(b'{"items":[null,{"id":"a"},{"id":7}]}')
    assert isinstance(page, DeploymentPage)
    nothing, outline, drift = map(parse_head, page.items or ())
    assert (nothing, outline) == (None, DeploymentHead(id="a"))
    assert isinstance(drift, Drift)
    assert isinstance(parse_deployment_page(b'{"items":7}'), Drift)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, int("9" * 4300)])
def test_parse_deployment_with_a_number_beyond_int64_returns_drift(number: int) -> None:
    """They say int64; sums of what is larger could not even be printed."""
    for written in (f"{number}", f'"{number}"'):
        assert isinstance(parse_deployment(f'{{"id":"a","leadTime":{written}}}'.encode()), Drift)
    largest = parse_deployment(b'{"id":"a","leadTime":9223372036854775807}')
    assert largest == Deployment(id="a", lead_time=2**63 - 1)
