"""What do the pages say? Templates filled in; all that came from outside is escaped by default."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from service.backlog.failure import Failed
from service.operate.console import words
from service.operate.console.figures import Measures
from service.operate.console.picture import draw_flow, draw_gauge, measure_bar
from service.operate.console.seeking import Findings
from service.operate.console.sightings import Sighting, show_raw, sight_failed
from service.operate.console.watching import Frame, View

STATIC = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_RAW_SHOWN = 64_000
_FATES = {
    "queued": "It is due now.",
    "waits": "A newer webhook of the same deployment waits already: this failure was dropped.",
    "left": "It was left as it is. The reason stands below.",
    "gone": "It is not among the failed any more, or has failed anew meanwhile.",
    "dropped": "It was dropped.",
}


class Reader(Struct, frozen=True):
    """For whom a page is written: the mark of their forms, and whether they signed in."""

    mark: str
    signed_in: bool


class Pages:
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
            "age_of": words.write_age,
            "count_of": words.write_count,
            "explained": words.explain_reason,
            "is_web": _is_web,
            "length_of": words.write_length,
            "moment": words.write_moment,
            "stamp": words.write_stamp,
        }
        self._jinja.globals |= {
            "bar": measure_bar,
            "namespace": namespace,
            "share": share,
            "static": self.name_static,
            "seen": True,
            "here": "",
            "done": "",
        }

    def name_static(self, name: str) -> str:
        """Name a file by what is in it, so that browsers may keep it."""
        return f"/console/static/{name}?v={digest_of(self.static[name])}"

    def draw_parts(self, view: View) -> Frame:
        """Write the parts of the front page that live."""
        glimpse, trouble = view.glimpse, ""
        if view.trouble:
            trouble = self._write("trouble.html", trouble=view.trouble)
        if glimpse is None:
            waiting = self._write("nothing.html")
            return dict.fromkeys(("flow", "budget", "events", "failed"), waiting) | {
                "trouble": trouble
            }
        measures: Measures = glimpse.measures
        return {
            "trouble": trouble,
            "flow": self._write("flow.html", picture=draw_flow(view.history, glimpse.windows)),
            "budget": self._write(
                "budget.html",
                gauge=draw_gauge(glimpse.windows, share=self._share),
                windows=glimpse.windows,
                measures=measures,
            ),
            "events": self._write("events.html", events=glimpse.list_newest(), measures=measures),
            "failed": self._write_failures(glimpse.failures, now_ms=measures.at_ms),
        }

    def write_overview(self, view: View, reader: Reader) -> str:
        """Write the front page."""
        return self._write_page("overview.html", reader, here="flow", parts=self.draw_parts(view))

    def write_failed(
        self,
        failures: Sequence[Failed],
        reader: Reader,
        *,
        now_ms: float,
        total: int,
        older: str,
        fate: str,
    ) -> str:
        """Write one page of what failed; ``older`` is where the next one begins."""
        return self._write_page(
            "failed.html",
            reader,
            here="failed",
            **_list_failures(failures, now_ms),
            total=total,
            older=older,
            done=_FATES.get(fate, ""),
        )

    def write_failure(self, failed: Failed, reader: Reader, *, fate: str) -> str:
        """Write all that is known of one that failed."""
        raw, goes_on = show_raw(failed.failure, most=_RAW_SHOWN)
        return self._write_page(
            "failure.html",
            reader,
            here="failed",
            one=sight_failed(failed),
            digest=failed.digest,
            raw=raw,
            raw_goes_on=goes_on,
            done=_FATES.get(fate, ""),
        )

    def write_search(
        self, findings: Findings | None, reader: Reader, *, now_ms: float, fate: str
    ) -> str:
        """Write what was found; None: nothing was sought yet."""
        return self._write_page(
            "search.html",
            reader,
            findings=findings,
            words=findings.words if findings else "",
            now_ms=now_ms,
            done=_FATES.get(fate, ""),
        )

    def write_sign_in(self, *, wrong: bool) -> str:
        """Write the form that asks for the token."""
        return self._write("sign_in.html", seen=False, wrong=wrong)

    def write_told(self, title: str, told: str, reader: Reader | None) -> str:
        """Write a page that tells one thing."""
        if reader is None:
            return self._write("told.html", seen=False, title=title, told=told)
        return self._write_page("told.html", reader, title=title, told=told)

    def _write_failures(self, failures: Sequence[Failed], *, now_ms: float) -> str:
        return self._write("failures.html", **_list_failures(failures, now_ms))

    def _write_page(self, name: str, reader: Reader, **values: object) -> str:
        return self._write(name, mark=reader.mark, signed_in=reader.signed_in, **values)

    def _write(self, name: str, **values: object) -> str:
        return self._jinja.get_template(name).render(values)


def digest_of(content: bytes) -> str:
    """Sum up what a file holds."""
    return sha256(content).hexdigest()[:16]


def _list_failures(failures: Sequence[Failed], now_ms: float) -> Mapping[str, object]:
    sightings: list[Sighting] = [sight_failed(each) for each in failures]
    digests = {each.job: each.digest for each in failures}
    return {"failures": sightings, "digests": digests, "now_ms": now_ms}


def _is_web(address: str | None) -> bool:
    """Tell whether an address may stand in a link: what runs as a script may not."""
    try:
        return urlsplit(address or "").scheme in {"http", "https"}
    except ValueError:
        return False
