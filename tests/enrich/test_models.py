"""Tests of the parsers of LaunchDarkly's JSON."""

import pytest
from msgspec import Raw

from service.enrich.models import (
    Deployment,
    DeploymentHead,
    DeploymentPage,
    Drift,
    Malformed,
    PullRequest,
    PullRequests,
    parse_deployment,
    parse_deployment_of_id,
    parse_deployment_page,
    parse_head,
    parse_list_item,
)
from service.enrich.steps import finish_steps


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
    [b'{"id":7}', b"{}", b'{"id":null}', b"[]", b"7", b"null", b'"x"', b'{"id":7,"kind":8}',
     b'{"id":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
)  # fmt: skip
def test_parse_deployment_without_an_id_returns_drift(body: bytes) -> None:
    """The reason says where and how the shape differs, or that JSON is nested too deeply."""
    result = parse_deployment(body)
    assert isinstance(result, Drift)
    assert result.reason


@pytest.mark.parametrize(
    ("fields", "unreadable"),
    [
        ('"startedAt":"2026-01-01T00:00:00Z"', "startedAt"),
        ('"endedAt":1706701522000.5,"leadTimeStages":[]', "endedAt leadTimeStages"),
        ('"applicationKey":{},"active":"many"', "active applicationKey"),
        ('"pullRequests":[]', "pullRequests"),
        ('"pullRequests":{"items":{},"totalCount":[]}',
         "pullRequests.items pullRequests.totalCount"),
        ('"pullRequests":{"items":["x",null]}', "pullRequests.items[]"),
        ('"pullRequests":{"items":[{"externalId":1},{"externalId":2}]}',
         "pullRequests.items[].externalId"),
        ('"pullRequests":{"_links":{"next":7,"x-secret":8}}',
         "pullRequests._links.* pullRequests._links.next"),
        ('"pullRequests":{"_links":{"next":{"href":7}}}', "pullRequests._links.next.href"),
        ('"flagReferences":{"items":[{"referencesAdded":"two"}]}',
         "flagReferences.items[].referencesAdded"),
    ],
)  # fmt: skip
def test_parse_deployment_with_fields_of_another_type_names_them(
    fields: str, unreadable: str
) -> None:
    """Each of them counts as absent; the fields around them are read."""
    deployment = parse_deployment(f'{{"id":"a",{fields},"kind":"rollback"}}'.encode())
    assert isinstance(deployment, Deployment)
    assert (deployment.id, deployment.kind) == ("a", "rollback")
    assert " ".join(deployment.unreadable_fields) == unreadable


def test_parse_deployment_keeps_what_stands_beside_a_field_of_another_type() -> None:
    """Only the field itself is lost, not its item, its collection or the head."""
    pull = b'{"externalId":1234,"title":"Pay","author":"jo"}'
    deployment = parse_deployment(b'{"id":"a","pullRequests":{"totalCount":1,"items":[%s]}}' % pull)
    assert isinstance(deployment, Deployment)
    assert deployment.pull_requests == PullRequests(
        total_count=1, items=[PullRequest(title="Pay", author="jo")]
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"id":"a"', b'{"id":"a","kind":7,"x":', b'{"id":7', b"[1,",
     b'{"id":"a","x":"\xff"}', b'{"id":"a","x":NaN}', b'{"id":"a"}{}'],
)  # fmt: skip
def test_parse_deployment_of_invalid_json_returns_malformed(body: bytes) -> None:
    """A cut body, HTML and invalid UTF-8 raise no exception."""
    assert isinstance(parse_deployment(body), Malformed)
    assert isinstance(parse_deployment_page(body), Malformed)


def test_parse_deployment_of_id_of_another_deployment_returns_malformed() -> None:
    """A proxy or a cache may return it; the case of the id does not matter."""
    assert finish_steps(parse_deployment_of_id("A", b'{"id":"a"}')) == Deployment(id="a")
    assert isinstance(finish_steps(parse_deployment_of_id("b", b'{"id":"a"}')), Malformed)
    assert isinstance(finish_steps(parse_deployment_of_id("b", b"[]")), Drift)


def test_parse_deployment_page_keeps_readable_items() -> None:
    """A null item and an unreadable item do not affect the others."""
    page = parse_deployment_page(b'{"items":[null,{"id":"a"},{"id":7}]}')
    assert isinstance(page, DeploymentPage)
    no_head, head, drift = map(parse_head, page.items or ())
    assert (no_head, head) == (None, DeploymentHead(id="a"))
    assert isinstance(drift, Drift)
    assert isinstance(parse_deployment_page(b'{"items":7}'), Drift)


@pytest.mark.parametrize(
    ("fields", "hidden"),
    [
        ('"_links":7', True),
        ('"_links":{"next":7}', True),
        ('"_links":{"next":{"href":7}}', True),
        ('"_links":{"self":7}', False),
        ('"_links":[],"totalCount":1', False),
        ('"_links":[],"totalCount":2', True),
        ('"totalCount":"many"', False),
    ],
)
def test_hides_next_link_of_a_page_with_links_of_another_type(fields: str, *, hidden: bool) -> None:
    """The items are read; whether a further page may exist is known."""
    page = parse_deployment_page(f'{{"items":[{{"id":"a"}}],{fields}}}'.encode())
    assert isinstance(page, DeploymentPage)
    assert len(page.items or ()) == 1
    assert page.hides_next_link is hidden


def test_parse_head_and_list_item_name_the_fields_of_another_type() -> None:
    """A head knows only its own fields."""
    item = Raw(b'{"id":"a","endedAt":"soon","leadTime":"long"}')
    head, deployment = parse_head(item), parse_list_item(item)
    assert isinstance(head, DeploymentHead)
    assert isinstance(deployment, Deployment)
    assert head.unreadable_fields == ("endedAt",)
    assert deployment.unreadable_fields == ("endedAt", "leadTime")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, int("9" * 4300)], ids=["+", "-", "long"])
def test_parse_deployment_with_a_number_beyond_int64_does_not_read_it(number: int) -> None:
    """The documents declare int64; Python cannot print much larger sums."""
    for text in (f"{number}", f'"{number}"'):
        deployment = parse_deployment(f'{{"id":"a","leadTime":{text}}}'.encode())
        assert isinstance(deployment, Deployment)
        assert (deployment.lead_time, deployment.unreadable_fields) == (None, ("leadTime",))
    deployment = parse_deployment(b'{"id":"a","leadTime":9223372036854775807}')
    assert deployment == Deployment(id="a", lead_time=2**63 - 1)
