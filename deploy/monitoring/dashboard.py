"""The dashboard: rows of panels, written as the JSON that Grafana reads.

Run it after a change: ``python deploy/monitoring/dashboard.py``.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARD_FILE = Path(__file__).parent / "grafana" / "dashboards" / "deployment-enricher.json"
PANEL_WIDTH, PANEL_HEIGHT = 8, 7
GRID_WIDTH = 24
SELECTOR = '{enricher=~"$enricher"}'


class Panel(NamedTuple):
    """One panel: its title, its unit, and its queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]


def gauge(metric: str, by: str = "") -> str:
    """Return the query of a gauge that every replica reports alike."""
    return f"max by ({by or 'enricher'}) (enricher_{metric}{SELECTOR})"


def rate(metric: str, by: str = "") -> str:
    """Return the query of a rate per second, summed over all processes."""
    return f"sum by ({by or 'enricher'}) (rate(enricher_{metric}{SELECTOR}[$__rate_interval]))"


def increase(metric: str, by: str = "") -> str:
    """Return the query of an increase within an hour, for rare events."""
    return f"sum by ({by or 'enricher'}) (increase(enricher_{metric}{SELECTOR}[1h]))"


def quantiles(metric: str) -> dict[str, str]:
    """Return the queries of the median and of the 99th percentile."""
    return {
        f"p{share * 100:.0f}": f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"
        for share in (0.5, 0.99)
    }


ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("From webhook to record", "s", quantiles("webhook_to_record_seconds")),
        Panel(
            "Records",
            "ops",
            {
                "published": rate("records_published_total"),
                "later revisions": rate("records_revised_total"),
                "incomplete": rate("records_incomplete_total"),
                "unchanged": rate("deployments_unchanged_total"),
                "filtered": rate("deployments_filtered_total"),
                "reported": rate("deployments_reported_total"),
            },
        ),
        Panel(
            "Age",
            "s",
            {
                "overdue": gauge("backlog_overdue_seconds"),
                "oldest": gauge("backlog_oldest_seconds"),
            },
        ),
    ),
    "Webhooks": (
        Panel("Webhooks by source", "ops", {"{{source}}": rate("webhooks_total", "source")}),
        Panel("Webhooks by outcome", "ops", {"{{outcome}}": rate("webhooks_total", "outcome")}),
        Panel(
            "Reconciled",
            "short",
            {
                "missed by webhooks": increase("reconcile_missed_deployments_total"),
                "runs {{outcome}}": increase("reconcile_runs_total", "outcome"),
            },
        ),
        Panel(
            "Anomalies",
            "ops",
            {
                "time unreadable": rate("webhooks_time_unreadable_total"),
                "metadata dropped": rate("webhooks_metadata_dropped_total"),
                "failed webhooks dropped": rate("deployments_failed_dropped_total"),
                "{{where}} error": rate("internal_errors_total", "where"),
                "schema mismatches": rate("launchdarkly_schema_mismatches_total"),
                "partly unreadable": rate("records_partly_unreadable_total"),
                "leases lost": rate("leases_lost_total"),
                "leases released": rate("leases_released_total"),
                "log lines lost": rate("log_lines_lost_total"),
            },
        ),
    ),
    "Backlog": (
        Panel(
            "Backlog",
            "short",
            {
                "all": gauge("backlog_tickets"),
                "due": gauge("backlog_due_tickets"),
                "leased": gauge("backlog_leased_tickets"),
                "limit": gauge("backlog_limit_tickets"),
            },
        ),
        Panel(
            "Postponed by reason",
            "ops",
            {"{{reason}}": rate("deployments_postponed_total", "reason")},
        ),
        Panel(
            "In progress",
            "short",
            {"{{instance}}": f"sum by (instance) (enricher_worker_tickets_in_progress{SELECTOR})"},
        ),
    ),
    "LaunchDarkly": (
        Panel(
            "Calls by outcome", "ops", {"{{outcome}}": rate("launchdarkly_calls_total", "outcome")}
        ),
        Panel("Call duration", "s", quantiles("launchdarkly_call_seconds")),
        Panel("Attempt duration", "s", quantiles("attempt_seconds")),
        Panel(
            "Calls left",
            "short",
            {
                "{{route}}": gauge("budget_calls_left", "route"),
                "in flight": gauge("budget_calls_in_flight"),
            },
        ),
        Panel("Budget closed", "s", {"{{reason}}": gauge("budget_closed_seconds", "reason")}),
        Panel("Token refused", "bool", {"refused": gauge("token_refused")}),
        Panel("Forbidden projects", "short", {"forbidden": gauge("forbidden_projects")}),
    ),
    "Records and failed tickets": (
        Panel(
            "Stream",
            "short",
            {
                "records": gauge("stream_records"),
                "unread by the slowest group": gauge("reader_lag_records"),
                "limit": gauge("stream_limit_records"),
                "groups": gauge("reader_groups"),
            },
        ),
        Panel("Reader lag", "s", {"lag": gauge("reader_lag_seconds")}),
        Panel("Failed by reason", "short", {"{{reason}}": gauge("failed_tickets", "reason")}),
        Panel(
            "Failures by reason", "ops", {"{{reason}}": rate("deployments_failed_total", "reason")}
        ),
    ),
    "Redis and processes": (
        Panel("Redis round trip", "s", quantiles("redis_round_trip_seconds")),
        Panel("Redis clock", "s", {"set back by": gauge("redis_clock_behind_seconds")}),
        Panel("Script calls per round trip", "short", quantiles("redis_batch_size")),
        Panel(
            "Redis up",
            "bool",
            {
                "{{instance}}": f"min by (instance) (enricher_redis_up{SELECTOR})",
                "disconnects": rate("redis_disconnects_total"),
            },
        ),
        Panel("Processor", "percentunit", {"{{instance}}": "rate(process_cpu_seconds_total[5m])"}),
        Panel(
            "Event loop lag",
            "s",
            {"{{instance}}": f"max by (instance) (enricher_event_loop_lag_seconds{SELECTOR})"},
        ),
        Panel("Memory", "bytes", {"{{instance}}": "process_resident_memory_bytes"}),
        Panel("Version", "short", {"{{version}}": "count by (version) (enricher_build_info)"}),
    ),
}


def render_dashboard() -> str:
    """Return the whole dashboard as JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        grid_position = {"x": 0, "y": top, "w": GRID_WIDTH, "h": 1}
        panels.append({"type": "row", "title": title, "gridPos": grid_position, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            row_offset, column_offset = divmod(index * PANEL_WIDTH, GRID_WIDTH)
            grid_position = {
                "x": column_offset,
                "y": top + row_offset * PANEL_HEIGHT,
                "w": PANEL_WIDTH,
                "h": PANEL_HEIGHT,
            }
            panels.append(_render_panel(panel, grid_position))
        top += -(-len(row) * PANEL_WIDTH // GRID_WIDTH) * PANEL_HEIGHT
    return json.dumps(_render_frame(panels), indent=1) + "\n"


def _render_panel(panel: Panel, grid_position: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "enricher-prometheus"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": grid_position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


def _render_frame(panels: list[dict[str, Any]]) -> dict[str, Any]:
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    source = {"type": "prometheus", "uid": "enricher-prometheus"}
    namespace_variable = {
        "name": "enricher",
        "type": "query",
        "datasource": source,
        "query": "label_values(enricher_redis_up, enricher)",
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "deployment-enricher",
        "title": "deployment-enricher",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [namespace_variable]},
        "panels": panels,
    }


if __name__ == "__main__":
    DASHBOARD_FILE.write_text(render_dashboard(), encoding="utf-8")
