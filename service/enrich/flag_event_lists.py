"""The lists of flag events: one for each project and environment, for all refreshes of a time.

A refresh takes the list that another refresh has read shortly before, if it goes back far enough.
The calls leave enough calls for all first attempts. A list that cannot be read never ends or delays
a refresh for long: its record says what is missing.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import cast
from urllib.parse import urlencode

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.buffer_memory import BufferMemory
from service.enrich.client import Parsed, Upstream
from service.enrich.flag_events import (
    FlagEventCollector,
    FlagEventsFound,
    ListedFlagEvent,
    build_flag_event_query,
    find_start,
    find_touched_flags,
    round_start,
    select_flag_events,
)
from service.enrich.models import DeploymentPage, Drift, lacks_items, parse_page_in_steps
from service.enrich.pagination import (
    API_ROOT,
    ApiRequest,
    Route,
    UnsafeLink,
    next_link,
    resolve_next_link,
)
from service.enrich.rate_limits import RateLimitHeaders
from service.enrich.verdict import (
    CANCELLED,
    ApiResponse,
    CallFailure,
    Found,
    NoResponse,
    Verdict,
    classify_response,
    is_passing_fault,
    repeat_wait,
)
from service.log import EventLogger
from service.store.group_commit import ScriptReply

Enrich = Callable[[Lease], Awaitable[Verdict]]
"""Fetches the deployment of a ticket and returns the verdict."""

_ROUTE: Route = "flag-events"
_MAX_CONCURRENT_LISTS = 4
_FORBIDDEN_FOR_S = 600.0
_SILENT_FOR_S = 60.0


class FlagEventLimits(Struct, frozen=True, kw_only=True):
    """Limits of the lists: calls, events, bytes kept, seconds to read one, and lists kept.

    A list is used for ``max_age_s`` seconds at most, and for a tenth of the time since the first
    record of a deployment.
    """

    max_calls: int = 10
    max_events: int = 1000
    max_bytes: int = 1 << 20
    timeout_s: float = 15.0
    max_age_s: float = 30.0
    max_lists: int = 256


class ListFault(Struct, frozen=True):
    """Why a list could not be read to its end.

    It ``may_pass``, or the next refresh would fail too. Nobody asks again for ``wait_s`` seconds.
    """

    reason: str
    may_pass: bool = True
    wait_s: float = 0.0
    is_logged: bool = True


_NO_SPARE_CALL = ListFault("all calls were needed for webhooks", is_logged=False)


class FlagEventList(Struct, frozen=True):
    """The flag events since a time (epoch ms), by flag; ``read_at`` is in seconds of the clock.

    ``reason`` says why events are missing; ``fault``, if they could not be read.
    """

    since_ms: int
    read_at: float
    events_by_flag: Mapping[str, tuple[ListedFlagEvent, ...]]
    reason: str | None = None
    fault: ListFault | None = None

    def serves(self, since_ms: int, *, max_age_s: float, now_s: float) -> bool:
        """Return whether the list answers a refresh, or says that nobody should ask now."""
        age_s = now_s - self.read_at
        if self.fault is None:
            return self.since_ms <= since_ms and age_s <= max_age_s
        return age_s <= max(max_age_s, self.fault.wait_s)


class FlagEventLists:
    """Reads and keeps the lists of one worker. ``name`` makes its calls unique in the budget.

    ``clock`` returns monotonic seconds. Without ``with_members``, no list holds an e-mail address.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        name: str,
        with_members: bool,
        clock: Callable[[], float],
        log: EventLogger,
        limits: FlagEventLimits | None = None,
    ) -> None:
        self._upstream = upstream
        self._name = name
        self._with_members = with_members
        self._clock = clock
        self._log = log
        self._limits = limits or FlagEventLimits()
        self._lists: dict[tuple[str, str], list[FlagEventList]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT_LISTS)

    def wrap(self, enrich: Enrich) -> Enrich:
        """Return ``enrich`` with the flag events of each refresh that finds its deployment."""

        async def enrich_with_flag_events(lease: Lease) -> Verdict:
            verdict = await enrich(lease)
            if lease.ticket.refresh is None or not isinstance(verdict, Found):
                return verdict
            return await self.add_to(verdict, lease, published_at=lease.ticket.refresh.since)

        return enrich_with_flag_events

    async def add_to(self, found: Found, lease: Lease, *, published_at: int) -> Found:
        """Return a deployment with its flag events, unless its project or environment is unknown.

        ``published_at`` is when its first record was appended (Redis ms).
        """
        deployment, ticket = found.deployment, lease.ticket
        project, environment = ticket.project, deployment.environment_key or ticket.environment
        if not (project and environment):
            return found
        start = find_start(deployment, reported_at=ticket.event_time, published_at=published_at)
        flags = await self._upstream.launchdarkly.step_runner.run(
            find_touched_flags(deployment, project)
        )
        if start is None or not flags:
            return replace(found, flag_events=FlagEventsFound(events=()))
        listed, calls = await self._get_list(
            (project, environment),
            since_ms=start,
            now_ms=lease.now,
            max_age_s=min(self._limits.max_age_s, (lease.now - published_at) / 10_000),
        )
        events = select_flag_events(listed.events_by_flag, flags, since_ms=start)
        return replace(found, flag_events=_build_found(listed, events), calls=found.calls + calls)

    async def _get_list(
        self, scope: tuple[str, str], *, since_ms: int, now_ms: int, max_age_s: float
    ) -> tuple[FlagEventList, int]:
        """Return a list that goes back to ``since_ms``, and the calls that were made for it."""
        async with self._locks.setdefault(scope, asyncio.Lock()):
            now_s = self._clock()
            for listed in self._lists.get(scope, ()):
                if listed.serves(since_ms, max_age_s=max_age_s, now_s=now_s):
                    return listed, 0
            reader = _FlagEventReader(
                self._upstream,
                scope,
                call_id=f"flag events of {'/'.join(scope)} {self._name}",
                limits=self._limits,
            )
            collector = FlagEventCollector(
                scope[1],
                with_members=self._with_members,
                max_events=self._limits.max_events,
                max_bytes=self._limits.max_bytes,
            )
            start = round_start(since_ms, now_ms=now_ms)
            fault = await self._read(reader, collector, since_ms=start)
            if fault is not None and fault.is_logged:
                self._log.warning(
                    "flag_events_unreadable", scope="/".join(scope), reason=fault.reason
                )
            listed = FlagEventList(
                since_ms=start,
                read_at=now_s,
                events_by_flag=collector.list_by_flag(),
                reason=collector.reason if fault is None else fault.reason,
                fault=fault,
            )
            self._keep(scope, listed)
            return listed, reader.calls

    async def _read(
        self, reader: "_FlagEventReader", collector: FlagEventCollector, *, since_ms: int
    ) -> ListFault | None:
        """Read a list to its end within the timeout; return why it could not be read."""
        try:
            async with asyncio.timeout(self._limits.timeout_s), self._slots:
                return await reader.read_pages(collector, since_ms=since_ms)
        except TimeoutError:
            reason = f"not read in {self._limits.timeout_s:g} s"
            return ListFault(reason, wait_s=_SILENT_FOR_S)

    def _keep(self, scope: tuple[str, str], listed: FlagEventList) -> None:
        """Keep a list, and forget those that it replaces, old ones and the oldest of too many."""
        kept = [
            other
            for other in self._lists.pop(scope, ())
            if other.fault is None
            and other.since_ms < listed.since_ms
            and listed.read_at - other.read_at <= self._limits.max_age_s
        ]
        self._lists[scope] = [listed, *kept]
        while sum(map(len, self._lists.values())) > self._limits.max_lists:
            oldest_scope = next(iter(self._lists))
            if oldest_scope == scope:
                self._lists[scope] = [listed]
                break
            del self._lists[oldest_scope]
            lock = self._locks.get(oldest_scope)
            if lock is not None and not lock.locked():
                del self._locks[oldest_scope]


