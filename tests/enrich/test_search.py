"""Is each ticket answered by the deployment that it would have chosen alone?"""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.json import decode as json_decode

from service.enrich.deployment import Deployment, Drift, Outline
from service.enrich.resolve import Sought, choose_deployment
from service.enrich.search import Listed, Missing, Search

SHA = "0123456789abcdef"


def item(**told: object) -> Raw:
    """Write one item of a page as LaunchDarkly would."""
    usual = {"applicationKey": "web", "environmentKey": "production", "status": "finished"}
    return Raw(json.dumps({**usual, **told}).encode())


def sought(version: str = SHA, *, time_ms: int = 1000) -> Sought:
    """Say what one ticket seeks."""
    return Sought(environment="production", application="web", version=version, time_ms=time_ms)


def listed(one: Raw) -> Listed:
    """Give the answer that an item is, whole."""
    return Listed(json_decode(one, type=Deployment), one)


def search(
    pages: Sequence[Sequence[Raw]],
    *,
    name: str | None = None,
    wanted: Sought | None = None,
    most_kept: int = 1 << 20,
) -> object:
    """Search pages for one ticket; gives its answer."""
    one = Search(
        ids={} if name is None else {"job": name},
        sought={} if wanted is None else {"job": wanted},
        most_kept=most_kept,
    )
    for page in pages:
        for _, answer in one.take_page(page, size=sum(map(len, map(bytes, page)))):
            assert one.is_over
            return answer
    ((_, last),) = one.close()
    assert one.is_over
    return last


def test_an_id_is_found_however_it_is_written() -> None:
    """A UUID is the same in capitals; the item's bytes are passed on."""
    found = item(id="A0EE")
    assert search([[item(id="b"), found]], name="a0ee") == listed(found)
    assert search([[item(id="b")]], name="a0ee") == Missing()


def test_the_first_page_suffices_only_beyond_doubt() -> None:
    """An equal version that ended at that very moment cannot be bettered; a nearer one can come."""
    near = item(id="near", applicationVersion=SHA, endedAt=1001)
    exact = item(id="exact", applicationVersion=SHA, endedAt=1000)
    assert search([[near], [exact]], wanted=sought()) == listed(exact)
    assert search([[exact], [near]], wanted=sought()) == listed(exact)
    assert search([[near], []], wanted=sought()) == listed(near)


def test_what_comes_after_the_cap_is_known_by_its_id_alone() -> None:
    """Pages are not kept without bound."""
    page = [item(id="a", applicationVersion=SHA, endedAt=7)]
    answer = search([page], wanted=sought(), most_kept=0)
    assert isinstance(answer, Listed)
    assert (answer.known.id, answer.body) == ("a", None)
    assert not isinstance(answer.known, Deployment)


def test_an_item_of_which_only_the_outline_can_be_read_is_found() -> None:
    """It answers its ticket, which can ask for it by its id."""
    odd = item(id="a", applicationVersion=SHA, endedAt=1000, leadTime="long")
    answer = search([[odd]], wanted=sought())
    assert isinstance(answer, Listed)
    assert answer.known.id == "a"
    assert not isinstance(answer.known, Deployment)


def test_an_item_that_cannot_be_read_is_kept_should_it_be_the_one() -> None:
    """It hides nothing else."""
    odd, good = Raw(b'{"id":7}'), item(id="a", applicationVersion=SHA, endedAt=1)
    assert search([[odd, Raw(b"null"), good]], wanted=sought()) == listed(good)
    answer = search([[odd]], wanted=sought())
    assert isinstance(answer, Missing)
    assert answer.unreadable is not None
    assert isinstance(answer.unreadable[0], Drift)
    assert answer.unreadable[1] == bytes(odd)


VERSIONS = [SHA, SHA[:7], SHA[:9].upper(), "0123457", "v1", "v12"]
OUTLINES = st.builds(
    Outline,
    id=st.sampled_from("abcdefgh"),
    application_key=st.sampled_from(["web", "web", "api", None]),
    application_version=st.sampled_from([*VERSIONS, None]),
    environment_key=st.sampled_from(["production", "production", "staging", None]),
    status=st.sampled_from(["finished", "started"]),
    started_at=st.none() | st.integers(1, 6),
    ended_at=st.none() | st.integers(1, 6),
)
WANTED = st.builds(
    Sought,
    environment=st.just("production"),
    application=st.sampled_from(["web", "api"]),
    version=st.sampled_from(VERSIONS),
    time_ms=st.integers(1, 6),
)


def write_outline(one: Outline) -> Raw:
    """Write an outline as LaunchDarkly would."""
    told = {
        "id": one.id,
        "applicationKey": one.application_key,
        "applicationVersion": one.application_version,
        "environmentKey": one.environment_key,
        "status": one.status,
        "startedAt": one.started_at,
        "endedAt": one.ended_at,
    }
    return Raw(json.dumps(told).encode())


@given(
    shown=st.lists(OUTLINES, max_size=12, unique_by=lambda one: one.id),
    wanted=st.lists(WANTED, min_size=1, max_size=5),
    size=st.integers(1, 12),
)
def test_many_find_together_what_each_would_find_alone(
    shown: list[Outline], wanted: list[Sought], size: int
) -> None:
    """Whatever the pages, every job is told once, and of a deployment that none betters."""
    together = Search(
        ids={"by-id": "c"},
        sought={str(place): one for place, one in enumerate(wanted)},
        most_kept=1 << 20,
    )
    told: list[tuple[str, Listed | Missing]] = []
    for start in range(0, len(shown), size):
        page = [write_outline(one) for one in shown[start : start + size]]
        told += list(together.take_page(page, size=1))
    told += list(together.close())
    answers = dict(told)
    assert len(answers) == len(told) == len(wanted) + 1
    by_id = {one.id: one for one in shown}
    assert answers.pop("by-id") == (
        listed(write_outline(by_id["c"])) if "c" in by_id else Missing()
    )
    for job, answer in answers.items():
        one = wanted[int(job)]
        alone = choose_deployment(shown, one)
        if isinstance(answer, Missing):
            assert alone is None
        else:
            assert isinstance(answer, Listed)
            best = choose_deployment([by_id[answer.known.id]], one)
            assert alone is not None
            assert best is not None
            assert choose_deployment([best, alone], one) == best
            assert answer.body == write_outline(best)


@pytest.mark.parametrize("count", [1, 40])
def test_equal_versions_of_many_tickets_are_told_apart_by_time(count: int) -> None:
    """A version deployed again and again: each webhook gets its own deployment."""
    redeployed = [item(id=f"d{n}", applicationVersion=SHA, endedAt=1000 * n) for n in range(count)]
    together = Search(
        ids={},
        sought={str(n): sought(time_ms=1000 * n) for n in range(count)},
        most_kept=1 << 20,
    )
    told = dict(together.take_page(redeployed, size=1))
    assert told == {str(n): listed(redeployed[n]) for n in range(count)}
