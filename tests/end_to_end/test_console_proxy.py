"""Tests of the console in Chromium behind nginx: a path prefix, and nginx's own Host."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from service.settings import Secret
from tests.end_to_end.browser import PUBLIC_HOST, BrowserPage, needs_chromium
from tests.end_to_end.console_harness import TOKEN, add_failed_ticket, open_console
from tests.end_to_end.harness import ServiceHarness
from tests.interop.proxies import find_nginx

NGINX = find_nginx() or ""
CONFIG = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr; {user} events {{}}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    location /default/host/ {{ proxy_pass {receiver_url}/; }}
    location /passed/host/ {{ proxy_pass {receiver_url}/; proxy_set_header Host $http_host; }}
  }}
}}
"""

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(not NGINX and "GATE" not in os.environ, reason="there is no nginx"),
    pytest.mark.timeout(120),
]


@asynccontextmanager
async def open_nginx(folder: Path, receiver_url: str) -> AsyncIterator[int]:
    """Run nginx with the receiver at two path prefixes; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    user = "user root;" if os.getuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(user=user, port=port, receiver_url=receiver_url))
    options = ("-p", str(folder), "-c", str(config), "-e", "stderr")
    process = await asyncio.create_subprocess_exec(NGINX, *options)
    try:
        await wait_for_port(process, port)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def wait_for_port(process: asyncio.subprocess.Process, port: int) -> None:
    """Return when the port takes connections; raises if the process ended, or after 20 s."""
    async with asyncio.timeout(20):
        while True:
            assert process.returncode is None, "nginx has ended"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


@pytest.fixture
async def proxied_page(
    service: ServiceHarness, browser: Browser, tmp_path: Path
) -> AsyncIterator[BrowserPage]:
    """Return a page, and the address of nginx in front of a console with a token."""
    await service.open(workers=0)
    async with (
        open_console(service, console_token=Secret(TOKEN)) as url,
        open_nginx(tmp_path, url) as port,
    ):
        page = await browser.new_page()
        yield BrowserPage(page, f"http://127.0.0.1:{port}")
        await page.close()
    if service.runtime:
        await service.redis.delete(service.keys.backlog, service.keys.tickets, service.keys.counts)


async def sign_in(page: Page) -> None:
    """Send the form on the page with the right token."""
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize("prefix", ["/default/host/", "/passed/host/"])
async def test_console_works_below_a_path_prefix(
    proxied_page: BrowserPage, service: ServiceHarness, prefix: str
) -> None:
    """Sign-in, live numbers, every link and every form, whether nginx passes Host on or not."""
    page, root = proxied_page.page, proxied_page.url + prefix
    await add_failed_ticket(service, version="1.0.0")
    await add_failed_ticket(service, version="2.0.0", offset_ms=1)
    await page.goto(f"{root}console/failed")
    await sign_in(page)
    await expect(page).to_have_url(root)
    await expect(page.locator("#live-state")).to_have_text("live")
    await expect(page.locator("body")).to_have_css("margin", "0px")  # of the style sheet
    await add_failed_ticket(service, version="3.0.0", offset_ms=2)
    await expect(page.locator(".failures")).to_contain_text("3.0.0")
    await page.locator(".failed-link").click()
    await page.get_by_text("2.0.0").click()
    await expect(page.locator("pre.raw")).to_contain_text("not_found")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("The ticket is due now.")).to_be_visible()
    await page.get_by_role("link", name="deployment-enricher").click()
    await expect(page.locator(".events .status.waiting")).to_have_count(1)
    await page.get_by_label("Search deployments").fill("1.0.0")
    await page.keyboard.press("Enter")
    await page.get_by_role("link", name="Raw response").click()
    await page.get_by_role("link", name="Failed").first.click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(root)
    await expect(page.get_by_label("Token")).to_be_visible()
    refused = "the server responded with a status of 401"
    assert [error for error in proxied_page.errors if refused not in error] == []


async def test_sign_in_over_http_needs_the_host_of_the_browser(proxied_page: BrowserPage) -> None:
    """A browser says nothing of the site to a public host without TLS; the page says what to do."""
    page = proxied_page.page
    public_url = proxied_page.url.replace("127.0.0.1", PUBLIC_HOST)
    await page.goto(f"{public_url}/default/host/")
    await sign_in(page)
    await expect(page.get_by_text("proxy_set_header Host $http_host")).to_be_visible()
    await page.goto(f"{public_url}/passed/host/")
    await sign_in(page)
    await expect(page.locator("#live-state")).to_have_text("live")
