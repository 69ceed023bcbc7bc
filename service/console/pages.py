"""The pages of the console, rendered from templates that escape all values by default."""

from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from itertools import zip_longest
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from service.backlog.failures import FailedTicket
from service.console.charts import FlowChart, bar_length, build_flow_chart, build_gauge
from service.console.format import (
    RETRY_RESULT_TEXTS,
    explain_reason,
    format_age_ms,
    format_count,
    format_duration,
    format_rfc3339,
    format_time,
)
from service.console.fragments import Fragments, Rows
from service.console.live import LiveState, Overview
from service.console.search import SearchResult
from service.console.timeline import format_raw, view_failed_events, view_from_failed

STATIC = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MAX_RAW_CHARS = 64_000
_OVERVIEW_ROOT = "./"  # fragments are shown on the overview

_NO_DATA_TEXT = "No data yet: Redis could not be read."
_NO_DEPLOYMENTS_TEXT = "No deployments yet. Post a webhook to /webhooks/<source> to see one here."
_NO_FAILURES_TEXT = "No failed tickets. Each that is given up is kept here with its reason."


class Viewer(Struct, frozen=True, kw_only=True):
    """The person who views a page.

    ``root`` is the relative URL of the overview. Who has no CSRF token is not let in: the page has
    no header and no forms. Who is ``signed_in`` can sign out.
    """

    root: str
    csrf_token: str = ""
    signed_in: bool = False


