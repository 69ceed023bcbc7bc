"""Is each ticket answered by the deployment that it would have chosen alone?"""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import decode as json_decode

from service.enrich.matching import DeploymentQuery, ListMatcher, Match, NoMatch, choose_deployment
from service.enrich.models import Deployment, DeploymentHead, Drift

SHA = "0123456789abcdef"


def make_item(**changes: object) -> Raw:
    """Write one item of a page as LaunchDarkly would."""
    defaults = {"applicationKey": "web", "environmentKey": "production", "status": "finished"}
    return Raw(json.dumps({**defaults, **changes}).encode())


def make_query(version: str = SHA, *, time_ms: int = 1000) -> DeploymentQuery:
    """Say what one ticket seeks."""
    return DeploymentQuery(
        environment="production", application="web", version=version, time_ms=time_ms
    )


def make_match(item: Raw) -> Match:
    """Give the answer that an item is, whole."""
    return Match(json_decode(item, type=Deployment), item)


def match_pages(
    pages: Sequence[Sequence[Raw]],
    *,
    name: str | None = None,
    query: DeploymentQuery | None = None,
    most_kept: int = 1 << 20,
) -> object:
    """Search pages for one ticket; gives its answer."""
    matcher = ListMatcher(
        deployment_ids={} if name is None else {"job": name},
        queries={} if query is None else {"job": query},
        max_buffered_bytes=most_kept,
    )
    for page in pages:
        for _, result in matcher.match_page(page, body_bytes=sum(map(len, map(bytes, page)))):
            assert matcher.is_done
            return result
    ((_, last),) = matcher.finish()
    assert matcher.is_done
    return last


def test_match_by_id_ignores_case() -> None:
    """A UUID is the same in capitals; the item's bytes are passed on."""
    found = make_item(id="A0EE")
    assert match_pages([[make_item(id="b"), found]], name="a0ee") == make_match(found)
    assert match_pages([[make_item(id="b")]], name="a0ee") == NoMatch()


def test_match_page_returns_only_an_unbeatable_match_at_once() -> None:
    """An equal version that ended at that very moment cannot be bettered; a nearer one can come."""
    near = make_item(id="near", applicationVersion=SHA, endedAt=1001)
    exact = make_item(id="exact", applicationVersion=SHA, endedAt=1000)
    assert match_pages([[near], [exact]], query=make_query()) == make_match(exact)
    assert match_pages([[exact], [near]], query=make_query()) == make_match(exact)
    assert match_pages([[near], []], query=make_query()) == make_match(near)


def test_match_page_beyond_the_buffer_keeps_only_the_head() -> None:
    """Pages are not kept without bound."""
    page = [make_item(id="a", applicationVersion=SHA, endedAt=7)]
    answer = match_pages([page], query=make_query(), most_kept=0)
    assert isinstance(answer, Match)
    assert (answer.head.id, answer.body) == ("a", None)
    assert not isinstance(answer.head, Deployment)


def test_match_page_with_a_readable_head_only_matches_it() -> None:
    """It answers its ticket, which can ask for it by its id."""
    odd = make_item(id="a", applicationVersion=SHA, endedAt=1000, leadTime="long")
    answer = match_pages([[odd]], query=make_query())
    assert isinstance(answer, Match)
    assert answer.head.id == "a"
    assert not isinstance(answer.head, Deployment)


def test_match_page_with_an_unreadable_item_keeps_it_for_no_match() -> None:
    """It hides nothing else."""
    odd, good = Raw(b'{"id":7}'), make_item(id="a", applicationVersion=SHA, endedAt=1)
    assert match_pages([[odd, Raw(b"null"), good]], query=make_query()) == make_match(good)
    answer = match_pages([[odd]], query=make_query())
    assert isinstance(answer, NoMatch)
    assert answer.unreadable is not None
    assert isinstance(answer.unreadable[0], Drift)
    assert answer.unreadable[1] == bytes(odd)


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
    """Write an outline as LaunchDarkly would."""
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
    shown=st.lists(HEADS, max_size=12, unique_by=lambda one: one.id),
    wanted=st.lists(QUERY, min_size=1, max_size=5),
    size=st.integers(1, 12),
)
def test_list_matcher_for_many_jobs_matches_as_for_each_alone(
    shown: list[DeploymentHead], wanted: list[DeploymentQuery], size: int
) -> None:
    """Whatever the pages, every job is told once, and of a deployment that none betters."""
    together = ListMatcher(
        deployment_ids={"by-id": "c"},
        queries={str(place): one for place, one in enumerate(wanted)},
        max_buffered_bytes=1 << 20,
    )
    told: list[tuple[str, Match | NoMatch]] = []
    for start in range(0, len(shown), size):
        page = [encode_head(one) for one in shown[start : start + size]]
        told += list(together.match_page(page, body_bytes=1))
    told += list(together.finish())
    answers = dict(told)
    assert len(answers) == len(told) == len(wanted) + 1
    by_id = {one.id: one for one in shown}
    assert answers.pop("by-id") == (
        make_match(encode_head(by_id["c"])) if "c" in by_id else NoMatch()
    )
    for job, answer in answers.items():
        one = wanted[int(job)]
        alone = choose_deployment(shown, one)
        if isinstance(answer, NoMatch):
            assert alone is None
        else:
            assert isinstance(answer, Match)
            best = choose_deployment([by_id[answer.head.id]], one)
            assert alone is not None
            assert best is not None
            assert choose_deployment([best, alone], one) == best
            assert answer.body == encode_head(best)


@pytest.mark.parametrize("count", [1, 40])
def test_list_matcher_with_equal_versions_matches_by_time(count: int) -> None:
    """A version deployed again and again: each webhook gets its own deployment."""
    redeployed = [
        make_item(id=f"d{n}", applicationVersion=SHA, endedAt=1000 * n) for n in range(count)
    ]
    together = ListMatcher(
        deployment_ids={},
        queries={str(n): make_query(time_ms=1000 * n) for n in range(count)},
        max_buffered_bytes=1 << 20,
    )
    told = dict(together.match_page(redeployed, body_bytes=1))
    assert told == {str(n): make_match(redeployed[n]) for n in range(count)}
