"""Tests of the generator: generated deployments match LaunchDarkly's documentation."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from service.simulate.generator import SeededRandom, generate_deployment
from service.simulate.options import Shape
from service.simulate.pages import PULL_REQUEST_DETAILS, Cursor, PageRenderer, RenderConfig

DEPLOYMENT = {
    "id": str,
    "applicationKey": str,
    "applicationVersion": str,
    "startedAt": int,
    "status": str,
    "kind": str,
    "active": bool,
    "archived": bool,
    "environmentKey": str,
    "numberOfContributors": int,
    "numberOfPullRequests": int,
    "linesAdded": int,
    "linesDeleted": int,
    "leadTime": int,
}
DEPLOYMENT_OPTIONAL = {
    "endedAt",
    "durationMs",
    "metadata",
    "pullRequests",
    "flagReferences",
    "leadTimeStages",
}
PULL_REQUEST = {
    "id": str,
    "externalId": str,
    "title": str,
    "status": str,
    "author": str,
    "createTime": int,
    "baseCommitKey": str,
    "headCommitKey": str,
    "filesChanged": int,
    "linesAdded": int,
    "linesDeleted": int,
    "url": str,
}
PULL_REQUEST_OPTIONAL = {
    "mergeTime",
    "mergeCommitKey",
    "deployments",
    "flagReferences",
    "leadTime",
}
FLAG_REFERENCE = {
    "projectKey": str,
    "flagKey": str,
    "referencesAdded": int,
    "referencesRemoved": int,
}
EXPAND = frozenset({"pullRequests", "flagReferences"})

seeds = st.integers(0, 2**32)
ids = st.uuids(version=4).map(str)
shapes = st.builds(
    Shape,
    pull_requests=st.tuples(st.integers(0, 2), st.integers(2, 6)),
    deployments=st.tuples(st.integers(0, 1), st.integers(1, 5)),
    flag_references=st.tuples(st.integers(0, 1), st.integers(1, 9)),
)


def render_generated(
    seed: int, identifier: str, shape: Shape, page_size: int = 20
) -> dict[str, Any]:
    """Return a generated deployment as the API sends it, after a JSON round trip."""
    config = RenderConfig(seed=seed, shape=shape, page_size=page_size, nested_details=True)
    rendered = PageRenderer(config).render_deployment(
        generate_deployment(seed, identifier, shape), EXPAND
    )
    return msgspec.json.decode(msgspec.json.encode(rendered), type=dict[str, Any])


def check_fields(value: dict[str, Any], required: dict[str, type], optional: set[str]) -> None:
    """Assert that every required field has its type and no field is undocumented."""
    assert {name: type(value.get(name)) for name in required} == required
    assert set(value) <= set(required) | optional


def nested_deployments(deployment: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a deployment and all deployments in its pull requests."""
    yield deployment
    for pull_request in deployment.get("pullRequests", {"items": []})["items"]:
        yield from pull_request["deployments"]["items"]


@given(seeds, ids, shapes)
def test_generated_objects_have_the_documented_fields(
    seed: int, identifier: str, shape: Shape
) -> None:
    """Every object has the fields that the OpenAPI document requires."""
    for deployment in nested_deployments(render_generated(seed, identifier, shape)):
        check_fields(deployment, DEPLOYMENT, DEPLOYMENT_OPTIONAL)
        for reference in deployment["flagReferences"]["items"]:
            check_fields(reference, FLAG_REFERENCE, set())
        for pull_request in deployment.get("pullRequests", {"items": []})["items"]:
            check_fields(pull_request, PULL_REQUEST, PULL_REQUEST_OPTIONAL)
            assert pull_request["leadTime"]["codingDurationMs"] >= 0


@given(seeds, ids, shapes)
def test_flag_references_have_no_links(seed: int, identifier: str, shape: Shape) -> None:
    """The collection of flag references has only a total and its items."""
    flags = render_generated(seed, identifier, shape)["flagReferences"]
    assert set(flags) == {"totalCount", "items"}
    assert flags["totalCount"] == len(flags["items"])
    assert len({reference["flagKey"] for reference in flags["items"]}) == flags["totalCount"]