class ConsolePages:
    """Renders pages. ``share`` is the part of each LaunchDarkly limit that this service may use."""

    def __init__(self, *, namespace: str, share: float) -> None:
        folder = files(__package__).joinpath("static")
        self.static = {name: folder.joinpath(name).read_bytes() for name in STATIC}
        self._share = share
        self._jinja = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._jinja.filters |= {
            "explain_reason": explain_reason,
            "format_age": format_age_ms,
            "format_count": format_count,
            "format_duration": format_duration,
            "format_rfc3339": format_rfc3339,
            "format_time": format_time,
            "is_http_url": _is_http_url,
        }
        self._jinja.globals |= {
            "bar_length": bar_length,
            "current_page": "",
            "namespace": namespace,
            "rate_limit_share": share,
            "root": _OVERVIEW_ROOT,
            "result_text": "",
            "static_path": self.static_path,
        }

    def static_path(self, name: str) -> str:
        """Return the relative URL of a static file, with its digest, so that browsers cache it."""
        return f"console/static/{name}?v={content_digest(self.static[name])}"

    def render_fragments(self, state: LiveState, *, has_ages: bool = False) -> Fragments:
        """Return the parts of the overview that are updated live.

        Ages are left out unless ``has_ages``: the browser counts them, so that a row whose age is
        all that changes need not be sent.
        """
        overview, error = state.overview, state.redis_error
        error_html = self._render("error.html", error=error) if error else ""
        if overview is None:
            empty_list = {"empty": self._render("empty.html", text=_NO_DATA_TEXT)}
            budget_html = f"<p>{_NO_DATA_TEXT}</p>"
            lists = dict.fromkeys(("flow", "events", "failed"), empty_list)
            return {"error": error_html, "budget": budget_html, **lists}
        return {
            "error": error_html,
            "budget": self._render(
                "budget.html",
                gauge=build_gauge(overview.windows, share=self._share),
                windows=overview.windows,
                sample=overview.sample,
            ),
            "flow": self._render_flow(build_flow_chart(state.samples, overview.windows)),
            "events": self._render_events(overview, has_ages=has_ages),
            "failed": self._render_failures(
                overview.failures,
                root=_OVERVIEW_ROOT,
                now_ms=overview.sample.at_ms,
                has_ages=has_ages,
            ),
        }

    def render_overview(self, state: LiveState, viewer: Viewer) -> str:
        """Return the overview page."""
        return self._render_page(
            "overview.html",
            viewer,
            current_page="flow",
            fragments=self.render_fragments(state, has_ages=True),
            now_ms=state.overview.sample.at_ms if state.overview else 0,
        )

    def _render_flow(self, chart: FlowChart) -> Rows:
        stages = {
            stage.name: self._render("stage_row.html", stage=stage, pipe_speed=speed)
            for stage, speed in zip_longest(chart.stages, chart.pipe_speeds)
        }
        return stages | {"failed": self._render("failed_link_row.html", failed=chart.failed)}

    def _render_events(self, overview: Overview, *, has_ages: bool) -> Rows:
        rows = {
            deployment.key: self._render(
                "event_row.html",
                deployment=deployment,
                now_ms=overview.sample.at_ms,
                has_ages=has_ages,
            )
            for deployment in overview.list_deployments()
        }
        return rows or {"empty": self._render("empty.html", text=_NO_DEPLOYMENTS_TEXT)}

    def _render_failures(
        self, failures: Sequence[FailedTicket], *, root: str, now_ms: float, has_ages: bool
    ) -> Rows:
        rows = {}
        for failed in failures:
            deployment = view_from_failed(failed)
            rows[deployment.key] = self._render(
                "failure_row.html",
                root=root,
                deployment=deployment,
                digest=failed.digest,
                now_ms=now_ms,
                has_ages=has_ages,
            )
        return rows or {"empty": self._render("empty.html", text=_NO_FAILURES_TEXT)}

    def render_failed(
        self,
        failures: Sequence[FailedTicket],
        viewer: Viewer,
        *,
        now_ms: float,
        total: int,
        next_start: str,
        result: str,
    ) -> str:
        """Return one page of failed tickets; ``next_start`` is the offset of the next, or empty."""
        return self._render_page(
            "failed.html",
            viewer,
            current_page="failed",
            rows=self._render_failures(failures, root=viewer.root, now_ms=now_ms, has_ages=True),
            total=total,
            next_start=next_start,
            result_text=_result_text(result),
        )

    def render_failure(self, failed: FailedTicket, viewer: Viewer, *, result: str) -> str:
        """Return the page of one failed ticket."""
        raw, is_cut = format_raw(failed.failure, max_chars=_MAX_RAW_CHARS)
        return self._render_page(
            "failure.html",
            viewer,
            current_page="failed",
            deployment=view_from_failed(failed),
            events=view_failed_events(failed),
            digest=failed.digest,
            raw=raw,
            is_cut=is_cut,
            result_text=_result_text(result),
        )

    def render_search(
        self, result: SearchResult | None, viewer: Viewer, *, now_ms: float, retry_result: str
    ) -> str:
        """Return the search page; ``result`` is None before a search."""
        return self._render_page(
            "search.html",
            viewer,
            result=result,
            query=result.query if result else "",
            now_ms=now_ms,
            result_text=_result_text(retry_result),
        )

    def render_sign_in(self, viewer: Viewer, *, is_wrong_token: bool) -> str:
        """Return the sign-in page."""
        return self._render_page("sign_in.html", viewer, is_wrong_token=is_wrong_token)

    def render_message(self, title: str, text: str, viewer: Viewer) -> str:
        """Return a page with one message."""
        return self._render_page("message.html", viewer, title=title, text=text)

    def _render_page(self, template: str, viewer: Viewer, **values: object) -> str:
        return self._render(
            template,
            root=viewer.root,
            has_header=bool(viewer.csrf_token),
            csrf_token=viewer.csrf_token,
            signed_in=viewer.signed_in,
            **values,
        )

    def _render(self, template: str, **values: object) -> str:
        return self._jinja.get_template(template).render(values)


def content_digest(content: bytes) -> str:
    """Return a short digest of a file."""
    return sha256(content).hexdigest()[:16]


def _result_text(status: str) -> str:
    text = RETRY_RESULT_TEXTS.get(status)
    return "" if text is None else f"The ticket {text}."


def _is_http_url(url: str | None) -> bool:
    """Return whether a URL is safe as a link: a ``javascript:`` URL would run as a script."""
    try:
        return urlsplit(url or "").scheme in {"http", "https"}
    except ValueError:
        return False
