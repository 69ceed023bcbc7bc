"""What does the demo show? A pipeline that deploys, records as they come, and a running count."""

import asyncio
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import TextIO

from msgspec import Struct

from service.operate.health import HealthStats
from service.operate.pipeline import EventBody, Pipeline, SendRate
from service.operate.send import SendResult
from service.operate.table import render_record_header, render_record_row
from service.operate.tail import StreamEntryText
from service.store import RedisUnavailable

_STATUS_INTERVAL_S = 0.25
_READS_PER_STATUS_LINE = 12  # where no terminal can show the count in place


class CallCounts(Struct, frozen=True):
    """What the upstream counted: calls, and those it answered with 429."""

    calls: int
    rate_limited: int


class DemoInputs(Struct, frozen=True, kw_only=True):
    """What the demo plays on: verbs that are handed in, and where it writes."""

    report: Callable[[EventBody], Awaitable[None]]
    post: Callable[[EventBody, str], Awaitable[SendResult]]
    read_stats: Callable[[], Awaitable[HealthStats]]
    count_calls: Callable[[], CallCounts]
    records: AsyncIterator[StreamEntryText]
    out: TextIO
    columns: Callable[[], int]


class Demo:
    """Sends deployments as a pipeline would and shows what becomes of them."""

    def __init__(self, inputs: DemoInputs, *, rate: SendRate, rng: Random) -> None:
        self._inputs = inputs
        self._max_records = rate.max_events
        self._pipeline = Pipeline(inputs.report, inputs.post, rate=rate, rng=rng)
        self._published = 0
        self._limit_reached_count = 0
        self._stats: HealthStats | None = None
        self._status_line = ""
        self._is_terminal = inputs.out.isatty()

    async def run(self) -> None:
        """Play until cancelled, or until as many records as were asked for were published."""
        send_task = asyncio.create_task(self._pipeline.deploy(), name="demo-send")
        status_task = asyncio.create_task(self._update_status(), name="demo-watch")
        self._print_above_status(render_record_header(columns=self._inputs.columns()))
        try:
            async for entry in self._inputs.records:
                self._published += 1
                self._print_above_status(render_record_row(entry, columns=self._inputs.columns()))
                if self._max_records and self._published >= self._max_records:
                    break
        finally:
            for task in (send_task, status_task):
                task.cancel()
            await asyncio.gather(send_task, status_task, return_exceptions=True)
            await self._read_stats()
            self._print_summary()

    async def _update_status(self) -> None:
        """Keep the count up to date, and say so when the quota is met."""
        read_count = 0
        while True:
            previous_stats = self._stats
            await self._read_stats()
            if _is_limit_reached(self._stats) and not _is_limit_reached(previous_stats):
                self._print_limit_reached()
            self._show_status(in_place_only=read_count % _READS_PER_STATUS_LINE != 0)
            read_count += 1
            await asyncio.sleep(_STATUS_INTERVAL_S)

    async def _read_stats(self) -> None:
        try:
            self._stats = await self._inputs.read_stats()
        except RedisUnavailable:
            self._stats = None

    def _print_limit_reached(self) -> None:
        if self._stats is not None and self._stats.backlog:
            self._limit_reached_count += 1
            self._print_above_status(
                f"-- quota met: no call for {self._stats.next_call_in_s:.1f} s; "
                f"{self._stats.backlog} deployments wait, webhooks are still taken"
            )

    def _format_counts(self) -> str:
        stats = self._stats
        counts = {
            "received": self._pipeline.received,
            "queued": self._pipeline.queued,
            "published": self._published,
            "waiting": "?" if stats is None else stats.backlog,
            "failed": "?" if stats is None else stats.failed,
        }
        line = "  ".join(f"{name} {count}" for name, count in counts.items())
        if stats is None:
            return f"{line}  Redis is away"
        if _is_limit_reached(stats):
            return f"{line}  quota met {stats.next_call_in_s:.1f} s"
        return f"{line}  calls left {stats.calls_left}"

    def _print_summary(self) -> None:
        call_counts = self._inputs.count_calls()
        limit_reached_times = (
            "once" if self._limit_reached_count == 1 else f"{self._limit_reached_count} times"
        )
        self._status_line, counts_line = "", self._format_counts().rpartition("  ")[0]
        summary = (
            f"What you saw: {self._pipeline.received} signed webhooks came in, of which "
            f"{self._pipeline.repeated} were repeats and known as such; LaunchDarkly "
            f"(simulated) took {call_counts.calls} calls and refused {call_counts.rate_limited}, the quota was "
            f"met {limit_reached_times}, and {self._published} deployments came out, each as one "
            "enriched record on a Redis stream."
        )
        width = max(40, min(self._inputs.columns(), 100))
        self._print_above_status("\n".join(("", counts_line, *textwrap.wrap(summary, width))))

    def _print_above_status(self, text: str) -> None:
        """Write what stays; on a terminal the count stays below it."""
        self._write(f"\r\x1b[K{text}\n{self._status_line}" if self._is_terminal else f"{text}\n")

    def _show_status(self, *, in_place_only: bool) -> None:
        """Show the count, in one line that does not wrap: else it could not be written over."""
        line = self._format_counts()[: self._inputs.columns() - 1]
        if self._is_terminal:
            self._status_line = line
            self._write(f"\r\x1b[K{line}")
        elif not in_place_only and self._pipeline.received:
            self._write(f"-- {line}\n")

    def _write(self, text: str) -> None:
        self._inputs.out.write(text)
        self._inputs.out.flush()


def _is_limit_reached(stats: HealthStats | None) -> bool:
    return stats is not None and stats.next_call_in_s > 0
