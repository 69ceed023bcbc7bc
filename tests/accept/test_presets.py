"""Is every CD system that we know read as a person would? Payloads of ours, whole and broken."""

import asyncio
import itertools
import json
import tomllib
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from hypothesis import given, settings
from hypothesis import strategies as st

from service.accept.decode import Unreadable
from service.accept.events import Batch, DeploymentCompleted, Event, read_webhook
from service.accept.signature import SignedRequest
from service.accept.sources import Source
from tests.accept.desk import Desk, read_answer, serve
from tests.accept.sample import (
    PRESETS,
    Sample,
    make_sources,
    paths_of,
    read_samples,
    replaced,
    summarize,
    without,
)

SAMPLES = read_samples()
ODD_VALUES: list[object] = [
    None,
    True,
    0,
    7,
    -1.5,
    10**18,
    "",
    "\x00",
    "x" * 5000,
    [],
    [[]],
    {},
    {"a": [{}]},
]
KINDS = {"succeeded", "failed", "unfinished", "unrelated"}
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
every_ended = pytest.mark.parametrize(
    "sample", [one for one in SAMPLES if "outcome" in one.expected], ids=str
)


@pytest.fixture(scope="module")
def sources(presets: str) -> dict[str, Source]:
    """Give a source of every preset."""
    return make_sources(presets)


def read(sources: dict[str, Source], sample: Sample, body: Any) -> Event:
    """Read a body as this sample's sender would have sent it; bytes are one already."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.lower(): value for name, value in sample.headers.items()}
    event = read_webhook(sources[sample.preset], SignedRequest(headers, {}, raw))
    assert not isinstance(event, Batch)
    return event


def test_every_preset_has_payloads_of_every_kind(presets: str) -> None:
    """Ended well, ended badly, not ended, and not about deployments at all."""
    names = tomllib.loads(presets)["preset"].keys()
    assert names - {"standard-webhooks"} == set(PRESETS)
    for name in names - {"standard-webhooks", "launchdarkly"}:
        assert {one.name for one in SAMPLES if one.preset == name} >= KINDS, name


@every_sample
def test_a_payload_is_read_as_a_person_would(sources: dict[str, Source], sample: Sample) -> None:
    """Outcome, names, time and delivery; or ignored; or what is missing."""
    event = read(sources, sample, sample.body)
    special = {"deployment_id": None, "project": "default"}
    special |= {key: sample.expected[key] for key in special if key in sample.expected}
    expected = {key: value for key, value in sample.expected.items() if key not in special}
    assert summarize(event) == expected
    if isinstance(event, DeploymentCompleted):
        assert {key: getattr(event, key) for key in special} == special
        assert not event.time_unreadable


@every_ended
def test_a_delivery_that_comes_again_has_the_key_of_before(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Whatever else its sender counts up from try to try."""
    headers = sample.headers | {"X-Attempt-Number": "2", "User-Agent": "again"}
    again = msgspec.structs.replace(sample, headers=headers)
    first, second = (read(sources, one, one.body) for one in (sample, again))
    assert isinstance(first, DeploymentCompleted)
    assert isinstance(second, DeploymentCompleted)
    assert first.delivery == second.delivery


@every_sample
def test_a_truncated_payload_is_unreadable(sources: dict[str, Source], sample: Sample) -> None:
    """Wherever the bytes end too soon."""
    raw = json.dumps(sample.body).encode()
    for end in (*range(1, len(raw), 1 + len(raw) // 40), len(raw) - 1):
        assert isinstance(read(sources, sample, raw[:end]), Unreadable)


@every_ended
def test_a_missing_field_never_makes_another_outcome(
    sources: dict[str, Source], sample: Sample
) -> None:
    """Every field in turn: the same deployment, told less well, or none."""
    for path in paths_of(sample.body):
        event = read(sources, sample, without(sample.body, path))
        if isinstance(event, DeploymentCompleted):
            assert event.outcome == sample.expected["outcome"], path


@every_sample
def test_a_field_of_another_type_has_an_answer(sources: dict[str, Source], sample: Sample) -> None:
    """Every field in turn, of every wrong type: no exception, no name that is none."""
    for path, odd in itertools.product(paths_of(sample.body), ODD_VALUES):
        event = read(sources, sample, replaced(sample.body, path, odd))
        if isinstance(event, DeploymentCompleted):
            names = (event.project, event.environment, event.application, event.version)
            assert event.deployment_id or all(names)
            assert not any("\x00" in (name or "") or len(name or "") > 256 for name in names)


@every_ended
def test_a_time_that_is_none_costs_the_time_and_not_the_event(
    sources: dict[str, Source], sample: Sample
) -> None:
    """It is said, so that it can be counted; nowhere but in the field of the time."""
    said = set()
    for path in paths_of(sample.body):
        event = read(sources, sample, replaced(sample.body, path, "soon"))
        if isinstance(event, DeploymentCompleted) and event.time_unreadable:
            assert event.event_time is None
            said.add(path)
    assert len(said) == (sample.expected["event_time"] is not None)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(data=st.data())
def test_arbitrary_json_has_an_answer(sources: dict[str, Source], data: st.DataObject) -> None:
    """Noise, and payloads with noise in several places, to every preset."""
    sample = data.draw(st.sampled_from(SAMPLES))
    body = sample.body
    for _ in range(data.draw(st.integers(1, 4))):
        paths = list(paths_of(body))
        if not paths:
            break
        body = replaced(body, data.draw(st.sampled_from(paths)), data.draw(JSON_VALUES))
    assert isinstance(read(sources, sample, body), Event)
    noise = json.dumps(data.draw(JSON_VALUES)).encode()
    for preset in PRESETS:
        other = Sample(preset, "", sample.headers, noise, {})
        assert isinstance(read(sources, other, noise), Event)


@settings(max_examples=10)
@given(bodies=st.lists(JSON_VALUES | st.sampled_from([one.body for one in SAMPLES]), max_size=4))
def test_every_door_gives_a_documented_answer(presets: str, bodies: list[Any]) -> None:
    """Over HTTP: whatever body to whatever door, nothing but the statuses of the table."""
    opened = make_sources(presets, verify='verify = "none"')

    async def post_all() -> set[int]:
        async with serve(Desk(), *opened.values()) as (host, port), ClientSession() as session:
            statuses = set()
            for name in opened:
                for body in bodies:
                    url = f"http://{host}:{port}/webhooks/{name}"
                    async with session.post(url, data=json.dumps(body).encode()) as heard:
                        await read_answer(heard)
                        statuses.add(heard.status)
            return statuses

    assert asyncio.run(post_all()) <= {200, 202, 400, 422}
