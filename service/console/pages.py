"""What do the pages say? Templates filled in; all that came from outside is escaped by default."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from service.backlog.failures import FailedTicket
from service.console.charts import Sample, bar_length, build_flow_chart, build_gauge
from service.console.format import (
    explain_reason,
    format_age,
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
_RESULT_TEXTS = {
    "queued": "It is due now.",
    "superseded": "A newer webhook of the same deployment waits already: this failure was dropped.",
    "skipped": "It was left as it is. The reason stands below.",
    "gone": "It is not among the failed any more, or has failed anew meanwhile.",
    "dropped": "It was dropped.",
}


class Viewer(Struct, frozen=True):
    """For whom a page is written: the mark of their forms, and whether they signed in."""

    csrf_token: str
    signed_in: bool


class ConsolePages:
    """Writes pages. ``share`` is the part of each LaunchDarkly limit that is ours."""

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
            "age_of": format_age,
            "count_of": format_count,
            "explained": explain_reason,
            "is_web": _is_http_url,
            "length_of": format_duration,
            "moment": format_time,
            "stamp": format_rfc3339,
        }
        self._jinja.globals |= {
            "bar": bar_length,
            "namespace": namespace,
            "share": share,
            "static": self.static_url,
            "seen": True,
            "here": "",
            "done": "",
        }

    def static_url(self, name: str) -> str:
        """Name a file by what is in it, so that browsers may keep it."""
        return f"/console/static/{name}?v={content_digest(self.static[name])}"

    def render_fragments(self, state: LiveState) -> Fragments:
        """Write the parts of the front page that live."""
        overview, error_html = state.overview, ""
        if state.redis_error:
            error_html = self._render("trouble.html", trouble=state.redis_error)
        if overview is None:
            empty_html = self._render("nothing.html")
            return dict.fromkeys(("flow", "budget", "events", "failed"), empty_html) | {
                "trouble": error_html
            }
        sample: Sample = overview.sample
        return {
            "trouble": error_html,
            "flow": self._render(
                "flow.html", picture=build_flow_chart(state.samples, overview.windows)
            ),
            "budget": self._render(
                "budget.html",
                gauge=build_gauge(overview.windows, share=self._share),
                windows=overview.windows,
                measures=sample,
            ),
            "events": self._render(
                "events.html", events=overview.list_deployments(), measures=sample
            ),
            "failed": self._render_failures(overview.failures, now_ms=sample.at_ms),
        }

    def render_overview(self, state: LiveState, viewer: Viewer) -> str:
        """Write the front page."""
        return self._render_page(
            "overview.html", viewer, here="flow", parts=self.render_fragments(state)
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
        """Write one page of what failed; ``older`` is where the next one begins."""
        return self._render_page(
            "failed.html",
            viewer,
            here="failed",
            **_failures_context(failures, now_ms),
            total=total,
            older=next_start,
            done=_RESULT_TEXTS.get(result, ""),
        )

    def render_failure(self, failed: FailedTicket, viewer: Viewer, *, result: str) -> str:
        """Write all that is known of one that failed."""
        raw, is_cut = format_raw(failed.failure, max_chars=_MAX_RAW_CHARS)
        return self._render_page(
            "failure.html",
            viewer,
            here="failed",
            one=view_from_failed(failed),
            digest=failed.digest,
            raw=raw,
            raw_goes_on=is_cut,
            done=_RESULT_TEXTS.get(result, ""),
        )

    def render_search(
        self, result: SearchResult | None, viewer: Viewer, *, now_ms: float, retry_result: str
    ) -> str:
        """Write what was found; None: nothing was sought yet."""
        return self._render_page(
            "search.html",
            viewer,
            findings=result,
            words=result.query if result else "",
            now_ms=now_ms,
            done=_RESULT_TEXTS.get(retry_result, ""),
        )

    def render_sign_in(self, *, is_wrong_token: bool) -> str:
        """Write the form that asks for the token."""
        return self._render("sign_in.html", seen=False, wrong=is_wrong_token)

    def render_message(self, title: str, text: str, viewer: Viewer | None) -> str:
        """Write a page that tells one thing."""
        if viewer is None:
            return self._render("told.html", seen=False, title=title, told=text)
        return self._render_page("told.html", viewer, title=title, told=text)

    def _render_failures(self, failures: Sequence[FailedTicket], *, now_ms: float) -> str:
        return self._render("failures.html", **_failures_context(failures, now_ms))

    def _render_page(self, template: str, viewer: Viewer, **values: object) -> str:
        return self._render(template, mark=viewer.csrf_token, signed_in=viewer.signed_in, **values)

    def _render(self, template: str, **values: object) -> str:
        return self._jinja.get_template(template).render(values)


def content_digest(content: bytes) -> str:
    """Sum up what a file holds."""
    return sha256(content).hexdigest()[:16]


def _failures_context(failures: Sequence[FailedTicket], now_ms: float) -> Mapping[str, object]:
    deployments: list[DeploymentView] = [view_from_failed(failed) for failed in failures]
    digests = {failed.job: failed.digest for failed in failures}
    return {"failures": deployments, "digests": digests, "now_ms": now_ms}


def _is_http_url(url: str | None) -> bool:
    """Tell whether an address may stand in a link: what runs as a script may not."""
    try:
        return urlsplit(url or "").scheme in {"http", "https"}
    except ValueError:
        return False
