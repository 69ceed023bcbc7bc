"""The pages of the console, rendered from templates that escape all values by default."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from service.backlog.failures import FailedTicket
from service.console.charts import Sample, bar_length, build_flow_chart, build_gauge
from service.console.format import (
    RETRY_RESULT_TEXTS,
    explain_reason,
    format_age_ms,
    format_count,
    format_duration,
    format_rfc3339,
    format_time,
)
from service.console.live import Fragments, LiveState
from service.console.search import SearchResult
from service.console.timeline import DeploymentView, format_raw, view_from_failed

STATIC = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MAX_RAW_CHARS = 64_000


class Viewer(Struct, frozen=True):
    """The person who views a page: the CSRF token of the forms, and whether there is a sign-out."""

    csrf_token: str
    signed_in: bool


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
            "has_header": True,
            "namespace": namespace,
            "rate_limit_share": share,
            "result_text": "",
            "static_url": self.static_url,
        }

    def static_url(self, name: str) -> str:
        """Return the URL of a static file, with its digest, so that browsers may cache it."""
        return f"/console/static/{name}?v={content_digest(self.static[name])}"

    def render_fragments(self, state: LiveState) -> Fragments:
        """Return the parts of the overview that are updated live."""
        overview, error_html = state.overview, ""
        if state.redis_error:
            error_html = self._render("error.html", error=state.redis_error)
        if overview is None:
            empty_html = self._render("empty.html")
            return dict.fromkeys(("flow", "budget", "events", "failed"), empty_html) | {
                "error": error_html
            }
        sample: Sample = overview.sample
        return {
            "error": error_html,
            "flow": self._render(
                "flow.html", chart=build_flow_chart(state.samples, overview.windows)
            ),
            "budget": self._render(
                "budget.html",
                gauge=build_gauge(overview.windows, share=self._share),
                windows=overview.windows,
                sample=sample,
            ),
            "events": self._render(
                "events.html", deployments=overview.list_deployments(), now_ms=sample.at_ms
            ),
            "failed": self._render(
                "failures.html", **_failures_context(overview.failures, now_ms=sample.at_ms)
            ),
        }

    def render_overview(self, state: LiveState, viewer: Viewer) -> str:
        """Return the overview page."""
        return self._render_page(
            "overview.html", viewer, current_page="flow", fragments=self.render_fragments(state)
        )

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
            **_failures_context(failures, now_ms=now_ms),
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

    def render_sign_in(self, *, is_wrong_token: bool) -> str:
        """Return the sign-in page."""
        return self._render("sign_in.html", has_header=False, is_wrong_token=is_wrong_token)

    def render_message(self, title: str, text: str, viewer: Viewer | None) -> str:
        """Return a page with one message; without a viewer it has no header."""
        if viewer is None:
            return self._render("message.html", has_header=False, title=title, text=text)
        return self._render_page("message.html", viewer, title=title, text=text)

    def _render_page(self, template: str, viewer: Viewer, **values: object) -> str:
        return self._render(
            template, csrf_token=viewer.csrf_token, signed_in=viewer.signed_in, **values
        )

    def _render(self, template: str, **values: object) -> str:
        return self._jinja.get_template(template).render(values)


def content_digest(content: bytes) -> str:
    """Return a short digest of a file."""
    return sha256(content).hexdigest()[:16]


def _result_text(status: str) -> str:
    text = RETRY_RESULT_TEXTS.get(status)
    return "" if text is None else f"The ticket {text}."


def _failures_context(failures: Sequence[FailedTicket], *, now_ms: float) -> Mapping[str, object]:
    deployments: list[DeploymentView] = [view_from_failed(failed) for failed in failures]
    digests = {failed.job: failed.digest for failed in failures}
    return {"deployments": deployments, "digests": digests, "now_ms": now_ms}


def _is_http_url(url: str | None) -> bool:
    """Return whether a URL is safe as a link: a ``javascript:`` URL would run as a script."""
    try:
        return urlsplit(url or "").scheme in {"http", "https"}
    except ValueError:
        return False
