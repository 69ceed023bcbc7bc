"""Is the console for those who may see it alone, and does nobody else act through it?"""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from service.console.live import MAX_VIEWERS
from tests.conftest import Eventually
from tests.end_to_end.console_harness import (
    TOKEN,
    ConsoleClient,
    add_failed_ticket,
    failure_digest,
    open_console,
)
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id


@pytest.fixture
async def local_visitor(story: ServiceHarness) -> AsyncIterator[ConsoleClient]:
    """Visit a console on this machine, which asks for no token."""
    await story.open(workers=0)
    async with open_console(story) as url:
        someone = ConsoleClient(url)
        yield someone
        await someone.session.close()
    if story.runtime:
        await story.redis.delete(story.keys.backlog, story.keys.tickets, story.keys.counts)


@pytest.fixture
async def anonymous_visitor(story: ServiceHarness) -> AsyncIterator[ConsoleClient]:
    """Visit a console that asks for a token."""
    await story.open(workers=0)
    settings = type(story.settings.webhook_secret)
    async with open_console(story, console_token=settings(TOKEN)) as url:
        someone = ConsoleClient(url)
        yield someone
        await someone.session.close()


async def test_every_page_forbids_what_it_does_not_need(local_visitor: ConsoleClient) -> None:
    """No script but ours, no frame, no sniffing, nothing kept; the same for who is turned away."""
    for headers in ({}, {"Host": "evil.example"}):
        async with local_visitor.session.get(local_visitor.url, headers=headers) as response:
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["X-Frame-Options"] == "DENY"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Cache-Control"] == "no-store"
            text = await response.text()
            assert "<style" not in text
            assert " style=" not in text
            assert "<script>" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example:8080"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
    ],
)
async def test_without_a_token_it_is_for_this_machine_alone(
    local_visitor: ConsoleClient, name: str, value: str
) -> None:
    """A name of somebody else's (DNS rebinding) and a proxy are refused, for the stream too."""
    for path in ("/", "/console/live", "/console/failed"):
        async with local_visitor.session.get(
            local_visitor.url + path, headers={name: value}
        ) as response:
            assert response.status == 403
            assert "ENRICHER_CONSOLE_TOKEN" in await response.text()


