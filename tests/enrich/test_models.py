"""Tests of the parsers of LaunchDarkly's JSON."""

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
    """Accepted are digit strings, nulls, null items, unknown fields, another leadTime type."""
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
    """The reason says where and how the shape differs."""
    result = parse_deployment(body)
    assert isinstance(result, Drift)
    assert result.reason


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"id":"a"', b'{"id":"a","x":"\xff"}', b'{"id":"a","x":NaN}', b'{"id":"a"}{}',
     b'{"id":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
)  # fmt: skip
def test_parse_deployment_of_invalid_json_returns_malformed(body: bytes) -> None:
    """A cut body, HTML, invalid UTF-8 and extreme nesting raise no exception."""
    assert isinstance(parse_deployment(body), Malformed)


def test_parse_deployment_page_keeps_readable_items() -> None:
    """A null item and an unreadable item do not affect the others."""
    page = parse_deployment_page(b'{"items":[null,{"id":"a"},{"id":7}]}')
    assert isinstance(page, DeploymentPage)
    no_head, head, drift = map(parse_head, page.items or ())
    assert (no_head, head) == (None, DeploymentHead(id="a"))
    assert isinstance(drift, Drift)
    assert isinstance(parse_deployment_page(b'{"items":7}'), Drift)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, int("9" * 4300)])
def test_parse_deployment_with_a_number_beyond_int64_returns_drift(number: int) -> None:
    """The documents declare int64; Python cannot print much larger sums."""
    for text in (f"{number}", f'"{number}"'):
        assert isinstance(parse_deployment(f'{{"id":"a","leadTime":{text}}}'.encode()), Drift)
    deployment = parse_deployment(b'{"id":"a","leadTime":9223372036854775807}')
    assert deployment == Deployment(id="a", lead_time=2**63 - 1)
