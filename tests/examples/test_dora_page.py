"""Tests of the page of the example over HTTP: what it shows, and how it is served."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec
import pytest
import structlog
from redis.asyncio import Redis

from service.cli import dora_page
from service.cli.dora_page import serve_dora_page
from service.store.keys import Keys
from tests.doc_blocks import ROOT, PageEnvironment
from tests.examples.dora_records import (
    FLAG_URL,
    PULL_URL,
    deployment_id,
    make_fields,
    make_history,
    make_hostile_fields,
)

APPLICATION = "application?project=default&environment=production&application=shop&period=15m"
DORA_README = ROOT / "deploy" / "examples" / "dora" / "README.md"


class PageText(HTMLParser):
    """The text of a page, its links, and the deployments that it lists."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""
        self.deployments: dict[str, str] = {}
        self._open = ""
        self._is_title = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect addresses; a deployment begins with its id."""
        values = dict(attrs)
        self._is_title = tag == "title"  # of a bar or a dot: it is no text of the page
        self.links += [values[name] or "" for name in ("href", "src") if name in values]
        if tag == "li" and (values.get("id") or "").startswith("d-"):
            self._open = (values["id"] or "").removeprefix("d-")
        elif tag == "section":
            self._open = ""

    def handle_endtag(self, _: str) -> None:
        """End a title."""
        self._is_title = False

    def handle_data(self, data: str) -> None:
        """Join the text with single spaces."""
        text = " ".join(data.split())
        if text and not self._is_title:
            self.text += f"{text} "
            if self._open:
                known = self.deployments.get(self._open, "")
                self.deployments[self._open] = f"{known}{text} "


class PageClient:
    """Gets pages of one running page server."""

    def __init__(self, session: aiohttp.ClientSession, url: str, redis: Redis, keys: Keys) -> None:
        self.session = session
        self.url = url
        self._redis = redis
        self._keys = keys

    async def append(self, *entries: dict[str, bytes]) -> None:
        """Append entries to the stream."""
        for fields in entries:
            await self._redis.xadd(self._keys.enriched, fields)  # type: ignore[arg-type] # stub

    async def get(self, path: str) -> PageText:
        """Return a page."""
        async with self.session.get(f"{self.url}/{path}") as response:
            assert response.status == 200
            return PageText(await response.text())

    async def wait_for(self, path: str, text: str) -> PageText:
        """Return a page once it shows a text."""
        async with asyncio.timeout(20):
            while True:
                page = await self.get(path)
                if text in page.text:
                    return page
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_page(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[PageClient]:
    """Serve the page of a namespace."""
    log = structlog.get_logger()
    async with (
        serve_dora_page(redis_url, namespace=keys.namespace, period="15m", log=log) as url,
        aiohttp.ClientSession() as session,
    ):
        yield PageClient(session, url, redis, keys)


@pytest.fixture
async def page_client(redis: Redis, redis_url: str, keys: Keys) -> AsyncIterator[PageClient]:
    """Serve the page of an empty namespace."""
    async with open_page(redis, redis_url, keys) as client:
        yield client


async def test_overview_shows_the_four_measures_of_each_application(
    page_client: PageClient,
) -> None:
    """The measures of the history, with units; records of all ages count."""
    await page_client.wait_for("", "No deployments yet")
    await page_client.append(*make_history())
    page = await page_client.wait_for("", "5 successful deployments")
    for text in (
        "shop production",
        "Deployment frequency 0.3 per minute",
        "Lead time for changes 2 h",
        "Change failure rate 33 % 2 of 6 deployments",
        "Time to restore 3 min median of 2 recoveries",
    ):
        assert text in page.text
    other_period = await page_client.get("?period=30d")
    assert "0.2 per day 5 successful" in other_period.text


async def test_deployments_say_what_changed_and_what_came_after(page_client: PageClient) -> None:
    """Replaced, run again, rolled back, restored; pull requests; flags and their events."""
    await page_client.append(*make_history())
    page = await page_client.wait_for(APPLICATION, "6 deployments in")
    first, failed, repaired, bad, rollback, last = (
        page.deployments[deployment_id(number)] for number in range(1, 7)
    )
    assert list(page.deployments) == [deployment_id(number) for number in range(6, 0, -1)]
    assert "What ran before is not known. Lead time 1 h." in first
    assert "2.0.0 failed" in failed
    assert "Replaced 1.0.0 , which had succeeded 5 min before." in failed
    assert "redeployment restored" in repaired
    assert "Deployed the same version again, which had failed 5 min before." in repaired
    assert "Ended a failure that had lasted 4 min." in repaired
    assert "rolled back later" in bad
    assert "Rolled back 2 min later by 2.0.0" in bad
    assert "dark-mode not changed before the next deployment" in bad
    assert "rollback restored" in rollback
    assert "Rolled back from 3.0.0 , which had succeeded" in rollback
    assert "#7 Pay by card jo" in rollback
    assert "turned on 1 min later, at" in rollback
    assert ", impact 42 % (medium), by ada@example.com" in rollback
    assert "restored" not in last
    assert {FLAG_URL, PULL_URL, f"#d-{deployment_id(3)}"} <= set(page.links)


async def test_page_counts_the_last_revision(page_client: PageClient) -> None:
    """A later revision corrects what the page says."""
    history = make_history()
    await page_client.append(*history)
    await page_client.wait_for("", "2 of 6 deployments")
    await page_client.append(make_fields(2, revision=2, ended_at=_end_of(history[1])))
    await page_client.wait_for("", "1 of 6 deployments")


def _end_of(fields: dict[str, bytes]) -> int:
    return int(msgspec.json.decode(fields["data"])["deployment"]["endedAt"])


async def test_page_is_transferred_only_when_it_changes(page_client: PageClient) -> None:
    """A browser asks every few seconds; most answers are 304."""
    await page_client.wait_for("", "No deployments yet")
    await page_client.append(*make_history())
    for path, text in (("", "5 successful"), (APPLICATION, "6 deployments in")):
        await page_client.wait_for(path, text)
        url = f"{page_client.url}/{path}"
        async with page_client.session.get(url) as response:
            tag = response.headers["ETag"]
        async with page_client.session.get(url, headers={"If-None-Match": tag}) as response:
            assert response.status in {200, 304}  # 200 if a minute has begun meanwhile
        async with page_client.session.get(url, headers={"If-None-Match": '"other"'}) as response:
            assert response.status == 200


async def test_every_address_of_a_page_is_relative_or_leads_elsewhere(
    page_client: PageClient,
) -> None:
    """A proxy may serve the page below any path, and no script, style or image is foreign."""
    await page_client.append(*make_history(), make_hostile_fields())
    base = "http://proxy.example/some/path/"
    for path in ("", APPLICATION, "nowhere", "?period=24h"):
        async with page_client.session.get(f"{page_client.url}/{path}") as response:
            html = await response.text()
            policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"\sstyle=|<style|\son\w+=\"|<script>", html)
        assert "javascript:" not in html
        for link in PageText(html).links:
            target = urlsplit(urljoin(base + path, link))
            assert urljoin(base + path, link).startswith(base) or (
                target.hostname in {"github.com", "app.launchdarkly.com"}
            ), link


async def test_unknown_addresses_are_not_found(page_client: PageClient) -> None:
    """An unknown application is an empty page, not an error."""
    for path in ("nowhere", "static/nothing.css", "static/..%2fpages.py"):
        async with page_client.session.get(f"{page_client.url}/{path}") as response:
            assert response.status == 404
    page = await page_client.get("application?application=none&start=x&period=x")
    assert "0 deployments in the last 15 minutes" in page.text
    for start in ("9" * 5000, "-1", "²", "900000000"):
        await page_client.get(f"{APPLICATION}&start={start}")


async def test_older_deployments_are_on_further_pages(page_client: PageClient) -> None:
    """The newest 25 come first."""
    now = _end_of(make_history()[5])
    await page_client.append(*(make_fields(number, ended_at=now - number) for number in range(40)))
    page = await page_client.wait_for(APPLICATION, "40 deployments in")
    assert list(page.deployments) == [deployment_id(number) for number in range(25)]
    (older,) = [link for link in page.links if "start=25" in link]
    page = await page_client.get(older)
    assert list(page.deployments) == [deployment_id(number) for number in range(25, 40)]


async def test_many_deployments_have_one_dot_for_each_part(page_client: PageClient) -> None:
    """The overview stays small, whatever the number of deployments."""
    now = _end_of(make_history()[5])
    await page_client.append(
        *(make_fields(number, ended_at=now - number, leadTime=number) for number in range(60))
    )
    await page_client.wait_for("", "60 successful deployments")
    for path, expected in (("", range(1, 3)), (APPLICATION, range(60, 61))):
        async with page_client.session.get(f"{page_client.url}/{path}") as response:
            assert (await response.text()).count('class="dot"') in expected


async def test_page_says_why_it_reads_nothing(redis: Redis, redis_url: str, keys: Keys) -> None:
    """An error that waiting does not cure ends the reading; the page still answers."""
    await redis.set(keys.enriched, "not a stream", px=60_000)
    async with open_page(redis, redis_url, keys) as page_client:
        await page_client.wait_for("", "Nothing is read any more: WRONGTYPE")


async def test_without_a_checkout_there_is_no_page(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed program has no examples."""
    monkeypatch.setattr(dora_page, "DORA_FOLDER", ROOT / "nowhere")
    log = structlog.get_logger()
    async with serve_dora_page(redis_url, namespace="n", period="15m", log=log) as url:
        assert url == ""


def test_example_runs_as_its_readme_says(environment: PageEnvironment) -> None:
    """With the client under the name under which it is installed."""
    (command,) = re.findall(r"^\$ (python -m dora .*)$", DORA_README.read_text(), re.MULTILINE)
    assert command == "python -m dora redis://127.0.0.1:6379"
    folder = DORA_README.parents[1]
    program = f"env -C {folder} python3 -m dora {environment.redis_url} --port 0"
    assert "http://127.0.0.1:" in environment.run_until(program, "Running on")
