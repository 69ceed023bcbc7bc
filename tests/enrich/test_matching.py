"""Tests of ListMatcher: each ticket matches the deployment that it would choose alone."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import decode as json_decode

from service.enrich.matching import (
    DeploymentQuery,
    ListMatcher,
    Match,
    NoMatch,
    choose_deployment,
    is_exact_match,
)
from service.enrich.models import Deployment, DeploymentHead, Drift

SHA = "0123456789abcdef"


def make_item(**changes: object) -> Raw:
    """Return one item of a page as LaunchDarkly sends it."""
    defaults = {"applicationKey": "web", "environmentKey": "production", "status": "finished"}
    return Raw(json.dumps({**defaults, **changes}).encode())


def make_head(deployment_id: str, **fields: int) -> DeploymentHead:
    """Return the head of a finished deployment with a short SHA for its version."""
    return DeploymentHead(
        deployment_id,
        application_key="web",
        application_version=SHA[:7],
        environment_key="production",
        status="finished",
        **fields,
    )


def make_query(version: str = SHA, *, time_ms: int = 1000) -> DeploymentQuery:
    """Return the query of one ticket."""
    return DeploymentQuery(
        environment="production", application="web", version=version, time_ms=time_ms
    )


def make_match(item: Raw) -> Match:
    """Return the match with all of an item."""
    return Match(json_decode(item, type=Deployment), item)


def match_pages(
    pages: Sequence[Sequence[Raw]],
    *,
    deployment_id: str | None = None,
    query: DeploymentQuery | None = None,
    max_buffered_bytes: int = 1 << 20,
) -> object:
    """Match pages for one ticket and return its result."""
    matcher = ListMatcher(
        deployment_ids={} if deployment_id is None else {"job": deployment_id},
        queries={} if query is None else {"job": [query]},
        max_buffered_bytes=max_buffered_bytes,
    )
    for page in pages:
        for _, result in matcher.match_page(page, body_bytes=sum(map(len, map(bytes, page)))):
            assert matcher.is_done
            return result
    ((_, final_result),) = matcher.finish()
    assert matcher.is_done
    return final_result


def test_match_by_id_ignores_case() -> None:
    """A UUID may be in capitals; the match holds the bytes of the item."""
    found = make_item(id="A0EE")
    assert match_pages([[make_item(id="b"), found]], deployment_id="a0ee") == make_match(found)
    assert match_pages([[make_item(id="b")]], deployment_id="a0ee") == NoMatch()


def test_match_page_returns_only_an_unbeatable_match_at_once() -> None:
    """Only an equal version that ended at that very moment is final before the last page."""
    near = make_item(id="near", applicationVersion=SHA, endedAt=1001)
    exact = make_item(id="exact", applicationVersion=SHA, endedAt=1000)
    assert match_pages([[near], [exact]], query=make_query()) == make_match(exact)
    assert match_pages([[exact], [near]], query=make_query()) == make_match(exact)
    assert match_pages([[near], []], query=make_query()) == make_match(near)


def test_match_page_parses_only_heads_while_most_items_are_of_other_events() -> None:
    """After such a page, a match is a head with its JSON; then it is parsed whole again."""
    versions = [f"v{number}" for number in range(4)]
    items = [
        make_item(id=version, applicationVersion=version, endedAt=1000) for version in versions
    ]
    queries = {version: [make_query(version=version)] for version in versions[2:]}
    matcher = ListMatcher(deployment_ids={}, queries=queries, max_buffered_bytes=1 << 20)
    matches = [match for item in items for _, match in matcher.match_page([item], body_bytes=100)]
    assert [type(match.head) for match in matches] == [DeploymentHead, Deployment]
    assert [match.body for match in matches] == items[2:]


def test_match_page_beyond_the_buffer_keeps_only_the_head() -> None:
    """The memory for pages is bounded."""
    page = [make_item(id="a", applicationVersion=SHA, endedAt=7)]
    result = match_pages([page], query=make_query(), max_buffered_bytes=0)
    assert isinstance(result, Match)
    assert (result.head.id, result.body) == ("a", None)
    assert not isinstance(result.head, Deployment)


@pytest.mark.parametrize("fields", [{"leadTime": "long"}, {"endedAt": "soon"}, {"startedAt": []}])
def test_match_page_with_a_field_of_another_type_matches_the_item(fields: dict[str, Any]) -> None:
    """The list holds the whole deployment: no further call is needed."""
    item = make_item(**{"id": "a", "applicationVersion": SHA, "endedAt": 1000, **fields})
    result = match_pages([[item]], query=make_query())
    assert isinstance(result, Match)
    assert isinstance(result.head, Deployment)
    assert (result.head.unreadable_fields, result.body) == (tuple(fields), item)


def test_match_page_with_a_key_of_another_type_keeps_the_item_for_no_match() -> None:
    """It may be the deployment, so a person sees it; a ticket with its id gets it."""
    item = make_item(id="a", applicationVersion=7, endedAt=1)
    result = match_pages([[item]], query=make_query())
    assert isinstance(result, NoMatch)
    assert result.unreadable == (Drift(reason="a key of another type"), bytes(item))
    matcher = ListMatcher(deployment_ids={"job": "A"}, queries={}, max_buffered_bytes=9)
    [(job, match_found)] = matcher.match_page([item], body_bytes=9)
    assert (job, match_found.head.id) == ("job", "a")


def test_match_page_with_an_unreadable_item_keeps_it_for_no_match() -> None:
    """The other items of the page are matched."""
    unreadable, good = Raw(b'{"id":7}'), make_item(id="a", applicationVersion=SHA, endedAt=1)
    assert match_pages([[unreadable, Raw(b"null"), good]], query=make_query()) == make_match(good)
    result = match_pages([[unreadable]], query=make_query())
    assert isinstance(result, NoMatch)
    assert result.unreadable is not None
    assert isinstance(result.unreadable[0], Drift)
    assert result.unreadable[1] == bytes(unreadable)


VERSIONS = [SHA, SHA[:7], SHA[:9].upper(), "0123457", "v1", "v12"]
HEADS = st.builds(
    DeploymentHead,
    id=st.sampled_from("abcdefgh"),
    application_key=st.sampled_from(["web", "web", "api", None]),
    application_version=st.sampled_from([*VERSIONS, None]),
    environment_key=st.sampled_from(["production", "production", "staging", None]),
    status=st.sampled_from(["finished", "started"]),
    started_at=st.none() | st.integers(1, 6),
    ended_at=st.none() | st.integers(1, 6),
)
QUERY = st.builds(
    DeploymentQuery,
    environment=st.just("production"),
    application=st.sampled_from(["web", "api"]),
    version=st.sampled_from(VERSIONS),
    time_ms=st.integers(1, 6),
)


def encode_head(head: DeploymentHead) -> Raw:
    """Return the JSON of a head as LaunchDarkly sends it."""
    fields = {
        "id": head.id,
        "applicationKey": head.application_key,
        "applicationVersion": head.application_version,
        "environmentKey": head.environment_key,
        "status": head.status,
        "startedAt": head.started_at,
        "endedAt": head.ended_at,
    }
    return Raw(json.dumps(fields).encode())


@given(
    listed=st.lists(HEADS, max_size=12, unique_by=lambda head: head.id),
    queries=st.lists(QUERY, min_size=1, max_size=5),
    page_size=st.integers(1, 12),
)
# Both end at the time of the query: such a tie may be decided by the page that comes first.
@example(
    listed=[make_head("a", ended_at=1), make_head("b", started_at=1)],
    queries=[make_query(SHA[:7], time_ms=1)],
    page_size=1,
)
def test_list_matcher_for_many_jobs_matches_as_for_each_alone(
    listed: list[DeploymentHead], queries: list[DeploymentQuery], page_size: int
) -> None:
    """In any pages, every job gets one result, and no listed deployment ranks before it."""
    matcher = ListMatcher(
        deployment_ids={"by-id": "c"},
        queries={str(index): [query] for index, query in enumerate(queries)},
        max_buffered_bytes=1 << 20,
    )
    results: list[tuple[str, Match | NoMatch]] = []
    for start in range(0, len(listed), page_size):
        page = [encode_head(head) for head in listed[start : start + page_size]]
        results += list(matcher.match_page(page, body_bytes=1))
    results += list(matcher.finish())
    results_by_job = dict(results)
    assert len(results_by_job) == len(results) == len(queries) + 1
    heads_by_id = {head.id: head for head in listed}
    by_id = results_by_job.pop("by-id")
    if isinstance(by_id, Match):
        assert (by_id.head.id, by_id.body) == ("c", encode_head(heads_by_id["c"]))
    else:
        assert (by_id, "c" in heads_by_id) == (NoMatch(), False)
    for job, result in results_by_job.items():
        query = queries[int(job)]
        chosen_alone = choose_deployment(listed, [query])
        if isinstance(result, NoMatch):
            assert chosen_alone is None
            continue
        matched = choose_deployment([heads_by_id[result.head.id]], [query])
        assert chosen_alone is not None
        assert matched is not None
        if is_exact_match(matched.head, query):
            assert is_exact_match(chosen_alone.head, query)
        else:
            assert choose_deployment([matched.head, chosen_alone.head], [query]) == matched
        assert result.body == encode_head(matched.head)


@pytest.mark.parametrize("count", [1, 40])
def test_list_matcher_with_equal_versions_matches_by_time(count: int) -> None:
    """If a version is deployed many times, each webhook gets its own deployment."""
    redeployed = [
        make_item(id=f"d{n}", applicationVersion=SHA, endedAt=1000 * n) for n in range(count)
    ]
    matcher = ListMatcher(
        deployment_ids={},
        queries={str(n): [make_query(time_ms=1000 * n)] for n in range(count)},
        max_buffered_bytes=1 << 20,
    )
    results = dict(matcher.match_page(redeployed, body_bytes=1))
    assert results == {str(n): make_match(redeployed[n]) for n in range(count)}
