"""The reporter: reports one deployment to LaunchDarkly, with one call from the shared budget."""

from collections.abc import Callable

from service.backlog.ticket import Lease, QueuedEvent
from service.enrich.client import Upstream
from service.enrich.pagination import API_ROOT
from service.enrich.rate_limits import RateLimitHeaders
from service.enrich.report import (
    ReportAnswer,
    classify_report,
    decide_answer,
    decide_busy,
    encode_report,
)
from service.enrich.verdict import ApiResponse, AttemptHistory, CallFailure, Retry, RetryPolicy

REPORT_PATH = f"{API_ROOT}deployment-events"
_ROUTE = "report"


class Reporter:
    """Posts deployment events; each call is acquired from the budget before it is made.

    ``build_history`` returns the history of a ticket.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        policy: RetryPolicy,
        build_history: Callable[[Lease], AttemptHistory],
    ) -> None:
        self._upstream = upstream
        self._policy = policy
        self._build_history = build_history

    async def acquire(self, lease: Lease) -> None:
        """Wait until the budget allows the call.

        The call is acquired before the report is written to its ticket: nothing waits in between.
        A lease that ends without the call returns it.
        """
        async with self._upstream.limiter:
            await self._upstream.budget.acquire(lease.job, _ROUTE)

    def decide_busy(self, lease: Lease) -> Retry:
        """Return the verdict on an end whose start is being reported."""
        return decide_busy(self._build_history(lease), self._policy)

    async def post(self, lease: Lease) -> ReportAnswer:
        """Post the event of a ticket, and return what the answer means."""
        ticket = lease.ticket
        response = await self._upstream.launchdarkly.post(
            REPORT_PATH, encode_report(QueuedEvent(ticket, lease.queued_at)), route=_ROUTE
        )
        closed_ms: object = await self._upstream.budget.record(
            lease.job,
            classify_report(response),
            response.rate_limits if isinstance(response, ApiResponse) else RateLimitHeaders(),
        )
        assert isinstance(closed_ms, int)  # noqa: S101 - as the script returns it
        answered = CallFailure(response, closed_s=closed_ms / 1000)
        history = self._build_history(lease)
        return decide_answer(answered, ticket, history, self._policy, index=lease.index)