async def test_a_retry_needs_our_own_form(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """Without pass or mark, with another's mark, from another site: nothing is done."""
    job = await add_failed_ticket(story)
    meant = f"{await failure_digest(story, job)}:{job}"
    assert await local_visitor.post("/console/failed/retry", job=meant) == 403  # no pass yet
    mark = await local_visitor.csrf_token()
    assert await local_visitor.post("/console/failed/retry", job=meant) == 403
    assert await local_visitor.post("/console/failed/drop", job=meant, mark="0" * 64) == 403
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        status = await local_visitor.post(
            "/console/failed/drop", origin=origin, job=meant, mark=mark
        )
        assert status == 403
    other = ConsoleClient(local_visitor.url)
    assert await other.post("/console/failed/drop", job=meant, mark=mark) == 403
    await other.session.close()
    assert await story.failed_jobs() == [job]
    assert not story.log_events("failed_dropped")


async def test_retry_takes_up_what_was_shown(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """It waits again, due at once, and the log says who did it."""
    job = await add_failed_ticket(story)
    mark = await local_visitor.csrf_token()
    meant = f"{await failure_digest(story, job)}:{job}"
    assert await local_visitor.post("/console/failed/retry", job=meant, mark=mark) == 303
    assert await story.failed_jobs() == []
    assert await story.redis.zscore(story.keys.backlog, job) is not None
    (fact,) = story.log_events("failed_retried")
    assert (fact["user"], fact["jobs"]) == ("console at 127.0.0.1", [job])
    status, text = await local_visitor.get(f"/console/search?q={job}&result=queued")
    assert status == 200
    assert "It is due now." in text


async def test_drop_forgets_only_what_was_shown(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """What has failed anew since is not what the person saw."""
    job = await add_failed_ticket(story)
    mark = await local_visitor.csrf_token()
    seen = f"{await failure_digest(story, job)}:{job}"
    await add_failed_ticket(story, detail="another time")
    assert await local_visitor.post("/console/failed/drop", job=seen, mark=mark) == 303
    assert await story.failed_jobs() == [job]
    now = f"{await failure_digest(story, job)}:{job}"
    assert await local_visitor.post("/console/failed/drop", job=now, mark=mark) == 303
    assert await story.failed_jobs() == []
    (fact,) = story.log_events("failed_dropped")
    assert fact["jobs"] == [job]


async def test_all_that_failed_is_leafed_through(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """What does not fit on a page stands on those that its link leads to, each once."""
    for nth in range(45):
        await add_failed_ticket(story, version=f"1.{nth}.0", offset_ms=nth)
    path, shown, pages = "/console/failed", list[str](), 0
    while path:
        _, text = await local_visitor.get(path)
        shown += re.findall(r'class="version">([0-9.]+)<', text)
        pages += 1
        found = re.search(r'rel="next" href="([^"]+)"', text)
        path = found[1] if found and pages < 9 else ""
    assert shown == [f"1.{nth}.0" for nth in reversed(range(45))]


async def test_a_token_lets_in_and_nothing_else_does(anonymous_visitor: ConsoleClient) -> None:
    """Pages and stream ask for it; a wrong one and a forged pass are refused."""
    for path in ("/", "/console/live", "/console/failed", "/console/search?q=a"):
        status, text = await anonymous_visitor.get(path)
        assert status == 401
        assert "ENRICHER_CONSOLE_TOKEN" in text
        assert "Last events" not in text
    assert await anonymous_visitor.post("/console/sign-in", token="wrong") == 401
    assert (
        await anonymous_visitor.post("/console/sign-in", origin="http://evil", token=TOKEN) == 403
    )
    port = anonymous_visitor.url.rpartition(":")[2]
    forged = f"enricher-console-{port}=9999999999.{'a' * 32}.{'b' * 64}"
    assert (await anonymous_visitor.get("/", Cookie=forged))[0] == 401
    assert await anonymous_visitor.post("/console/sign-in", token=TOKEN) == 303
    status, text = await anonymous_visitor.get("/")
    assert status == 200
    assert "Last events" in text


async def test_the_pass_is_kept_from_scripts_and_other_sites(
    anonymous_visitor: ConsoleClient,
) -> None:
    """HttpOnly, SameSite=Strict, and Secure where TLS ends before us; signing out ends it."""
    headers = {"Origin": anonymous_visitor.url, "X-Forwarded-Proto": "https"}
    async with anonymous_visitor.session.post(
        f"{anonymous_visitor.url}/console/sign-in",
        data={"token": TOKEN},
        headers=headers,
        allow_redirects=False,
    ) as response:
        cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))
    assert await anonymous_visitor.post("/console/sign-in", token=TOKEN) == 303
    mark = await anonymous_visitor.csrf_token()
    assert await anonymous_visitor.post("/console/sign-out", mark=mark) == 303
    assert (await anonymous_visitor.get("/"))[0] == 401


@pytest.mark.parametrize(
    "changes",
    [{"console": "off"}, {"host": "0.0.0.0"}],  # noqa: S104 - that is what is tried
)
async def test_it_is_not_there_where_it_must_not_be(
    story: ServiceHarness, changes: dict[str, str]
) -> None:
    """Switched off, or beyond this machine without a token: 404, and webhooks go on."""
    await story.open(workers=0)
    async with open_console(story, **changes) as url:
        someone = ConsoleClient(url.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104 - as above
        assert (await someone.get("/"))[0] == 404
        assert (await someone.get("/console/live"))[0] == 404
        assert (await someone.get("/healthz"))[0] == 200
        await someone.session.close()


async def test_where_is_my_deployment(local_visitor: ConsoleClient, story: ServiceHarness) -> None:
    """Waiting, failed with its reason, or never seen; by version, application and id."""
    await add_failed_ticket(story, version="1.2.3")
    name = deployment_id()
    await story.post({"deploymentId": name, "eventType": "finished"})
    assert "never seen" in (await local_visitor.get("/console/search?q=no-such-thing"))[1]
    _, text = await local_visitor.get("/console/search?q=1.2.3")
    assert "LaunchDarkly does not know this deployment" in text
    _, text = await local_visitor.get("/console/search?q=BILLING")
    assert "1.2.3" in text
    _, text = await local_visitor.get(f"/console/search?q={name}")
    assert "Waiting: due now" in text


async def test_old_failures_hide_nothing_that_came_later(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """What has not ended stands first, then the newest, and it is said that there is more."""
    for nth in range(30):
        await add_failed_ticket(story, version=f"1.{nth}.0", offset_ms=-60_000 - nth)
    fields: Any = {"subject": "x", "applicationkey": "billing-service", "revision": "7"}
    await story.redis.xadd(story.keys.enriched, fields)
    for _ in range(100):  # so that it stands on the second page
        await story.redis.xadd(story.keys.enriched, {"subject": "y"})
    native = {"eventType": "finished", "environmentKey": "production", "version": "2.0.0"}
    names = {"projectKey": "default", "applicationKey": "billing-service"}
    await story.post(native | names)
    _, text = await local_visitor.get("/console/search?q=billing")
    statuses = re.findall(r'class="status ([a-z-]+)"', text)
    assert statuses[:3] == ["waiting", "published", "failed"]
    assert "there may be more" in text


async def test_what_was_published_is_found_at_its_revision(
    story: ServiceHarness, eventually: Eventually
) -> None:
    """From the stream, and by its mark when the record is trimmed."""
    await story.open()
    name = deployment_id()
    async with open_console(story) as url:
        someone = ConsoleClient(url)
        await story.post({"deploymentId": name, "eventType": "finished"})
        await eventually(story.is_done)
        _, text = await someone.get(f"/console/search?q={name}")
        assert "Published at revision 1" in text
        await story.redis.delete(story.keys.enriched)
        _, text = await someone.get(f"/console/search?q={name}")
        assert "the last time at revision 1" in text
        await someone.session.close()


async def test_hostile_words_stay_text(local_visitor: ConsoleClient, story: ServiceHarness) -> None:
    """In the search, in details, in raw answers, and in the parts that live."""
    evil = "<img src=x onerror=alert(1)>\"'</pre><script>alert(1)</script>"
    job = await add_failed_ticket(story, version="<b>1</b>", raw=evil.encode(), detail=evil)
    for path in (
        "/",
        "/console/failed",
        f"/console/failed/show?job={job}",
        f"/console/search?q={evil}",
    ):
        _, text = await local_visitor.get(path)
        assert "<img" not in text
        assert "<script>" not in text
        assert "<b>" not in text


async def test_a_stream_sends_what_changed(
    local_visitor: ConsoleClient, story: ServiceHarness
) -> None:
    """All parts first, then those that differ."""
    async with local_visitor.session.get(f"{local_visitor.url}/console/live") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        parts = await read_fragments(response.content)
        assert parts.keys() == {"trouble", "flow", "budget", "events", "failed"}
        await add_failed_ticket(story, version="9.9.9")
        while "failed" not in parts or "9.9.9" not in parts["failed"]:
            parts = await read_fragments(response.content)
        assert "budget" not in parts


async def read_fragments(stream: aiohttp.StreamReader) -> dict[str, str]:
    """Read one event of the stream."""
    while True:
        line = await stream.readline()
        if line.startswith(b"data: "):
            parts: dict[str, str] = json.loads(line.removeprefix(b"data: "))
            return parts


async def test_redis_away_is_told(local_visitor: ConsoleClient, story: ServiceHarness) -> None:
    """The page stays and says so; what has to be read answers 503, as a page."""
    assert story.runtime is not None
    await local_visitor.get()
    pool = story.runtime.client.connection_pool
    pool.connection_kwargs["path"] = "/nowhere/redis.sock"
    await pool.disconnect()
    status, text = await local_visitor.get("/console/failed")
    assert status == 503
    assert "Redis is away" in text


async def test_no_more_watch_than_we_can_serve(local_visitor: ConsoleClient) -> None:
    """One more is asked to come later; who leaves makes room."""
    url = f"{local_visitor.url}/console/live"
    local_visitor.session.connector._limit = 0  # type: ignore[union-attr]
    watching = [await local_visitor.session.get(url) for _ in range(MAX_VIEWERS)]
    assert {each.status for each in watching} == {200}
    async with local_visitor.session.get(url) as response:
        assert response.status == 503
    for each in watching:
        each.close()


async def test_who_watches_does_not_hold_up_the_end(story: ServiceHarness) -> None:
    """The stream ends when the receiver closes, and not when its time is over."""
    await story.open(workers=0)
    async with open_console(story) as url:
        someone = ConsoleClient(url)
        response = await someone.session.get(f"{url}/console/live")
        await response.content.readline()
    assert await response.content.read() is not None
    await someone.session.close()
