"""How is a list of deployments asked for, so that it holds what some tickets seek?"""

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct
from msgspec.structs import replace

from service.backlog.ticket import Lease
from service.enrich.pages import PAGE_SIZE, ROOT, Page
from service.enrich.resolve import Sought

EXPAND = "pullRequests,flagReferences"

_LARGEST_PAGE = int(PAGE_SIZE)
_LONGEST_FILTER = 2000  # characters: a longer one is left out, since URLs have their limits
_HOUR_MS = 3_600_000
_USUAL_MS = 2 * _HOUR_MS  # how long a deployment takes at most, but for a few
_FRESH_S = 300.0


class Portion(Struct):
    """How many deployments one answer should hold, so that it stays under a cap in bytes.

    Half the cap is aimed at: the next deployments may be larger than the last.
    """

    cap: int
    items: int = _LARGEST_PAGE

    def learn(self, *, size: int, items: int) -> None:
        """Take from one answer how large a deployment is."""
        if items:
            self.items = max(1, min(_LARGEST_PAGE, self.cap * items // (2 * max(size, 1))))

    def shrink(self) -> bool:
        """Ask for fewer after an answer over the cap; False when one alone was too large."""
        was, self.items = self.items, max(1, self.items // 4)
        return was > 1


def read_sought(lease: Lease) -> Sought:
    """Say what a ticket without an id seeks; without a time, that of its arrival counts."""
    ticket = lease.ticket
    return Sought(
        environment=ticket.environment or "",
        application=ticket.application or "",
        version=ticket.version or "",
        time_ms=ticket.event_time or lease.queued_at,
    )


def write_query(leases: Iterable[Lease], *, window_ms: int, items: int) -> dict[str, str]:
    """Write the query of the list that holds what these tickets of one environment seek.

    A look at what has just come need not go far back, and who knows an id can do without. Else a
    deployment is sought ``window_ms`` back, and once a ticket was tried before, with an open end:
    it may have taken long, or it may be LaunchDarkly's clock that differs.
    """
    tickets = [(lease, lease.ticket) for lease in leases]
    known = all(ticket.deployment_id is not None for _, ticket in tickets)
    untried = not any(ticket.attempts for _, ticket in tickets)
    fresh = untried and all(lease.age_s < _FRESH_S for lease, _ in tickets)
    times = [ticket.event_time or lease.queued_at for lease, ticket in tickets]
    first = tickets[0][1]
    query = {
        "projectKey": first.project or "",
        "environmentKey": first.environment or "",
        "applicationKey": ",".join(sorted({ticket.application or "" for _, ticket in tickets})),
        "from": str(max(1, min(times) - (_USUAL_MS if known or fresh else window_ms))),
        "limit": str(items),
        "expand": EXPAND,
    }
    if len(query["applicationKey"]) > _LONGEST_FILTER:
        del query["applicationKey"]
    if known or untried:
        query["to"] = str(max(times) + _HOUR_MS)
    return query


def open_list(query: Mapping[str, str]) -> Page:
    """Give the first page of a list."""
    return Page(route="list", path=f"{ROOT}deployments?{urlencode(query)}")


def change_page(page: Page, **changes: str | None) -> Page:
    """Give the same page with other parameters; None leaves one out."""
    path, _, text = page.path.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True)) | changes
    kept = {name: value for name, value in query.items() if value is not None}
    return replace(page, path=f"{path}?{urlencode(kept)}")
