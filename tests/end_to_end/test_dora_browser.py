"""Tests of the page of deploy/examples/dora in Chromium: axe, live, times, keyboard, scripts."""

from collections.abc import AsyncIterator

import pytest
import structlog
from playwright.async_api import Browser, expect
from redis.asyncio import Redis

from service.cli.dora_page import serve_dora_page
from service.store.keys import Keys
from tests.end_to_end.axe import PageChecker, needs_axe
from tests.end_to_end.browser import DESKTOP_VIEWPORT, BrowserPage, needs_chromium
from tests.examples.dora_records import deployment_id, make_history, make_hostile_fields

pytestmark = [needs_chromium, pytest.mark.timeout(180)]

APPLICATION = "application?project=default&environment=production&application=shop&period=15m"


@pytest.fixture
async def dora_url(redis_url: str, keys: Keys) -> AsyncIterator[str]:
    """Serve the page of an empty namespace."""
    log = structlog.get_logger()
    async with serve_dora_page(redis_url, namespace=keys.namespace, period="15m", log=log) as url:
        yield url


@pytest.fixture
async def dora_page(dora_url: str, browser: Browser) -> AsyncIterator[BrowserPage]:
    """Return a page in another zone than UTC; fails if the browser reports an error."""
    context = await browser.new_context(
        viewport=DESKTOP_VIEWPORT,  # type: ignore[arg-type] # a TypedDict
        timezone_id="America/New_York",
        locale="en-GB",
    )
    browser_page = BrowserPage(await context.new_page(), dora_url)
    yield browser_page
    assert browser_page.errors == []
    await context.close()


async def append(redis: Redis, keys: Keys, *entries: dict[str, bytes]) -> None:
    """Append entries to the stream of the namespace."""
    for fields in entries:
        await redis.xadd(keys.enriched, fields)  # type: ignore[arg-type] # stub


@needs_axe
async def test_pages_follow_the_rules_of_axe_and_fit_a_phone(
    dora_url: str, redis: Redis, keys: Keys, checker: PageChecker
) -> None:
    """Without data, with data, and with markup and long words instead of data."""
    page = checker.page
    await page.goto(dora_url)
    await expect(page.get_by_text("No deployments yet")).to_be_visible()
    await checker.check("overview without data")
    await append(redis, keys, *make_history(), make_hostile_fields())
    await expect(page.get_by_text("6 successful deployments")).to_be_visible()
    await checker.check("overview")
    for path in (APPLICATION, "application?period=24h", "nowhere"):
        await page.goto(f"{dora_url}/{path}")
        if path == APPLICATION:
            await page.get_by_text("The charts as a table").click()
        await checker.check(path)


async def test_page_updates_by_itself_and_keeps_what_is_open(
    dora_page: BrowserPage, redis: Redis, keys: Keys
) -> None:
    """A new deployment appears above the others; focus and the open table stay."""
    page = dora_page.page
    *older, newest = make_history()
    await append(redis, keys, *older)
    await page.goto(f"{dora_page.url}/{APPLICATION}")
    await expect(page.locator(".deployment")).to_have_count(5)
    await expect(page.locator("#live-state")).to_have_text("live")
    await page.evaluate("window.isSamePage = true")
    summary = page.get_by_text("The charts as a table")
    await summary.focus()
    await page.keyboard.press("Enter")
    await append(redis, keys, newest)
    await expect(page.locator(".deployment")).to_have_count(6)
    await expect(page.locator(".deployment").first).to_have_id(f"d-{deployment_id(6)}")
    await expect(page.locator("table")).to_be_visible()
    await expect(summary).to_be_focused()
    assert await page.evaluate("window.isSamePage") is True


async def test_times_are_local_with_utc_in_their_title(
    dora_page: BrowserPage, redis: Redis, keys: Keys
) -> None:
    """The zone of the browser counts, not that of the server; daylight saving time too."""
    page = dora_page.page
    await append(redis, keys, *make_history())
    await page.goto(f"{dora_page.url}/{APPLICATION}")
    await expect(page.locator("#live-state")).to_have_text("live")
    shown = page.locator(".deployment time").first
    expected = await shown.evaluate(
        """time => new Date(time.dateTime).toLocaleString("en-GB", {
          timeZone: "America/New_York", month: "short", day: "numeric",
          hour: "2-digit", minute: "2-digit", second: "2-digit"})"""
    )
    await expect(shown).to_have_text(expected)
    assert (await shown.get_attribute("title") or "").endswith(" UTC")


async def test_keyboard_leads_from_the_overview_to_a_deployment(
    dora_page: BrowserPage, redis: Redis, keys: Keys
) -> None:
    """The name of an application is a link, and so is the deployment that was replaced."""
    page = dora_page.page
    await append(redis, keys, *make_history())
    await page.goto(dora_page.url)
    await page.get_by_role("link", name="shop production").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="shop production")).to_be_visible()
    await page.locator(f"#d-{deployment_id(6)} .change a").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(f"#d-{deployment_id(5)}:target")).to_be_visible()
    await page.get_by_role("link", name="All applications").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".row")).to_have_count(1)


async def test_scripts_in_records_do_not_run(
    dora_page: BrowserPage, redis: Redis, keys: Keys
) -> None:
    """Texts stay texts, a hostile URL is no link, and the browser reports no violation."""
    page = dora_page.page
    await append(redis, keys, make_hostile_fields())
    for path in ("", APPLICATION):
        await page.goto(f"{dora_page.url}/{path}")
        await expect(page.locator("#live-state")).to_have_text("live")
        assert await page.locator("main img, main script, a[href^=javascript]").count() == 0
    await expect(page.locator(".pull-requests")).to_contain_text("<img src=x onerror=alert(1)>")
