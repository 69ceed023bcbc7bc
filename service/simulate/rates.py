"""The faults and the share of calls that each one hits."""

from enum import StrEnum
from typing import Annotated

import msgspec

Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Fault(StrEnum):
    """Everything that can go wrong with one response. Each value is the name of its rate."""

    ERROR = "error"
    ERROR_HTML = "error_html"
    ERROR_EMPTY = "error_empty"
    HTML = "html"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    WRONG_TYPES = "wrong_types"
    OVERSIZED = "oversized"
    REDIRECT = "redirect"
    FOREIGN_LINK = "foreign_link"
    SCHEMELESS_LINK = "schemeless_link"
    FILE_LINK = "file_link"
    LOOP_LINK = "loop_link"
    REPEATED_ITEMS = "repeated_items"
    FALSE_TOTAL = "false_total"
    RESET = "reset"
    DRIP = "drip"


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of calls that each fault hits, 0 to 1. At most one fault hits a call."""

    error: Rate = 0.0
    """500, 502, 503 or 504 with a JSON body."""
    error_html: Rate = 0.0
    """500, 502, 503 or 504 from a gateway in front: an HTML page, no rate-limit headers."""
    error_empty: Rate = 0.0
    """500, 502, 503 or 504 from a gateway in front: no body, no rate-limit headers."""
    html: Rate = 0.0
    """200 with an HTML page."""
    truncated: Rate = 0.0
    """200 with the first half of the JSON."""
    empty: Rate = 0.0
    """200 with an empty body."""
    wrong_types: Rate = 0.0
    """200 with JSON whose fields do not have the documented types."""
    oversized: Rate = 0.0
    """200 with a body of `Options.oversized_bytes`, sent until the caller closes."""
    redirect: Rate = 0.0
    """302 to `Options.lure_url`, another host that must never receive the token."""
    foreign_link: Rate = 0.0
    """`_links.next` points to `Options.lure_url`."""
    schemeless_link: Rate = 0.0
    """`_links.next` points to another host as `//host/path`."""
    file_link: Rate = 0.0
    """`_links.next` points to a local file."""
    loop_link: Rate = 0.0
    """`_links.next` points back to the same page."""
    repeated_items: Rate = 0.0
    """Each item of a collection appears twice."""
    false_total: Rate = 0.0
    """`totalCount` is too large or too small."""
    reset: Rate = 0.0
    """The connection is aborted instead of a response. The call has had its effect."""
    drip: Rate = 0.0
    """The body arrives a few bytes at a time."""


def choose_fault(rates: Rates, roll: float) -> Fault | None:
    """Return the fault whose section of the cumulated rates contains `roll` (0 to 1)."""
    upper_bound = 0.0
    for fault in Fault:
        upper_bound += getattr(rates, fault)
        if roll < upper_bound:
            return fault
    return None
