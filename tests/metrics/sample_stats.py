"""The factory of a namespace's state for tests."""

from typing import Any

import msgspec

from service.metrics.namespace import NamespaceStats


def make_namespace_stats(**fields: Any) -> NamespaceStats:
    """Return the state of an empty namespace; ``fields`` replaces fields of it."""
    stats = NamespaceStats(
        backlog=0,
        due=0,
        leased=0,
        running_leases=0,
        overdue_s=0,
        oldest_age_s=0,
        records=0,
        reader_groups=0,
        lag_records=0,
        lag_s=0,
        closed_s=0,
        closed_reason="",
        in_flight=0,
        calls_left={"get": 0, "list": 0},
        next_call_in_s=0,
        failed_total=0,
        failed={"other": 0},
    )
    return msgspec.structs.replace(stats, **fields)
