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

from service.publish.reader import EnrichedStream
from service.publish.reading import Record

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_NEWEST = 200
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


class Notes:
    """The newest revision of the newest deployments."""

    def __init__(self) -> None:
        self._order: deque[str] = deque()
        self._records: dict[str, Record] = {}

    def add(self, record: Record) -> None:
        """Take a record in; a later revision replaces the one before."""
        name = record.id.rpartition(":")[0]
        if name not in self._records:
            self._order.appendleft(name)
        self._records[name] = record
        if len(self._order) > _NEWEST:
            del self._records[self._order.pop()]

    def list_newest(self) -> list[Record]:
        """List what is kept, the newest first."""
        return [self._records[name] for name in self._order]


def write_page(records: Iterable[Record]) -> str:
    """Write the page; all that came from outside is escaped."""
    records = list(records)
    parts = [*_write_measures(records), "<h2>Release notes</h2>", *map(_write_note, records)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What went out</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="/style.css"><h1>What went out</h1>{"".join(parts)}</html>'
    )


def _write_measures(records: list[Record]) -> list[str]:
    """Write lead time and frequency by application, of what is kept."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.application or "?"].append(record)
    lines = []
    for application, ones in sorted(groups.items()):
        times = [one.data.event.received_at for one in ones]
        days = max(1.0, (max(times) - min(times)) / _DAY_MS)
        told = [one.data.summary.lead_time_ms for one in ones]
        leads = [lead_ms for lead_ms in told if lead_ms is not None]
        lead = f"{statistics.median(leads) / _HOUR_MS:.1f} h" if leads else "not told"
        cells = (application, str(len(ones)), f"{len(ones) / days:.1f}", lead)
        lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    heads = "".join(
        f"<th>{head}</th>" for head in ("Application", "Deployments", "A day", "Lead time, median")
    )
    return [f"<table><thead><tr>{heads}</tr></thead><tbody>", *lines, "</tbody></table>"]


def _write_note(record: Record) -> str:
    summary = record.data.summary
    version = record.deployment.application_version or ""
    title = html.escape(f"{record.application} {version} in {record.environment}")
    pulls = "".join(
        f"<li>{html.escape(_name_pull(pull.number, pull.title, pull.author))}</li>"
        for pull in summary.pull_requests
    )
    flags = html.escape(", ".join(sorted({flag.key for flag in summary.flags})) or "none")
    when = html.escape(record.time)
    return (
        f"<article><h3>{title}</h3><small>{when}, revision {record.data.revision}</small>"
        f"<ul>{pulls}</ul><p>Flags touched: {flags}</p></article>"
    )


def _name_pull(number: str | None, title: str | None, author: str | None) -> str:
    return f"#{number or '?'} {title or ''} ({author or '?'})"


def make_app(url: str, *, namespace: str = "deployments") -> web.Application:
    """Make the page's server, which reads the stream while it runs."""
    notes = Notes()

    async def show(_: web.Request) -> web.Response:
        page = write_page(notes.list_newest())
        return web.Response(text=page, content_type="text/html", headers=_HEADERS)

    async def show_style(_: web.Request) -> web.Response:
        return web.Response(text=_STYLE, content_type="text/css", headers=_HEADERS)

    async def read_on(_: web.Application) -> AsyncIterator[None]:
        async with EnrichedStream(url, namespace=namespace) as stream:
            reading = asyncio.create_task(_take_in(stream, notes))
            yield
        with contextlib.suppress(asyncio.CancelledError):
            await reading

    app = web.Application()
    app.add_routes([web.get("/", show), web.get("/style.css", show_style)])
    app.cleanup_ctx.append(read_on)
    return app


async def _take_in(stream: EnrichedStream, notes: Notes) -> None:
    async for record in stream:
        notes.add(record)


if __name__ == "__main__":
    where = (*sys.argv[3:], "127.0.0.1")[0]
    web.run_app(make_app(sys.argv[1]), host=where, port=int(sys.argv[2]))
