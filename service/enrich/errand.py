"""What do several tickets go and look for together? One list, read once, page by page."""

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Raw, Struct

from service.backlog.ticket import Lease
from service.enrich.calls import BudgetedCalls, ResponseCheck
from service.enrich.deployment import DeploymentPage, Drift, Malformed, parse_deployment_page
from service.enrich.listing import (
    PageSizer,
    build_deployment_query,
    build_list_query,
    build_list_request,
    with_parameters,
)
from service.enrich.pages import PAGE_SIZE, ApiRequest, next_link, resolve_next_link
from service.enrich.search import ListMatcher, Match, NoMatch
from service.enrich.verdict import ApiResponse, Fail, NoResponse, Retry


class ListUnavailable(Struct, frozen=True):
    """The list could not be had: each ticket judges by its own history what that means for it."""

    response: ApiResponse | NoResponse


class ListUnreadable(Struct, frozen=True):
    """A page of the list could not be read."""

    problem: Drift | Malformed
    body: bytes


ListResult = Match | NoMatch | ListUnavailable | ListUnreadable


class ListLimits(Struct, frozen=True, kw_only=True):
    """How far an errand goes: calls, ms back in time, bytes of pages kept, and to which host."""

    max_calls: int
    lookback_ms: int
    max_buffered_bytes: int
    origin: str


class SharedList:
    """The list for some tickets of one project and environment. Sets out when the first asks.

    ``judge`` knows the history of the ticket whose call it is. When nobody waits any more, it ends.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        calls: BudgetedCalls,
        *,
        check: ResponseCheck,
        page_sizer: PageSizer,
        limits: ListLimits,
    ) -> None:
        self.calls = calls
        self._check = check
        self._page_sizer = page_sizer
        self._limits = limits
        self._query = build_list_query(
            leases, lookback_ms=limits.lookback_ms, page_size=page_sizer.page_size
        )
        self._matcher = _build_matcher(leases, max_buffered_bytes=limits.max_buffered_bytes)
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._results: dict[str, ListResult | Exception] = {}
        self._task: asyncio.Task[None] | None = None

    async def result_for(self, job: str) -> ListResult:
        """Wait for what the list says of one ticket."""
        if job not in self._results:
            await self._wait_for_result(job)
        result = self._results.pop(job)
        if isinstance(result, Exception):
            raise result
        return result

    async def _wait_for_result(self, job: str) -> None:
        waiter = self._waiters[job] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="errand")
        try:
            await waiter
        finally:
            del self._waiters[job]
            if not self._waiters and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        try:
            failure = await self._read_pages()
            results = self._matcher.finish() if failure is None else self._fail_unmatched(failure)
            for job, result in results:
                self._set_result(job, result)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is judged for each ticket
            for job in self._matcher.list_unmatched():
                self._set_result(job, error)

    def _fail_unmatched(
        self, failure: ListUnavailable | ListUnreadable
    ) -> Iterable[tuple[str, ListResult]]:
        return [(job, failure) for job in self._matcher.list_unmatched()]

    def _set_result(self, job: str, result: ListResult | Exception) -> None:
        self._results[job] = result
        waiter = self._waiters.get(job)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _read_pages(self) -> ListUnavailable | ListUnreadable | None:
        """Read page after page until all is found, or no more is to be had."""
        request: ApiRequest | None = build_list_request(self._query)
        visited: set[str] = set()
        item_count = 0
        while request is not None and request.path not in visited and not self._matcher.is_done:
            if self.calls.count >= self._limits.max_calls:
                break
            visited.add(request.path)
            body = await self._fetch_page(request)
            if not isinstance(body, bytes):
                return ListUnavailable(body)
            list_page = parse_deployment_page(body)
            if not isinstance(list_page, DeploymentPage):
                return ListUnreadable(list_page, body)
            items = list_page.items or []
            item_count += len(items)
            if not self._match_items(items, body_bytes=len(body)) and self._matcher.has_only_ids:
                break  # further pages would answer few: each asks for its own
            request = self._next_request(list_page, item_count)
        return None

    def _match_items(self, items: list[Raw], *, body_bytes: int) -> int:
        """Look through the items of a page; gives how many tickets it answered."""
        matched = 0
        for job, match_found in self._matcher.match_page(items, body_bytes=body_bytes):
            self._set_result(job, match_found)
            matched += 1
        if "expand" in self._query:
            self._page_sizer.record(body_bytes=body_bytes, item_count=len(items))
            self._query["limit"] = str(self._page_sizer.page_size)
        return matched

    async def _fetch_page(self, request: ApiRequest) -> bytes | ApiResponse | NoResponse:
        """Fetch one page, in smaller portions when it is over the cap of bytes."""
        response: ApiResponse | NoResponse = NoResponse(reason="not asked")

        def check(received: ApiResponse | NoResponse) -> bytes | Retry | Fail:
            nonlocal response
            response = received
            return self._check(received)

        while True:
            body = await self.calls.fetch(request, check)
            if isinstance(body, bytes):
                return body
            if (
                not (isinstance(response, ApiResponse) and response.oversized)
                or "expand" not in self._query
            ):
                return response
            if self._page_sizer.shrink():
                self._query["limit"] = str(self._page_sizer.page_size)
            else:  # one alone is too large: each ticket asks for its own
                del self._query["expand"]
                self._query["limit"] = PAGE_SIZE
            request = with_parameters(
                request, limit=self._query["limit"], expand=self._query.get("expand")
            )

    def _next_request(self, list_page: DeploymentPage, item_count: int) -> ApiRequest | None:
        href = next_link(list_page.links)
        is_last = list_page.total_count is not None and item_count >= list_page.total_count
        if not href or not list_page.items or is_last:
            return None
        request = resolve_next_link(
            href, origin=self._limits.origin, defaults={"list": self._query}
        )
        return (
            with_parameters(request, limit=self._query["limit"])
            if isinstance(request, ApiRequest)
            else None
        )


def _build_matcher(leases: Sequence[Lease], *, max_buffered_bytes: int) -> ListMatcher:
    deployment_ids, queries = {}, {}
    for lease in leases:
        if lease.ticket.deployment_id is None:
            queries[lease.job] = build_deployment_query(lease)
        else:
            deployment_ids[lease.job] = lease.ticket.deployment_id
    return ListMatcher(
        deployment_ids=deployment_ids, queries=queries, max_buffered_bytes=max_buffered_bytes
    )
