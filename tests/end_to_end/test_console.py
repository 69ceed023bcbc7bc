"""Tests of the console over HTTP: access, retry and drop, search, live updates."""

import html
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest

from service.console import routes
from service.console.live import MAX_VIEWERS
from service.settings import Secret
from tests.conftest import Eventually
from tests.end_to_end.console_harness import (
    TOKEN,
    ConsoleClient,
    add_failed_ticket,
    disconnect_redis,
    failure_digest,
    open_console,
)
from tests.end_to_end.harness import ServiceHarness
from tests.examples.dora_records import FLAG_URL, make_history
from tests.examples.dora_records import deployment_id as history_id
from tests.factories import deployment_id


@pytest.fixture
async def local_client(service: ServiceHarness) -> AsyncIterator[ConsoleClient]:
    """Return a client of a console without a token."""
    await service.open(workers=0)
    async with open_console(service) as url:
        client = ConsoleClient(url)
        yield client
        await client.session.close()
    if service.runtime:
        await service.redis.delete(service.keys.backlog, service.keys.tickets, service.keys.counts)


@pytest.fixture
async def token_client(service: ServiceHarness) -> AsyncIterator[ConsoleClient]:
    """Return a client, not signed in, of a console with a token."""
    await service.open(workers=0)
    async with open_console(service, console_token=Secret(TOKEN)) as url:
        client = ConsoleClient(url)
        yield client
        await client.session.close()


async def test_every_page_has_security_headers(local_client: ConsoleClient) -> None:
    """Only the console's own scripts, no frame, no sniffing, no cache; also on refused requests."""
    for headers in ({}, {"Host": "evil.example"}):
        async with local_client.session.get(local_client.url, headers=headers) as response:
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


async def test_every_link_is_relative(token_client: ConsoleClient, service: ServiceHarness) -> None:
    """Links, forms, files and redirects lead to the same place below any path prefix."""
    job = await add_failed_ticket(service)
    _, sign_in = await token_client.get("/console/failed")
    assert await token_client.post("/console/sign-in", token=TOKEN) == 303
    paths = ("/", "/console/failed", f"/console/failed/show?job={job}", "/console/search?q=billing")
    pages = {path: (await token_client.get(path))[1] for path in paths}
    for path, text in {"/console/sign-in": sign_in, **pages}.items():
        links = re.findall(r'(?:href|src|action|formaction|data-live-url)="([^"#]*)"', text)
        assert links
        for link in links:
            assert not link.startswith("/"), (path, link)
            target = urlsplit(urljoin(path, html.unescape(link))).path
            assert target == "/" or target.startswith("/console/"), (path, link)
    csrf_token = await token_client.csrf_token()
    fields = {"job": f"{await failure_digest(service, job)}:{job}", "csrf_token": csrf_token}
    async with token_client.session.post(
        f"{token_client.url}/console/failed/drop",
        data=fields,
        headers={"Origin": token_client.url},
        allow_redirects=False,
    ) as response:
        assert response.headers["Location"] == "../../console/failed?result=dropped"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "evil.example"),
        ("Host", "127.0.0.1.evil.example:8080"),
        ("X-Forwarded-For", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
    ],
)
async def test_console_without_a_token_refuses_other_hosts_and_proxies(
    local_client: ConsoleClient, name: str, value: str
) -> None:
    """A foreign host name (DNS rebinding) and a proxy are refused, also for the live stream."""
    for path in ("/", "/console/live", "/console/failed"):
        async with local_client.session.get(
            local_client.url + path, headers={name: value}
        ) as response:
            assert response.status == 403
            assert "ENRICHER_CONSOLE_TOKEN" in await response.text()


