"""What went out, how often, and how long did it take? A page made from the stream, as an example.

    python deploy/examples/release_notes.py redis://127.0.0.1:6379 8081 [127.0.0.1]

It reads everything anew at its start and keeps the newest in memory: no group, no database.
"""

import asyncio
import contextlib
import html
import statistics
import sys
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable

from aiohttp import web

from service.client.entry import Record
from service.client.stream import EnrichedStream

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_MAX_RECORDS = 200
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884 }
article { border-bottom: 1px solid #8884; padding: .5rem 0; overflow-wrap: anywhere }
h3, p, ul { margin: .25rem 0 }
small { opacity: .75 }
"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class ReleaseNotes:
    """The newest revision of the newest deployments."""

    def __init__(self) -> None:
        self._deployment_ids: deque[str] = deque()
        self._records: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Take a record in; a later revision replaces the one before."""
        deployment_id = record.id.rpartition(":")[0]
        if deployment_id not in self._records:
            self._deployment_ids.appendleft(deployment_id)
        self._records[deployment_id] = record
        if len(self._deployment_ids) > _MAX_RECORDS:
            del self._records[self._deployment_ids.pop()]

    def list_newest(self) -> list[Record]:
        """List what is kept, the newest first."""
        return [self._records[deployment_id] for deployment_id in self._deployment_ids]


def render_page(records: Iterable[Record]) -> str:
    """Write the page; all that came from outside is escaped."""
    records = list(records)
    parts = [*_render_metrics(records), "<h2>Release notes</h2>", *map(_render_note, records)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What went out</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="/style.css"><h1>What went out</h1>{"".join(parts)}</html>'
    )


def _render_metrics(records: list[Record]) -> list[str]:
    """Write lead time and frequency by application, of what is kept."""
    records_by_application: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        records_by_application[record.application or "?"].append(record)
    rows = []
    for application, application_records in sorted(records_by_application.items()):
        received_times = [
            application_record.data.event.received_at for application_record in application_records
        ]
        days = max(1.0, (max(received_times) - min(received_times)) / _DAY_MS)
        lead_times = [
            application_record.data.summary.lead_time_ms
            for application_record in application_records
        ]
        known_lead_times = [lead_ms for lead_ms in lead_times if lead_ms is not None]
        median_lead_time = (
            f"{statistics.median(known_lead_times) / _HOUR_MS:.1f} h"
            if known_lead_times
            else "not told"
        )
        cells = (
            application,
            str(len(application_records)),
            f"{len(application_records) / days:.1f}",
            median_lead_time,
        )
        rows.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    headings = "".join(
        f"<th>{head}</th>" for head in ("Application", "Deployments", "A day", "Lead time, median")
    )
    return [f"<table><thead><tr>{headings}</tr></thead><tbody>", *rows, "</tbody></table>"]


def _render_note(record: Record) -> str:
    summary = record.data.summary
    version = record.deployment.application_version or ""
    title = html.escape(f"{record.application} {version} in {record.environment}")
    pull_requests = "".join(
        f"<li>{html.escape(_format_pull_request(pull.number, pull.title, pull.author))}</li>"
        for pull in summary.pull_requests
    )
    flags = html.escape(", ".join(sorted({flag.key for flag in summary.flags})) or "none")
    published_at = html.escape(record.time)
    return (
        f"<article><h3>{title}</h3><small>{published_at}, revision {record.data.revision}</small>"
        f"<ul>{pull_requests}</ul><p>Flags touched: {flags}</p></article>"
    )


def _format_pull_request(number: str | None, title: str | None, author: str | None) -> str:
    return f"#{number or '?'} {title or ''} ({author or '?'})"


def build_app(url: str, *, namespace: str = "deployments") -> web.Application:
    """Make the page's server, which reads the stream while it runs."""
    notes = ReleaseNotes()

    async def show_page(_: web.Request) -> web.Response:
        page = render_page(notes.list_newest())
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def show_style(_: web.Request) -> web.Response:
        return web.Response(text=_STYLE, content_type="text/css", headers=_HEADERS)

    async def read_stream(_: web.Application) -> AsyncIterator[None]:
        async with EnrichedStream(url, namespace=namespace) as stream:
            reader = asyncio.create_task(_collect_records(stream, notes))
            yield
        with contextlib.suppress(asyncio.CancelledError):
            await reader

    app = web.Application()
    app.add_routes([web.get("/", show_page), web.get("/style.css", show_style)])
    app.cleanup_ctx.append(read_stream)
    return app


async def _collect_records(stream: EnrichedStream, notes: ReleaseNotes) -> None:
    async for record in stream:
        notes.add(record)


if __name__ == "__main__":
    host = (*sys.argv[3:], "127.0.0.1")[0]
    web.run_app(build_app(sys.argv[1]), host=host, port=int(sys.argv[2]))
