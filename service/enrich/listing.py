"""How is a list of deployments asked for, so that it holds what some tickets seek?"""

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.pages import API_ROOT, PAGE_SIZE, ApiRequest
from service.enrich.resolve import DeploymentQuery

EXPAND = "pullRequests,flagReferences"

_MAX_PAGE_SIZE = int(PAGE_SIZE)
_MAX_FILTER_CHARS = 2000  # characters: a longer one is left out, since URLs have their limits
_HOUR_MS = 3_600_000
_TYPICAL_DURATION_MS = 2 * _HOUR_MS  # how long a deployment takes at most, but for a few
_RECENT_S = 300.0


class PageSizer(Struct):
    """How many deployments one answer should hold, so that it stays under a cap in bytes.

    Half the cap is aimed at: the next deployments may be larger than the last.
    """

    max_bytes: int
    page_size: int = _MAX_PAGE_SIZE

    def record(self, *, body_bytes: int, item_count: int) -> None:
        """Take from one answer how large a deployment is."""
        if item_count:
            self.page_size = max(
                1, min(_MAX_PAGE_SIZE, self.max_bytes * item_count // (2 * max(body_bytes, 1)))
            )

    def shrink(self) -> bool:
        """Ask for fewer after an answer over the cap; False when one alone was too large."""
        previous, self.page_size = self.page_size, max(1, self.page_size // 4)
        return previous > 1


def build_deployment_query(lease: Lease) -> DeploymentQuery:
    """Say what a ticket without an id seeks; without a time, that of its arrival counts."""
    ticket = lease.ticket
    return DeploymentQuery(
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        time_ms=ticket.event_time or lease.queued_at,
    )


def build_list_query(
    leases: Iterable[Lease], *, lookback_ms: int, page_size: int
) -> dict[str, str]:
    """Write the query of the list that holds what these tickets of one environment seek.

    A look at what has just come need not go far back, and who knows an id can do without. Else a
    deployment is sought ``window_ms`` back, and once a ticket was tried before, with an open end:
    it may have taken long, or it may be LaunchDarkly's clock that differs.
    """
    tickets = [(lease, lease.ticket) for lease in leases]
    all_have_ids = all(ticket.deployment_id is not None for _, ticket in tickets)
    is_first_attempt = not any(ticket.attempts for _, ticket in tickets)
    is_recent = is_first_attempt and all(lease.age_s < _RECENT_S for lease, _ in tickets)
    times_ms = [ticket.event_time or lease.queued_at for lease, ticket in tickets]
    first_ticket = tickets[0][1]
    query = {
        "projectKey": first_ticket.project or "",
        "environmentKey": first_ticket.environment or "",
        "applicationKey": ",".join(sorted({ticket.application or "" for _, ticket in tickets})),
        "from": str(
            max(
                1,
                min(times_ms)
                - (_TYPICAL_DURATION_MS if all_have_ids or is_recent else lookback_ms),
            )
        ),
        "limit": str(page_size),
        "expand": EXPAND,
    }
    if len(query["applicationKey"]) > _MAX_FILTER_CHARS:
        del query["applicationKey"]
    if all_have_ids or is_first_attempt:
        query["to"] = str(max(times_ms) + _HOUR_MS)
    return query


def build_list_request(query: Mapping[str, str]) -> ApiRequest:
    """Give the first page of a list."""
    return ApiRequest(route="list", path=f"{API_ROOT}deployments?{urlencode(query)}")


def with_parameters(request: ApiRequest, **changes: str | None) -> ApiRequest:
    """Give the same page with other parameters; None leaves one out."""
    path, _, encoded_query = request.path.partition("?")
    query = dict(parse_qsl(encoded_query, keep_blank_values=True)) | changes
    parameters = {name: value for name, value in query.items() if value is not None}
    return replace(request, path=f"{path}?{urlencode(parameters)}")