async def test_retry_and_drop_without_a_valid_form_are_refused(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """No session, no CSRF token, a foreign token, or another origin: nothing changes."""
    job = await add_failed_ticket(service)
    job_field = f"{await failure_digest(service, job)}:{job}"
    assert await local_client.post("/console/failed/retry", job=job_field) == 403  # no session yet
    csrf_token = await local_client.csrf_token()
    assert await local_client.post("/console/failed/retry", job=job_field) == 403
    assert (
        await local_client.post("/console/failed/drop", job=job_field, csrf_token="0" * 64) == 403
    )
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        status = await local_client.post(
            "/console/failed/drop", origin=origin, job=job_field, csrf_token=csrf_token
        )
        assert status == 403
    other = ConsoleClient(local_client.url)
    assert await other.post("/console/failed/drop", job=job_field, csrf_token=csrf_token) == 403
    await other.session.close()
    assert await service.failed_jobs() == [job]
    assert not service.log_events("failed_dropped")


async def test_retry_makes_the_shown_ticket_due(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """The ticket waits, due at once, and the log says who retried it."""
    job = await add_failed_ticket(service)
    csrf_token = await local_client.csrf_token()
    job_field = f"{await failure_digest(service, job)}:{job}"
    assert (
        await local_client.post("/console/failed/retry", job=job_field, csrf_token=csrf_token)
        == 303
    )
    assert await service.failed_jobs() == []
    assert await service.redis.zscore(service.keys.backlog, job) is not None
    (event,) = service.log_events("failed_retried")
    assert (event["user"], event["jobs"]) == ("console at 127.0.0.1", [job])
    status, text = await local_client.get(f"/console/search?q={job}&result=queued")
    assert status == 200
    assert "The ticket is due now." in text


async def test_drop_deletes_only_the_shown_failure(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """A ticket that has failed again since is kept: the person did not see that failure."""
    job = await add_failed_ticket(service)
    csrf_token = await local_client.csrf_token()
    old_field = f"{await failure_digest(service, job)}:{job}"
    await add_failed_ticket(service, detail="another time")
    assert (
        await local_client.post("/console/failed/drop", job=old_field, csrf_token=csrf_token) == 303
    )
    assert await service.failed_jobs() == [job]
    new_field = f"{await failure_digest(service, job)}:{job}"
    assert (
        await local_client.post("/console/failed/drop", job=new_field, csrf_token=csrf_token) == 303
    )
    assert await service.failed_jobs() == []
    (event,) = service.log_events("failed_dropped")
    assert event["jobs"] == [job]


async def test_failed_list_pages_show_every_ticket_once(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """The link ``next`` leads to the tickets that do not fit on a page."""
    for number in range(45):
        await add_failed_ticket(service, version=f"1.{number}.0", offset_ms=number)
    path, shown, pages = "/console/failed", list[str](), 0
    while path:
        _, text = await local_client.get(path)
        shown += re.findall(r'class="version">([0-9.]+)<', text)
        pages += 1
        found = re.search(r'rel="next" href="([^"]+)"', text)
        path = urljoin(path, found[1]) if found and pages < 9 else ""
    assert shown == [f"1.{number}.0" for number in reversed(range(45))]


async def test_console_with_a_token_refuses_everyone_who_is_not_signed_in(
    token_client: ConsoleClient,
) -> None:
    """Pages and live stream ask for the token; a wrong token and a forged session are refused."""
    for path in ("/", "/console/live", "/console/failed", "/console/search?q=a"):
        status, text = await token_client.get(path)
        assert status == 401
        assert "ENRICHER_CONSOLE_TOKEN" in text
        assert "Latest deployments" not in text
    assert await token_client.post("/console/sign-in", token="wrong") == 401
    assert await token_client.post("/console/sign-in", origin="http://evil", token=TOKEN) == 403
    assert await token_client.post("/console/sign-in", token=TOKEN) == 303
    status, text = await token_client.get("/")
    assert status == 200
    assert "Latest deployments" in text
    (session,) = token_client.session.cookie_jar
    token_client.session.cookie_jar.clear()
    forged = f"{session.key}=9999999999.{'a' * 32}.{'b' * 64}"
    assert (await token_client.get("/", Cookie=forged))[0] == 401


async def test_session_cookie_is_hidden_from_scripts_and_other_sites(
    token_client: ConsoleClient,
) -> None:
    """HttpOnly, SameSite=Strict, and Secure behind a TLS proxy; signing out deletes it."""
    headers = {"Origin": token_client.url, "X-Forwarded-Proto": "https"}
    async with token_client.session.post(
        f"{token_client.url}/console/sign-in",
        data={"token": TOKEN},
        headers=headers,
        allow_redirects=False,
    ) as response:
        cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))
    assert await token_client.post("/console/sign-in", token=TOKEN) == 303
    csrf_token = await token_client.csrf_token()
    assert await token_client.post("/console/sign-out", csrf_token=csrf_token) == 303
    assert (await token_client.get("/"))[0] == 401


@pytest.mark.parametrize(
    "changes",
    [{"console": "off"}, {"host": "0.0.0.0"}],  # noqa: S104 - the test is about this
)
async def test_console_that_is_off_or_unprotected_is_not_found(
    service: ServiceHarness, changes: dict[str, str]
) -> None:
    """Switched off, or open to other machines without a token: 404, and the receiver works."""
    await service.open(workers=0)
    async with open_console(service, **changes) as url:
        client = ConsoleClient(url.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104 - as above
        assert (await client.get("/"))[0] == 404
        assert (await client.get("/console/live"))[0] == 404
        assert (await client.get("/healthz"))[0] == 200
        await client.session.close()


async def test_search_finds_waiting_and_failed_tickets(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """By version, application and id; the result says that nothing was found."""
    await add_failed_ticket(service, version="1.2.3")
    name = deployment_id()
    await service.post({"deploymentId": name, "eventType": "finished"})
    assert "was not found" in (await local_client.get("/console/search?q=no-such-thing"))[1]
    _, text = await local_client.get("/console/search?q=1.2.3")
    assert "LaunchDarkly does not know this deployment" in text
    _, text = await local_client.get("/console/search?q=BILLING")
    assert "1.2.3" in text
    _, text = await local_client.get(f"/console/search?q={name}")
    assert "Waiting: due now" in text


async def test_search_lists_waiting_tickets_then_the_newest(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """Old failures do not hide newer entries, and the page says that there may be more."""
    for number in range(30):
        await add_failed_ticket(service, version=f"1.{number}.0", offset_ms=-60_000 - number)
    fields: Any = {"subject": "x", "applicationkey": "billing-service", "revision": "7"}
    await service.redis.xadd(service.keys.enriched, fields)
    for _ in range(100):  # puts the record on the second page of the scan
        await service.redis.xadd(service.keys.enriched, {"subject": "y"})
    native = {"eventType": "finished", "environmentKey": "production", "version": "2.0.0"}
    keys = {"projectKey": "default", "applicationKey": "billing-service"}
    await service.post(native | keys)
    _, text = await local_client.get("/console/search?q=billing")
    statuses = re.findall(r'class="status ([a-z-]+)"', text)
    assert statuses[:3] == ["waiting", "published", "failed"]
    assert "there may be more" in text


async def test_search_says_what_a_deployment_changed_and_what_became_of_it(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """What ran before, rollbacks both ways, recoveries, flags; each version leads to its search."""
    for fields in make_history():
        await service.redis.xadd(service.keys.enriched, fields)
    pages = {}
    for number in range(1, 7):
        _, text = await local_client.get(f"/console/search?q={history_id(number)}")
        own_text = text.split(f"<dd>{history_id(number)}</dd>")[0].rpartition("<details")[2]
        pages[number] = " ".join(re.sub(r"<[^>]*>", " ", own_text).split())
    assert "What changed" not in pages[1]
    assert "This deployment failed . Before it ran 1.0.0 , which had succeeded 5 min" in pages[2]
    assert "The same version again: 1.0.0 , which had failed 5 min earlier." in pages[3]
    assert "It ended a failure that had lasted 4 min." in pages[3]
    assert "It was rolled back 2 min later by 2.0.0" in pages[4]
    assert "A rollback from 3.0.0" in pages[5]
    assert "flag dark-mode turned on, impact 42 % (medium)" in pages[5]
    assert "rolled back" not in pages[6]
    _, text = await local_client.get(f"/console/search?q={history_id(5)}")
    assert f'href="../console/search?q={history_id(4)}"' in text
    assert f'href="{FLAG_URL}"' in text


async def test_search_finds_a_published_deployment_with_its_revision(
    service: ServiceHarness, eventually: Eventually
) -> None:
    """The revision is known also when the record was trimmed."""
    await service.open()
    name = deployment_id()
    async with open_console(service) as url:
        client = ConsoleClient(url)
        await service.post({"deploymentId": name, "eventType": "finished"})
        await eventually(service.is_done)
        _, text = await client.get(f"/console/search?q={name}")
        assert "Published at revision 1" in text
        await service.redis.delete(service.keys.enriched)
        _, text = await client.get(f"/console/search?q={name}")
        assert "last at revision 1" in text
        await client.session.close()


async def test_html_in_values_is_escaped(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """In the search, in details, in raw responses, and in live fragments."""
    evil = "<img src=x onerror=alert(1)>\"'</pre><script>alert(1)</script>"
    job = await add_failed_ticket(service, version="<b>1</b>", raw=evil.encode(), detail=evil)
    for path in (
        "/",
        "/console/failed",
        f"/console/failed/show?job={job}",
        f"/console/search?q={evil}",
    ):
        _, text = await local_client.get(path)
        assert "<img" not in text
        assert "<script>" not in text
        assert "<b>" not in text


async def test_live_stream_sends_changed_rows(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """Everything first, then nothing but the rows that changed."""
    await add_failed_ticket(service, version="1.1.1")
    async with local_client.session.get(f"{local_client.url}/console/live") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        changes = await read_changes(response.content)
        assert changes.keys() == {"error", "flow", "budget", "events", "failed"}
        while "1.1.1" not in "".join(changes.get("failed", {"rows": []})["rows"]):
            changes = await read_changes(response.content)  # it was read just before
        job = await add_failed_ticket(service, version="9.9.9", offset_ms=1)
        while "failed" not in (changes := await read_changes(response.content)):
            continue  # a curve may move meanwhile
        assert changes.keys() == {"flow", "events", "failed"}
        assert changes["failed"]["rows"].keys() == {f"failed:{job}"}
        assert "9.9.9" in changes["failed"]["rows"][f"failed:{job}"]
        assert len(changes["failed"]["keys"]) == 2


@pytest.mark.parametrize(("accept_encoding", "encoding"), [("gzip", "gzip"), ("identity", None)])
async def test_live_stream_is_compressed_for_those_who_accept_it(
    local_client: ConsoleClient, accept_encoding: str, encoding: str | None
) -> None:
    """Each event can be read at once, compressed or not."""
    headers = {"Accept-Encoding": accept_encoding}
    url = f"{local_client.url}/console/live"
    async with local_client.session.get(url, headers=headers) as response:
        assert response.headers.get("Content-Encoding") == encoding
        assert "flow" in await read_changes(response.content)


async def test_live_stream_without_changes_sends_comments(
    local_client: ConsoleClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent stream would be ended by a proxy; the browser ignores comments."""
    monkeypatch.setattr(routes, "_COMMENT_INTERVAL_S", 0.0)
    async with local_client.session.get(f"{local_client.url}/console/live") as response:
        lines = [await response.content.readline() for _ in range(2)]
        while lines[-1] != b":\n":
            lines.append(await response.content.readline())


async def read_changes(stream: aiohttp.StreamReader) -> dict[str, Any]:
    """Return the changes in the next event of the stream."""
    while True:
        line = await stream.readline()
        if line.startswith(b"data: "):
            changes: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return changes


async def test_page_while_redis_is_away_is_503(
    local_client: ConsoleClient, service: ServiceHarness
) -> None:
    """A page that has to be read from Redis says that Redis is away."""
    await local_client.get()
    await disconnect_redis(service)
    status, text = await local_client.get("/console/failed")
    assert status == 503
    assert "Redis is away" in text


async def test_live_stream_with_too_many_viewers_is_503(local_client: ConsoleClient) -> None:
    """One viewer more than the maximum is refused."""
    url = f"{local_client.url}/console/live"
    local_client.session.connector._limit = 0  # type: ignore[union-attr]
    responses = [await local_client.session.get(url) for _ in range(MAX_VIEWERS)]
    assert {response.status for response in responses} == {200}
    async with local_client.session.get(url) as refused:
        assert refused.status == 503
    for response in responses:
        response.close()


async def test_receiver_with_a_viewer_stops_at_once(service: ServiceHarness) -> None:
    """The live stream ends when the receiver stops, not after its 15 minutes."""
    await service.open(workers=0)
    async with open_console(service) as url:
        client = ConsoleClient(url)
        response = await client.session.get(f"{url}/console/live")
        await response.content.readline()
    assert await response.content.read() is not None
    await client.session.close()
