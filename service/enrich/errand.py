"""What do several tickets go and look for together? One list, read once, page by page."""

import asyncio
from collections.abc import Iterable, Sequence

from msgspec import Raw, Struct

from service.backlog.ticket import Lease
from service.enrich.calls import Calls, Judge
from service.enrich.deployment import DeploymentPage, Drift, Garbage, read_deployment_page
from service.enrich.listing import Portion, change_page, open_list, read_sought, write_query
from service.enrich.pages import PAGE_SIZE, Page, find_next, read_href
from service.enrich.search import Listed, Missing, Search
from service.enrich.verdict import Answer, Later, Never, Silence


class Refused(Struct, frozen=True):
    """The list could not be had: each ticket judges by its own history what that means for it."""

    answer: Answer | Silence


class Misread(Struct, frozen=True):
    """A page of the list could not be read."""

    problem: Drift | Garbage
    body: bytes


Outcome = Listed | Missing | Refused | Misread


class Bounds(Struct, frozen=True, kw_only=True):
    """How far an errand goes: calls, ms back in time, bytes of pages kept, and to which host."""

    calls: int
    window_ms: int
    most_kept: int
    origin: str


class Errand:
    """The list for some tickets of one project and environment. Sets out when the first asks.

    ``judge`` knows the history of the ticket whose call it is. When nobody waits any more, it ends.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        calls: Calls,
        *,
        judge: Judge,
        portion: Portion,
        bounds: Bounds,
    ) -> None:
        self.calls = calls
        self._judge = judge
        self._portion = portion
        self._bounds = bounds
        self._query = write_query(leases, window_ms=bounds.window_ms, items=portion.items)
        self._search = _make_search(leases, most_kept=bounds.most_kept)
        self._answers: dict[str, asyncio.Future[None]] = {}
        self._told: dict[str, Outcome | Exception] = {}
        self._task: asyncio.Task[None] | None = None

    async def seek(self, job: str) -> Outcome:
        """Wait for what the list says of one ticket."""
        if job not in self._told:
            await self._wait(job)
        outcome = self._told.pop(job)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _wait(self, job: str) -> None:
        answer = self._answers[job] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.create_task(self._go(), name="errand")
        try:
            await answer
        finally:
            del self._answers[job]
            if not self._answers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _go(self) -> None:
        try:
            failed = await self._look()
            told = self._search.close() if failed is None else self._fail(failed)
            for job, outcome in told:
                self._tell(job, outcome)
        except Exception as error:  # noqa: BLE001 - a mistake of ours is judged for each ticket
            for job in self._search.list_open():
                self._tell(job, error)

    def _fail(self, outcome: Refused | Misread) -> Iterable[tuple[str, Outcome]]:
        return [(job, outcome) for job in self._search.list_open()]

    def _tell(self, job: str, outcome: Outcome | Exception) -> None:
        self._told[job] = outcome
        answer = self._answers.get(job)
        if answer is not None and not answer.done():
            answer.set_result(None)

    async def _look(self) -> Refused | Misread | None:
        """Read page after page until all is found, or no more is to be had."""
        page: Page | None = open_list(self._query)
        visited: set[str] = set()
        count = 0
        while page is not None and page.path not in visited and not self._search.is_over:
            if self.calls.count >= self._bounds.calls:
                break
            visited.add(page.path)
            body = await self._fetch(page)
            if not isinstance(body, bytes):
                return Refused(body)
            found = read_deployment_page(body)
            if not isinstance(found, DeploymentPage):
                return Misread(found, body)
            items = found.items or []
            count += len(items)
            if not self._take_in(items, size=len(body)) and self._search.is_by_id:
                break  # further pages would answer few: each asks for its own
            page = self._find_next(found, count)
        return None

    def _take_in(self, items: list[Raw], *, size: int) -> int:
        """Look through the items of a page; gives how many tickets it answered."""
        answered = 0
        for job, listed in self._search.take_page(items, size=size):
            self._tell(job, listed)
            answered += 1
        if "expand" in self._query:
            self._portion.learn(size=size, items=len(items))
            self._query["limit"] = str(self._portion.items)
        return answered

    async def _fetch(self, page: Page) -> bytes | Answer | Silence:
        """Fetch one page, in smaller portions when it is over the cap of bytes."""
        answer: Answer | Silence = Silence(reason="not asked")

        def judge(told: Answer | Silence) -> bytes | Later | Never:
            nonlocal answer
            answer = told
            return self._judge(told)

        while True:
            body = await self.calls.ask(page, judge)
            if isinstance(body, bytes):
                return body
            if not (isinstance(answer, Answer) and answer.oversized) or "expand" not in self._query:
                return answer
            if self._portion.shrink():
                self._query["limit"] = str(self._portion.items)
            else:  # one alone is too large: each ticket asks for its own
                del self._query["expand"]
                self._query["limit"] = PAGE_SIZE
            page = change_page(page, limit=self._query["limit"], expand=self._query.get("expand"))

    def _find_next(self, found: DeploymentPage, count: int) -> Page | None:
        href = read_href(found.links)
        told_all = found.total_count is not None and count >= found.total_count
        if not href or not found.items or told_all:
            return None
        page = find_next(href, origin=self._bounds.origin, fill={"list": self._query})
        return change_page(page, limit=self._query["limit"]) if isinstance(page, Page) else None


def _make_search(leases: Sequence[Lease], *, most_kept: int) -> Search:
    ids, sought = {}, {}
    for lease in leases:
        if lease.ticket.deployment_id is None:
            sought[lease.job] = read_sought(lease)
        else:
            ids[lease.job] = lease.ticket.deployment_id
    return Search(ids=ids, sought=sought, most_kept=most_kept)
