"""Tests of every page of the console with axe-core: light and dark, desktop and phone."""

from typing import NoReturn

import pytest
from playwright.async_api import expect

from service.backlog.failures import FailureRecord, encode_failure
from service.console.live import OverviewReader
from service.settings import Secret
from service.store import RedisUnavailable
from tests.end_to_end.axe import PageChecker, needs_axe
from tests.end_to_end.browser import needs_chromium
from tests.end_to_end.console_harness import (
    TOKEN,
    add_failed_ticket,
    disconnect_redis,
    open_console,
)
from tests.end_to_end.harness import ServiceHarness
from tests.examples.dora_records import make_history, make_hostile_fields
from tests.factories import deployment_id

LONG_TEXT = "an-unusually-long-value-" * 9
PARKED_JOB = "unmappable:github/9f31c2"

pytestmark = [needs_chromium, needs_axe, pytest.mark.timeout(180)]


async def add_parked_event(service: ServiceHarness) -> None:
    """Store a parked event."""
    failure = FailureRecord(reason="unmappable", detail=LONG_TEXT, raw=b'{"ref": "main"}')
    seconds, _ = await service.redis.time()
    await service.redis.hset(service.keys.failed_data, PARKED_JOB, encode_failure(failure))
    await service.redis.zadd(service.keys.failed, {PARKED_JOB: seconds * 1000})


async def test_pages_follow_the_rules_and_fit_a_phone(
    service: ServiceHarness, checker: PageChecker
) -> None:
    """No page breaks a rule of axe or scrolls sideways, with data, long values, and without."""
    page = checker.page
    await service.open()
    async with open_console(service) as url:
        for path in ("/", "/console/failed", "/console/search", "/console/search?q=nothing"):
            await page.goto(url + path)
            await checker.check(f"{path} without data")
        await service.post({"deploymentId": deployment_id(), "eventType": "finished"})
        await add_parked_event(service)
        job = await add_failed_ticket(service, version=LONG_TEXT, raw=b"x" * 900, detail=LONG_TEXT)
        await page.goto(url)
        await expect(page.locator(".events .status.published")).to_have_count(1)
        await page.get_by_text("Drop", exact=True).first.click()
        await checker.check("/")
        for fields in (*make_history(), make_hostile_fields()):
            await service.redis.xadd(service.keys.enriched, fields)
        for path in (
            "/console/failed?result=gone",
            f"/console/failed/show?job={job}",
            f"/console/failed/show?job={PARKED_JOB}",
            "/console/failed/show?job=unknown",
            f"/console/search?q={LONG_TEXT}",
            f"/console/search?q={deployment_id()}&result=queued",
            "/console/search?q=shop",
        ):
            await page.goto(url + path)
            await checker.check(path)


async def fail_to_read(_: OverviewReader) -> NoReturn:
    """Fail as the overview does without Redis."""
    raise RedisUnavailable(LONG_TEXT)


async def test_pages_of_those_who_are_not_let_in_follow_the_rules(
    service: ServiceHarness, checker: PageChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign-in form, a wrong token, a refused form, and pages while Redis is away."""
    page = checker.page
    await service.open(workers=0)
    async with open_console(service, console_token=Secret(TOKEN)) as url:
        await page.goto(url)
        await checker.check("sign-in")
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_be_visible()
        await checker.check("wrong token")
        await page.get_by_label("Token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-state")).to_have_text("live")
        monkeypatch.setattr(OverviewReader, "_run_overview_script", fail_to_read)
        await disconnect_redis(service)
        await expect(page.locator(".error")).to_be_visible()
        await checker.check("overview while Redis is away")
        await page.goto(f"{url}/console/failed")
        await checker.check("page while Redis is away")
        await page.locator("input[name=csrf_token]").first.evaluate("field => field.value = ''")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_text("Nothing changed")).to_be_visible()
        await checker.check("refused form")
