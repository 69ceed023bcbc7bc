"""Chromium without a window, and a page of the console in it."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
DESKTOP_VIEWPORT = {"width": 1280, "height": 900}
PHONE_VIEWPORT = {"width": 375, "height": 780}
PUBLIC_HOST = "console.example"  # a name of this machine that browsers do not trust without TLS

_ARGUMENTS = (
    *("--headless", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    f"--host-resolver-rules=MAP {PUBLIC_HOST} 127.0.0.1",
)
_START_TIMEOUT_S = 60.0

needs_chromium = pytest.mark.skipif(
    not CHROMIUM and "GATE" not in os.environ, reason="there is no Chromium"
)
expect.set_options(timeout=20_000)


@contextmanager
def start_chromium(profile: Path) -> Iterator[str]:
    """Start Chromium, in which PUBLIC_HOST is this machine; yield the address of its DevTools."""
    sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()  # it refuses root otherwise
    command = (CHROMIUM, *_ARGUMENTS, *sandbox, f"--user-data-dir={profile}", "about:blank")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield _wait_for_address(process, profile)
        finally:
            process.terminate()
            process.wait()


@asynccontextmanager
async def connect_browser(address: str) -> AsyncIterator[Browser]:
    """Connect to a running Chromium; pages opened here share no cookies with others."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(address)
        yield browser
        await browser.close()


class BrowserPage:
    """A page of the console, and the errors that the browser reported."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )
        page.on("dialog", lambda dialog: self.errors.append(dialog.message))


def _wait_for_address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Return the address that Chromium writes into its profile; raises after 60 s."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "Chromium has ended"
        with contextlib.suppress(FileNotFoundError, ValueError):
            port, path = (profile / "DevToolsActivePort").read_text().split()
            return f"ws://127.0.0.1:{port}{path}"
        time.sleep(0.05)
    raise AssertionError("Chromium does not answer")