@given(seeds, ids, shapes)
def test_generated_numbers_are_consistent(seed: int, identifier: str, shape: Shape) -> None:
    """Sums, contributors, durations and the longest lead time follow from the pull requests."""
    written = render_generated(seed, identifier, shape)
    items = written["pullRequests"]["items"]
    assert written["numberOfPullRequests"] == written["pullRequests"]["totalCount"] == len(items)
    assert written["linesAdded"] == sum(item["linesAdded"] for item in items)
    assert written["linesDeleted"] == sum(item["linesDeleted"] for item in items)
    assert written["numberOfContributors"] == len({item["author"] for item in items})
    assert written["durationMs"] == written["endedAt"] - written["startedAt"]
    longest = max((item["leadTime"]["maxTotalLeadTimeMs"] for item in items), default=0)
    assert written["leadTime"] == longest
    for item in items:
        assert item["createTime"] <= item["mergeTime"] <= written["startedAt"]


@given(seeds, ids, shapes)
def test_equal_seeds_give_equal_deployments(seed: int, identifier: str, shape: Shape) -> None:
    """A deployment depends on seed and id alone, and another seed gives another one."""
    assert render_generated(seed, identifier, shape) == render_generated(seed, identifier, shape)
    assert render_generated(seed, identifier, shape) != render_generated(
        seed + 1, identifier, shape
    )


@given(ids, st.integers(1, 7))
def test_pages_contain_every_pull_request_once(identifier: str, page_size: int) -> None:
    """The cursors lead to each pull request once, in pages of the configured size."""
    shape = Shape(pull_requests=(0, 20))
    pages = PageRenderer(
        RenderConfig(seed=1, shape=shape, page_size=page_size, nested_details=True)
    )
    deployment = generate_deployment(1, identifier, shape)
    at: Cursor | None = Cursor(deployment=deployment, offset=0)
    seen: list[str] = []
    while at is not None:
        page = pages.render_pull_requests(at, PULL_REQUEST_DETAILS)
        assert len(page["items"]) <= page_size
        seen += [item["id"] for item in page["items"]]
        link = page["_links"].get("next")
        at = pages.get_cursor(link["href"].partition("?after=")[2]) if link else None
    assert len(seen) == len(set(seen)) == deployment.pull_requests


def test_cursors_are_uuids_and_limited_in_number() -> None:
    """A cursor is a UUID, and the renderer stores a limited number of them."""
    shape = Shape(pull_requests=(3, 3))
    pages = PageRenderer(RenderConfig(seed=1, shape=shape, page_size=1, nested_details=False))
    deployment = generate_deployment(1, "x", shape)
    page = pages.render_pull_requests(Cursor(deployment=deployment, offset=0), frozenset())
    cursor = page["_links"]["next"]["href"].partition("?after=")[2]
    assert str(UUID(cursor)) == cursor
    for name in range(20_000):
        another = msgspec.structs.replace(deployment, id=str(name))
        pages.render_pull_requests(Cursor(deployment=another, offset=0), frozenset())
    assert pages.get_cursor(cursor) is None
    assert len(pages._cursors) == 20_000


def test_big_share_decides_how_many_deployments_are_big() -> None:
    """With a share of 1 every deployment is big; with 0 none is."""
    big = Shape(big_share=1.0, big_pull_requests=(2_000, 2_100))
    assert 2_000 <= generate_deployment(1, "x", big).pull_requests <= 2_100
    assert generate_deployment(1, "x", Shape()).pull_requests <= 4


def test_novelties_add_fields_at_every_level() -> None:
    """Deployments, stages, collections, pull requests and flags get unknown fields."""
    shape = Shape(novelties=True, pull_requests=(1, 1), flag_references=(1, 1))
    written = render_generated(1, "x", shape)
    pull_request = written["pullRequests"]["items"][0]
    assert "riskScore" in written
    assert "approvalDurationMs" in written["leadTimeStages"]
    assert "estimated" in written["pullRequests"]
    assert "reviewers" in pull_request
    assert "riskScore" in pull_request["deployments"]["items"][0]
    assert "searchTerm" in written["flagReferences"]["items"][0]


@given(seeds, st.integers(-5, 5), st.integers(0, 100))
def test_random_numbers_stay_within_bounds(seed: int, low: int, width: int) -> None:
    """Every number lies between its bounds, however many are drawn."""
    draws = SeededRandom(seed, "thing")
    assert all(low <= draws.between(low, low + width) <= low + width for _ in range(50))


def test_random_numbers_do_not_repeat() -> None:
    """The second block of numbers differs from the first."""
    draws = SeededRandom(1, "thing")
    assert len({draws.between(0, 2**31) for _ in range(64)}) > 60
