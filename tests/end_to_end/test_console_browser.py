"""Tests of the console in Chromium: live, by keyboard, on a phone, in the dark, hostile data."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser, CDPSession, expect

from service.settings import Secret
from tests.end_to_end.browser import DESKTOP_VIEWPORT, BrowserPage, needs_chromium
from tests.end_to_end.console_harness import TOKEN, add_failed_ticket, open_console
from tests.end_to_end.harness import ServiceHarness
from tests.factories import deployment_id

pytestmark = [needs_chromium, pytest.mark.timeout(120)]


@pytest.fixture
async def browser_page(service: ServiceHarness, browser: Browser) -> AsyncIterator[BrowserPage]:
    """Return a page of a console without a token; fails if the browser reports an error."""
    async with AsyncExitStack() as stack:
        await service.open()
        url = await stack.enter_async_context(open_console(service))
        page = await browser.new_page(viewport=DESKTOP_VIEWPORT)  # type: ignore[arg-type] # a TypedDict
        browser_page = BrowserPage(page, url)
        yield browser_page
        assert browser_page.errors == []
        await page.close()
        await service.redis.delete(
            service.keys.backlog, service.keys.tickets
        )  # a retried ticket waits


async def test_overview_updates_without_a_reload(
    browser_page: BrowserPage, service: ServiceHarness
) -> None:
    """Numbers, deployments and failed tickets appear by themselves."""
    await browser_page.page.goto(browser_page.url)
    await expect(browser_page.page.locator("#live-state")).to_have_text("live")
    await browser_page.page.evaluate("window.isSamePage = true")
    stream_note = browser_page.page.locator(".flow [data-key=stream] .stage-note")
    await expect(stream_note).to_contain_text("0 kept")
    await service.post({"deploymentId": deployment_id(), "eventType": "finished"})
    await expect(stream_note).to_contain_text("1 kept")
    await expect(browser_page.page.locator(".events .status.published")).to_have_count(1)
    await expect(browser_page.page.locator(".gauge, [data-fragment=budget] .empty")).to_have_count(
        1
    )
    await add_failed_ticket(service, version="7.7.7")
    await expect(browser_page.page.locator("[data-fragment=failed]")).to_contain_text("7.7.7")
    assert await browser_page.page.evaluate("window.isSamePage") is True


async def test_failed_ticket_is_shown_dropped_and_retried_by_keyboard(
    browser_page: BrowserPage, service: ServiceHarness
) -> None:
    """Enter opens the ticket with its raw response; Drop asks first, and Escape cancels it."""
    page = browser_page.page
    await add_failed_ticket(
        service, version="1.0.0", raw=b'{"code": "not_found", "message": "nowhere"}'
    )
    await page.goto(f"{browser_page.url}/console/failed")
    await page.locator(".failures .failure-link").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("pre.raw")).to_contain_text("nowhere")
    await page.get_by_text("Drop", exact=True).focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Drop it")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Drop it")).to_be_hidden()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("The ticket was dropped.")
    assert await service.failed_jobs() == []

    await add_failed_ticket(service, version="2.0.0")
    await page.goto(browser_page.url)
    await page.get_by_role("button", name="Retry").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("The ticket is due now.")).to_be_visible()
    assert service.log_events("failed_retried")


async def test_focus_and_open_details_survive_live_updates(
    browser_page: BrowserPage, service: ServiceHarness
) -> None:
    """A button keeps its focus when tickets above it appear or disappear."""
    page = browser_page.page
    await add_failed_ticket(service, version="1.0.0")
    await page.goto(browser_page.url)
    await page.get_by_text("Drop", exact=True).click()
    await page.get_by_role("button", name="Drop it").focus()
    newer = await add_failed_ticket(service, version="2.0.0", offset_ms=1)
    await expect(page.locator(".failures li")).to_have_count(2)
    await service.redis.zrem(service.keys.failed, newer)
    await expect(page.locator(".failures li")).to_have_count(1)
    focused = page.locator(":focus")
    await expect(focused).to_have_text("Drop it")
    assert "1.0.0" in (await focused.get_attribute("value") or "")


async def test_overview_at_rest_is_not_drawn_again(
    browser_page: BrowserPage, service: ServiceHarness
) -> None:
    """While nothing happens, nothing moves, and the page takes less than 3 % of a core."""
    page = browser_page.page
    await add_failed_ticket(service, offset_ms=-7_200_000)
    await page.goto(browser_page.url)
    await expect(page.locator("#live-state")).to_have_text("live")
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable")
    async with asyncio.timeout(60):
        while True:
            before = await read_browser_metrics(devtools)
            await asyncio.sleep(3)
            after = await read_browser_metrics(devtools)
            spent = {name: after[name] - before[name] for name in after}
            if spent["ProcessTime"] < 0.03 * spent["Timestamp"]:
                break  # the page has only just been loaded before
    assert await page.evaluate("document.getAnimations().length") == 0


async def read_browser_metrics(devtools: CDPSession) -> dict[str, float]:
    """Return what the process of the page has done; times in seconds, ProcessTime on a core."""
    metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}


async def test_search_works_by_keyboard(browser_page: BrowserPage, service: ServiceHarness) -> None:
    """A slash moves to the field; the result has the revision of the record."""
    name = deployment_id()
    await service.post({"deploymentId": name, "eventType": "finished"})
    await browser_page.page.goto(browser_page.url)
    await expect(browser_page.page.locator(".events .status.published")).to_have_count(1)
    await browser_page.page.keyboard.press("/")
    await browser_page.page.keyboard.type(name)
    await browser_page.page.keyboard.press("Enter")
    await expect(browser_page.page.locator(".search-result .summary")).to_contain_text(
        "Published at revision 1"
    )


async def test_scripts_in_values_do_not_run(
    browser_page: BrowserPage, service: ServiceHarness
) -> None:
    """Versions, reasons, responses and titles stay text, and the browser reports no violation."""
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>'
    await add_failed_ticket(service, version="<b>bold</b>", raw=evil.encode(), detail=evil)
    fields = {
        "subject": evil,
        "applicationkey": evil,
        "environmentkey": evil,
        "source": f"/deployment-enricher/{evil}",
        "revision": "1",
        "data": EVIL_RECORD,
    }
    await service.redis.xadd(service.keys.enriched, fields)  # type: ignore[arg-type] # stub
    for path in ("/", "/console/failed", "/console/search?q=evil", "/console/search?q=bold"):
        await browser_page.page.goto(browser_page.url + path)
        assert await browser_page.page.locator("main img, main script, main b").count() == 0
    await browser_page.page.goto(f"{browser_page.url}/console/search?q=evil-version")
    await expect(browser_page.page.locator(".pull-requests")).to_contain_text(
        "<img src=x onerror=alert(1)>"
    )
    assert (
        await browser_page.page.locator(".pull-requests a").count() == 0
    )  # a javascript: URL is not a link
    await browser_page.page.goto(browser_page.url)
    await expect(browser_page.page.locator("#live-state")).to_have_text("live")
    await add_failed_ticket(service, version="<i>later</i>")
    await expect(browser_page.page.locator("[data-fragment=failed]")).to_contain_text(
        "<i>later</i>"
    )


EVIL_RECORD = """{"schemaVersion":1,"revision":1,"enrichedAt":1,"attempts":1,
"deployment":{"id":"x","applicationVersion":"evil-version"},
"summary":{"authors":[],"flags":[],"leadTimeMs":null,"stages":[],"slowestStage":null,
"pullRequests":[{"number":"1","title":"<img src=x onerror=alert(1)>",
"author":"</small><script>alert(4)</script>","url":"javascript:alert(5)"}]},
"completeness":{"complete":true,"pullRequests":{"expected":1,"present":1},
"flagReferences":{"expected":0,"present":0},"nested":{"expected":0,"present":0}},
"event":{"source":"native","delivery":"d","receivedAt":1,"outcome":"succeeded",
"eventTime":null,"metadata":null}}"""


async def test_sign_in_and_sign_out(service: ServiceHarness, browser: Browser) -> None:
    """The form takes the token, the page is live, and signing out shows the form again."""
    await service.open(workers=0)
    async with open_console(service, console_token=Secret(TOKEN)) as url:
        page = await browser.new_page()
        await page.goto(url)
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-state")).to_have_text("live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.close()


async def test_page_after_the_session_ended_shows_the_sign_in_form(
    service: ServiceHarness, browser: Browser
) -> None:
    """The page does not keep showing stale numbers."""
    await service.open(workers=0)
    async with open_console(service, console_token=Secret(TOKEN)) as url:
        page = await browser.new_page()
        await page.goto(url)
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-state")).to_have_text("live")
        await page.context.clear_cookies()
        await page.evaluate("dispatchEvent(new Event('pagehide'))")
        await page.evaluate("dispatchEvent(new Event('pageshow'))")
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.close()
