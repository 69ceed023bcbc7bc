"""The pages as HTML, from templates that escape all values by default."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .deployments import Scope
from .format import (
    format_duration,
    format_flag_event,
    format_number,
    format_percent,
    format_rfc3339,
    format_utc,
    format_version,
)
from .periods import PERIODS, Period
from .views import ApplicationView, OverviewRow, Reading, count_text

STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_FOLDER = Path(__file__).parent


class Pages:
    """Renders the pages. Every link is relative, so a proxy may serve them below any path."""

    def __init__(self) -> None:
        self.static = {name: (_FOLDER / "static" / name).read_bytes() for name in STATIC}
        self._jinja = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "duration": format_duration,
            "flag_event": format_flag_event,
            "number": format_number,
            "percent": format_percent,
            "rfc3339": format_rfc3339,
            "utc": format_utc,
            "version": format_version,
        }
        self._jinja.globals |= {
            "application_url": self._application_url,
            "count_text": count_text,
            "all_periods": tuple(PERIODS.values()),
            "static_url": self._static_url,
        }

    def render_overview(self, rows: Sequence[OverviewRow], period: Period, reading: Reading) -> str:
        """Return the page of all applications."""
        urls = {key: f"./?{urlencode({'period': key})}" for key in PERIODS}
        return self._render(
            "overview.html", rows=rows, period=period, period_urls=urls, reading=reading
        )

    def render_application(
        self, view: ApplicationView, period: Period, reading: Reading, *, start: int
    ) -> str:
        """Return the page of one application in an environment."""
        return self._render(
            "application.html",
            view=view,
            period=period,
            period_urls={key: self._application_url(view.scope, key) for key in PERIODS},
            reading=reading,
            start=start,
        )

    def render_not_found(self) -> str:
        """Return the page for an unknown address."""
        return self._render("not_found.html")

    @staticmethod
    def _application_url(scope: Scope, period: str, start: int = 0) -> str:
        query = scope._asdict() | {"period": period} | ({"start": start} if start else {})
        return f"./application?{urlencode(query)}"

    def _static_url(self, name: str) -> str:
        """Return the URL of a static file with its digest, so that browsers cache it."""
        return f"./static/{name}?v={sha256(self.static[name]).hexdigest()[:16]}"

    def _render(self, template: str, **values: object) -> str:
        return self._jinja.get_template(template).render(values)
