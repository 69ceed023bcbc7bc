"""Tests of sources with ``report = true``: each deployment is reported once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.client import LaunchDarkly
from service.enrich.report import ReportAnswer
from service.enrich.reporter import Reporter
from service.enrich.verdict import ApiResponse, NoResponse
from service.simulate.options import Options
from service.simulate.quota import Limits
from service.simulate.responses import Canned
from tests.accept.sample_webhooks import PRESETS, REQUIRED_FIELDS, read_samples
from tests.conftest import Eventually
from tests.end_to_end.harness import SECRET as NATIVE_SECRET
from tests.end_to_end.harness import ServiceHarness

EVENTS = "deployment-events"
POST_ROUTE = "POST /deployment-events"
VISIBLE_AFTER_MS = 300
Event = dict[str, object]
PostReport = Callable[[Reporter, Lease], Awaitable[ReportAnswer]]
REPORTING = [name for name in PRESETS if name != "launchdarkly"]


def write_sources(folder: Path) -> str:
    """Write a file with a source of each preset that has a project of its own; return its path."""
    text = f'[[source]]\nname = "native"\npreset = "native"\nsecrets = ["{NATIVE_SECRET}"]\n'
    text += "report = true\n"
    for name in REPORTING:
        text += f'[[source]]\nname = "of-{name}"\npreset = "{name}"\nproject = "{name}"\n'
        text += f'secrets = ["{NATIVE_SECRET}"]\nverify = "none"\nreport = true\n'
        text += f"[source.fields]\nproject = \"'{name}'\"\n{REQUIRED_FIELDS.get(name, '')}\n"
    path = folder / "sources.toml"
    path.write_text(text)
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> str:
    """Return the path of a file of sources that all have ``report = true``."""
    return write_sources(tmp_path)


@pytest.fixture
async def empty(service: ServiceHarness) -> ServiceHarness:
    """Return the service with a LaunchDarkly that knows nothing, and shows events late."""
    service.simulator.options = Options(auto_create=False, visible_after_ms=VISIBLE_AFTER_MS)
    return service


def count_posts(service: ServiceHarness) -> int:
    """Return how many events were posted to LaunchDarkly."""
    return service.simulator.stats.calls.get(POST_ROUTE, 0)


async def read_statuses(service: ServiceHarness) -> list[tuple[str, str]]:
    """Return outcome of the event and status of the deployment, of each record."""
    return [
        (record["data"]["event"]["outcome"], record["data"]["deployment"]["status"])
        for record in await service.records()
    ]


async def wait_for_line(
    service: ServiceHarness, eventually: Eventually, event: str
) -> dict[str, Any]:
    """Return the one line of an event, which is logged just after its ticket has ended."""

    async def is_logged() -> bool:
        return bool(service.log_events(event))

    await eventually(is_logged)
    (line,) = service.log_events(event)
    return line


@pytest.mark.parametrize("kind", ["succeeded", "failed"])
async def test_webhook_of_each_preset_is_enough(
    empty: ServiceHarness, eventually: Eventually, sources: str, kind: str
) -> None:
    """LaunchDarkly knows nothing, and each webhook becomes a record; none is not found."""
    await empty.open(sources=sources)
    samples = [sample for sample in read_samples() if sample.name == kind]
    assert {sample.preset for sample in samples} == set(REPORTING)
    for sample in samples:
        url = f"{empty.receiver_url}/webhooks/of-{sample.preset}"
        async with empty.session.post(url, json=sample.body, headers=sample.headers) as response:
            assert response.status == 202, sample.preset
    await eventually(empty.is_done)
    assert await empty.failed_jobs() == []
    status = "failed" if kind == "failed" else "finished"
    assert await read_statuses(empty) == [(kind, status)] * len(REPORTING)
    records = await empty.records()
    assert {record["projectkey"] for record in records} == set(REPORTING)
    assert all(record["data"]["event"]["reportedAt"] for record in records)
    assert (count_posts(empty), empty.simulator.stats.reported_twice) == (len(REPORTING), 0)


async def test_deployment_that_launchdarkly_lists_is_not_reported(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """A pipeline reported it already."""
    now = int(time.time() * 1000)
    url = f"{empty.settings.launchdarkly_url}/api/v2/engineering-insights/{EVENTS}"
    sent = event | {"eventTime": now}
    async with empty.session.post(
        url, json=sent, headers={"Authorization": Options().token}
    ) as response:
        assert response.status == 201
    await asyncio.sleep(2 * VISIBLE_AFTER_MS / 1000)
    await empty.open(sources=sources)
    assert (await empty.post(sent))[0] == 202
    await eventually(empty.is_done)
    [record] = await empty.records()
    assert "reportedAt" not in record["data"]["event"]
    assert count_posts(empty) == 1


@pytest.mark.parametrize("is_listed", [False, True])
async def test_deployment_of_a_sender_whose_clock_is_ahead_is_reported_once(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str, is_listed: bool
) -> None:
    """It ends two hours from now, as a local time would that was written with a Z."""
    sent = event | {"eventTime": int(time.time() * 1000) + 2 * 3_600_000}
    url = f"{empty.settings.launchdarkly_url}/api/v2/engineering-insights/{EVENTS}"
    headers = {"Authorization": Options().token}
    if is_listed:
        async with empty.session.post(url, json=sent, headers=headers) as response:
            assert response.status == 201
        await asyncio.sleep(2 * VISIBLE_AFTER_MS / 1000)
        failing = Canned(status=500, body=b"{}")  # so long that a later attempt reads the list
        empty.simulator.set_response("engineering-insights/deployments", failing, times=6)
    await empty.open(sources=sources)
    assert (await empty.post(sent))[0] == 202
    await eventually(empty.is_done)
    assert await empty.failed_jobs() == []
    assert len(await empty.records()) == 1
    assert (count_posts(empty), empty.simulator.stats.reported_twice) == (1, 0)


async def test_start_and_end_are_one_deployment(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """The start makes no record; the record has the time in between."""
    await empty.open(sources=sources)
    now = int(time.time() * 1000)
    started = event | {"eventType": "started", "eventTime": now - 60_000}
    status, reply = await empty.post(started)
    assert (status, reply["job"].partition(":")[0]) == (202, "start")
    await eventually(empty.is_done)
    assert await empty.records() == []
    ended = {"eventType": "failed", "eventTime": now, "versionName": "June"}
    assert (await empty.post(event | ended))[0] == 202
    await eventually(empty.is_done)
    [record] = await empty.records()
    deployment = record["data"]["deployment"]
    assert (deployment["status"], deployment["durationMs"]) == ("failed", 60_000)
    assert (count_posts(empty), empty.simulator.stats.reported_twice) == (2, 0)
    await wait_for_line(empty, eventually, "start_reported")
    assert [item.status for item in empty.simulator.list_deployments()] == ["failed"]


async def test_start_after_its_end_is_dropped(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """Told after the end, it would be a deployment that never ends."""
    await empty.open(sources=sources)
    now = int(time.time() * 1000)
    assert (await empty.post(event | {"eventTime": now}))[0] == 202

    async def is_reported() -> bool:
        return count_posts(empty) == 1

    await eventually(is_reported)
    started = event | {"eventType": "started", "eventTime": now - 60_000}
    assert (await empty.post(started))[0] == 202
    await eventually(empty.is_done)
    assert len(await empty.records()) == 1
    await wait_for_line(empty, eventually, "start_dropped")
    assert count_posts(empty) == 1


async def test_rerun_of_a_version_is_reported_and_a_repetition_is_not(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """Each announced deployment is reported once, and gets its record."""
    await empty.open(sources=sources)
    now = int(time.time() * 1000)
    for ago_ms in (300_000, 0, 500):  # the last one says the same as the one before
        assert (await empty.post(event | {"eventTime": now - ago_ms}))[0] == 202
        await eventually(empty.is_done)
    assert count_posts(empty) == 2
    assert len({record["subject"] for record in await empty.records()}) == 2
    assert await empty.failed_jobs() == []


async def test_version_that_launchdarkly_refuses_fails_without_a_call(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """The failed ticket says what is wrong."""
    await empty.open(sources=sources)
    assert (await empty.post(event | {"version": "feature/x"}))[0] == 202
    await eventually(empty.is_done)
    failed = await wait_for_line(empty, eventually, "deployment_failed")
    assert failed["reason"] == "report_invalid"
    assert "'feature/x'" in failed["detail"]
    assert empty.simulator.stats.calls == {}


async def test_reader_token_fails_with_a_reason_of_its_own(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """It is tried until the timeout, because a person may widen the role."""
    options = empty.simulator.options
    empty.simulator.options = replace(options, reader_tokens=(options.token,))
    await empty.open(sources=sources, not_found_timeout=1.0)
    assert (await empty.post(event))[0] == 202
    await eventually(empty.is_done)
    failed = await wait_for_line(empty, eventually, "deployment_failed")
    assert failed["reason"] == "report_forbidden"
    assert "Writer" in failed["detail"]
    reasons = {line["reason"] for line in empty.log_events("deployment_postponed")}
    assert reasons == {"report_forbidden"}


async def test_rejected_event_keeps_the_answer(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """A 400 is final."""
    empty.simulator.set_response(EVENTS, Canned(status=400, body=b'{"code":"invalid_request"}'))
    await empty.open(sources=sources)
    assert (await empty.post(event))[0] == 202
    await eventually(empty.is_done)
    failed = await wait_for_line(empty, eventually, "deployment_failed")
    assert failed["reason"] == "report_rejected"
    assert count_posts(empty) == 1


async def test_reports_share_the_budget(
    empty: ServiceHarness, event: Event, eventually: Eventually, sources: str
) -> None:
    """Lists and reports together stay within the limit; a 429 costs no attempt."""
    quota = Limits(global_limit=6, window_ms=1000)
    empty.simulator.options = replace(empty.simulator.options, quota=quota)
    await empty.open(sources=sources)
    for number in range(8):
        assert (await empty.post(event | {"version": f"v{number}"}))[0] == 202
    await eventually(empty.is_done)
    assert len(await empty.records()) == 8
    assert empty.simulator.stats.reported_twice == 0
    assert empty.simulator.stats.rate_limited_while_closed == 0


def build_deaths(moment: Literal["before", "after"]) -> PostReport:
    """Return a reporter whose worker dies once, before its call or after it.

    It dies as a killed process does: nothing more is written.
    """
    post, deaths = Reporter.post, [moment]

    async def die_once(reporter: Reporter, lease: Lease) -> ReportAnswer:
        death = deaths.pop() if deaths else None
        if death == "before":
            raise asyncio.CancelledError
        answer = await post(reporter, lease)
        if death == "after":
            raise asyncio.CancelledError
        return answer

    return die_once


@pytest.fixture
def unclear(empty: ServiceHarness, monkeypatch: pytest.MonkeyPatch) -> ServiceHarness:
    """Return the service: the list lags by more than a lease, and the patience is 3.5 s."""
    for module in ("service.enrich.report", "service.backlog.reports"):
        monkeypatch.setattr(f"{module}.REPORT_PATIENCE_S", 3.5)
    empty.simulator.options = replace(empty.simulator.options, visible_after_ms=2_800)
    return empty


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("outcome", ["finished", "started"])
async def test_death_at_a_report_reports_once(
    unclear: ServiceHarness,
    event: Event,
    eventually: Eventually,
    sources: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    moment: Literal["before", "after"],
    outcome: str,
) -> None:
    """The worker is killed between the intent and the call, and between the call and its answer."""
    monkeypatch.setattr(Reporter, "post", build_deaths(moment))
    await unclear.open(sources=sources)
    now = int(time.time() * 1000)
    assert (await unclear.post(event | {"eventType": outcome, "eventTime": now}))[0] == 202
    await eventually(unclear.is_done)
    assert (count_posts(unclear), unclear.simulator.stats.reported_twice) == (1, 0)
    assert len(await unclear.records()) == (0 if outcome == "started" else 1)
    assert await unclear.failed_jobs() == []


@pytest.mark.parametrize(
    ("answer", "is_stored"),
    [
        (NoResponse("timed out"), True),
        (ApiResponse(status=503, body=b""), True),
        (NoResponse("ServerDisconnectedError"), False),
    ],
)
async def test_answer_that_says_nothing_reports_once(
    unclear: ServiceHarness,
    event: Event,
    eventually: Eventually,
    sources: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer: ApiResponse | NoResponse,
    is_stored: bool,
) -> None:
    """A timeout, or a gateway that answers: the event may have been stored, or not."""
    lost = [True]
    real_post = LaunchDarkly.post

    async def post(launchdarkly: LaunchDarkly, *args: Any, **fields: Any) -> Any:
        is_lost = bool(lost) and lost.pop()
        if is_lost and not is_stored:
            return answer
        response = await real_post(launchdarkly, *args, **fields)
        return answer if is_lost else response

    monkeypatch.setattr(LaunchDarkly, "post", post)
    await unclear.open(sources=sources)
    assert (await unclear.post(event))[0] == 202
    await eventually(unclear.is_done)
    assert (count_posts(unclear), unclear.simulator.stats.reported_twice) == (1, 0)
    assert len(await unclear.records()) == 1