def _build_found(listed: FlagEventList, events: tuple[ListedFlagEvent, ...]) -> FlagEventsFound:
    fault = listed.fault
    is_unread = fault is not None and not listed.events_by_flag
    return FlagEventsFound(
        events=None if is_unread else events,
        reason=listed.reason,
        may_change=any(event.is_waiting for event in events)
        or (fault is not None and fault.may_pass),
        unsettled=fault is not None,
    )


class _FlagEventReader:
    """Reads one list, page by page; ``calls`` counts its calls."""

    def __init__(
        self, upstream: Upstream, scope: tuple[str, str], *, call_id: str, limits: FlagEventLimits
    ) -> None:
        self._upstream = upstream
        self._scope = scope
        self._call_id = call_id
        self._limits = limits
        self.calls = 0

    async def read_pages(self, collector: FlagEventCollector, *, since_ms: int) -> ListFault | None:
        """Read every page, up to the limits; return why a page could not be read."""
        query = build_flag_event_query(*self._scope, since_ms=since_ms)
        request = ApiRequest(route=_ROUTE, path=f"{API_ROOT}{_ROUTE}?{urlencode(query)}")
        visited: set[str] = set()
        while True:
            visited.add(request.path)
            page = await self._fetch_page(request)
            if isinstance(page, ListFault):
                return page
            has_new = collector.add_page(page.items or ())
            if page.hides_next_link:
                collector.reason = "a link to a page of flag events could not be read"
            following = self._find_next(page, collector, query)
            if following is None:
                return None
            if following.path in visited or not has_new:
                collector.reason = "pages of flag events repeat"
                return None
            if len(visited) >= self._limits.max_calls:
                collector.reason = f"more than {collector.item_count} flag events"
                return None
            request = following

    def _find_next(
        self, page: DeploymentPage, collector: FlagEventCollector, query: Mapping[str, str]
    ) -> ApiRequest | None:
        """Return the request of the next page; set the reason if events will be missing."""
        total = page.total_count
        if total is not None and not lacks_items(total, collector.item_count):
            return None
        href = next_link(page.links)
        if not href or not page.items:
            if total is not None:
                listed = f"{collector.item_count} of {total} flag events are listed"
                collector.reason = collector.reason or listed
            return None
        request = resolve_next_link(
            href, origin=self._upstream.launchdarkly.origin, defaults={_ROUTE: query}
        )
        if isinstance(request, UnsafeLink):
            collector.reason = request.reason
            return None
        return request

    async def _fetch_page(self, request: ApiRequest) -> DeploymentPage | ListFault:
        """Return one page. A call that fails for a passing reason is repeated some times."""
        upstream = self._upstream
        tries = 0
        while True:
            if not await upstream.budget.acquire_for_refresh(self._call_id, request.route):
                return _NO_SPARE_CALL
            fetched = await self._try(request)
            tries += 1
            if isinstance(fetched, Parsed):
                if isinstance(fetched.value, Drift):
                    return ListFault("a page of flag events could not be read", may_pass=False)
                return fetched.value
            wait_s = repeat_wait(
                fetched,
                tries=tries,
                has_progress=False,
                jitter=upstream.rng(),
                policy=upstream.repeats,
            )
            if wait_s is None:
                return _describe_failure(fetched.response)
            await asyncio.sleep(wait_s)

    async def _try(self, request: ApiRequest) -> Parsed[DeploymentPage] | CallFailure:
        """Make one call, and return it to the budget even if it is cancelled."""
        launchdarkly = self._upstream.launchdarkly
        memory = BufferMemory(sys.maxsize)  # few lists are read at a time, and never kept whole
        reading = await launchdarkly.reserve(request.route, memory.open_hold())
        response: Parsed[DeploymentPage] | ApiResponse | NoResponse = CANCELLED
        self.calls += 1
        try:
            response = await launchdarkly.get_parsed(
                request.path, route=request.route, parse=parse_page_in_steps, reading=reading
            )
        finally:
            recorded = self._record(response)
        if isinstance(response, Parsed):
            return response
        return CallFailure(response, closed_s=cast("int", await recorded) / 1000)

    def _record(
        self, response: Parsed[DeploymentPage] | ApiResponse | NoResponse
    ) -> asyncio.Future[ScriptReply]:
        """Record a response in the budget.

        A refusal of this route says nothing about deployments: it neither closes the budget nor
        marks the project as forbidden.
        """
        record = self._upstream.budget.record
        if isinstance(response, Parsed):
            return record(self._call_id, "ok", response.rate_limits)
        rate_limits = (
            response.rate_limits if isinstance(response, ApiResponse) else RateLimitHeaders()
        )
        result = classify_response(response)
        is_refusal = result in {"forbidden", "unauthorized"}
        return record(self._call_id, "ok" if is_refusal else result, rate_limits)


def _describe_failure(response: ApiResponse | NoResponse) -> ListFault:
    if isinstance(response, NoResponse):
        return ListFault(f"no answer: {response.reason}")
    result = classify_response(response)
    if result in {"forbidden", "unauthorized"}:
        reason = f"HTTP {response.status}: the access token may not read flag events"
        return ListFault(reason, may_pass=False, wait_s=_FORBIDDEN_FOR_S)
    if response.malformed is not None:
        return ListFault("a page of flag events is not JSON")
    if response.oversized:
        return ListFault("a page of flag events is over the byte cap", may_pass=False)
    may_pass = result == "rate_limited" or is_passing_fault(response)
    return ListFault(f"HTTP {response.status}", may_pass=may_pass)
