"""Checks of a shown page with axe-core: light and dark, desktop and phone."""

import os

import pytest
from playwright.async_api import Page

from tests.doc_blocks import ROOT
from tests.end_to_end.browser import DESKTOP_VIEWPORT, PHONE_VIEWPORT

AXE = ROOT / "tests" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
SMALLEST_VIEWPORT = {"width": 320, "height": 640}  # to which every page must fit (WCAG 1.4.10)
BACKGROUNDS = {"light": "rgb(238, 241, 242)", "dark": "rgb(12, 17, 19)"}

needs_axe = pytest.mark.skipif(
    not AXE.exists() and "GATE" not in os.environ, reason="needs `npm ci` in tests/npm"
)

# Colours are all that depends on the scheme, so the other rules run in the light one only.
RUN_AXE = """async (scheme) => {
  const colours = { runOnly: ["color-contrast", "link-in-text-block"] };
  const rules = scheme === "light" ? {} : colours;
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...rules });
  return violations.flatMap(({ id, impact, nodes }) =>
    nodes.map((node) => `${id} (${impact}): ${node.html}`));
}"""


class PageChecker:
    """Checks the page that is shown, and remembers which faults were found where."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[tuple[str, str, object]] = []

    async def check(self, state: str) -> None:
        """Check the shown page in both schemes and widths."""
        for scheme in ("dark", "light"):
            await self.page.emulate_media(color_scheme=scheme)
            background = await self.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == BACKGROUNDS[scheme]
            for viewport in (DESKTOP_VIEWPORT, PHONE_VIEWPORT):
                await self.page.set_viewport_size(viewport)  # type: ignore[arg-type] # a TypedDict
                found = await self.page.evaluate(RUN_AXE, scheme)
                self.faults += [(state, f"{scheme} {viewport['width']}", fault) for fault in found]
        await self.page.set_viewport_size(SMALLEST_VIEWPORT)  # type: ignore[arg-type] # a TypedDict
        if await self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        ):
            self.faults.append((state, "320", "scrolls sideways"))
