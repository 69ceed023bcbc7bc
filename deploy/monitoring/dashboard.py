"""What does the dashboard show? Rows of panels, written as the JSON that Grafana reads.

Run it after a change: ``python deploy/monitoring/dashboard.py``.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "grafana" / "dashboards" / "deployment-enricher.json"
WIDTH, HEIGHT = 8, 7
ACROSS = 24
OURS = '{enricher=~"$enricher"}'


class Panel(NamedTuple):
    """One picture: its title, its unit, and what it asks, each under a legend."""

    title: str
    unit: str
    asks: dict[str, str]


def tell(metric: str, by: str = "") -> str:
    """Ask for what every replica tells alike."""
    return f"max by ({by or 'enricher'}) (enricher_{metric}{OURS})"


def rate(metric: str, by: str = "") -> str:
    """Ask for how often something happens, in all processes together."""
    return f"sum by ({by or 'enricher'}) (rate(enricher_{metric}{OURS}[$__rate_interval]))"


def more(metric: str, by: str = "") -> str:
    """Ask for how much was added within an hour: for what happens rarely."""
    return f"sum by ({by or 'enricher'}) (increase(enricher_{metric}{OURS}[1h]))"


def quantiles(metric: str) -> dict[str, str]:
    """Ask for what half, and all but a hundredth, stay below."""
    return {
        f"p{share * 100:.0f}": f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"
        for share in (0.5, 0.99)
    }


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it well?": (
        Panel("From webhook to record", "s", quantiles("webhook_to_record_seconds")),
        Panel(
            "Records",
            "ops",
            {
                "published": rate("records_published_total"),
                "of these later revisions": rate("records_revised_total"),
                "of these incomplete": rate("records_incomplete_total"),
                "nothing new": rate("records_unchanged_total"),
                "not wanted": rate("records_left_out_total"),
            },
        ),
        Panel(
            "Age",
            "s",
            {"overdue": tell("backlog_overdue_seconds"), "oldest": tell("backlog_oldest_seconds")},
        ),
    ),
    "What comes in": (
        Panel("Webhooks by source", "ops", {"{{source}}": rate("webhooks_total", "source")}),
        Panel("Webhooks by fate", "ops", {"{{fate}}": rate("webhooks_total", "fate")}),
        Panel(
            "Reconciled",
            "short",
            {
                "no webhook told of": more("missed_deployments_total"),
                "rounds {{outcome}}": more("reconcile_rounds_total", "outcome"),
            },
        ),
        Panel(
            "Odd",
            "ops",
            {
                "time unreadable": rate("webhooks_time_unreadable_total"),
                "{{place}} crashed": rate("crashes_total", "place"),
                "answers drifted": rate("drifted_answers_total"),
                "leases lost": rate("leases_lost_total"),
                "handed back": rate("handed_back_total"),
            },
        ),
    ),
    "What waits": (
        Panel(
            "Backlog",
            "short",
            {
                "all": tell("backlog_tickets"),
                "due": tell("backlog_due_tickets"),
                "leased": tell("backlog_leased_tickets"),
                "limit": tell("backlog_limit_tickets"),
            },
        ),
        Panel("Postponed by reason", "ops", {"{{reason}}": rate("postponed_total", "reason")}),
        Panel(
            "In hand",
            "short",
            {"{{instance}}": f"sum by (instance) (enricher_tickets_in_hand{OURS})"},
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
                "{{route}}": tell("budget_calls_left", "route"),
                "in flight": tell("budget_calls_in_flight"),
            },
        ),
        Panel("Budget closed", "s", {"{{reason}}": tell("budget_closed_seconds", "reason")}),
        Panel("Token refused", "bool", {"refused": tell("token_refused")}),
    ),
    "What went out, and what did not": (
        Panel(
            "Stream",
            "short",
            {
                "records": tell("stream_records"),
                "not given to the slowest group": tell("reader_lag_records"),
                "cap": tell("stream_limit_records"),
                "groups": tell("reader_groups"),
            },
        ),
        Panel("Reader lag", "s", {"lag": tell("reader_lag_seconds")}),
        Panel("Failed by reason", "short", {"{{reason}}": tell("failed_tickets", "reason")}),
        Panel("Given up by reason", "ops", {"{{reason}}": rate("given_up_total", "reason")}),
    ),
    "Redis and processes": (
        Panel("Redis round trip", "s", quantiles("redis_round_trip_seconds")),
        Panel("Acts in a round trip", "short", quantiles("redis_group_acts")),
        Panel(
            "Redis up",
            "bool",
            {
                "{{instance}}": f"min by (instance) (enricher_redis_up{OURS})",
                "lost": rate("redis_lost_total"),
            },
        ),
        Panel("Processor", "percentunit", {"{{instance}}": "rate(process_cpu_seconds_total[5m])"}),
        Panel("Memory", "bytes", {"{{instance}}": "process_resident_memory_bytes"}),
        Panel("Version", "short", {"{{version}}": "count by (version) (enricher_build_info)"}),
    ),
}


def write_dashboard() -> str:
    """Give the whole dashboard as JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": top, "w": ACROSS, "h": 1}
        panels.append({"type": "row", "title": title, "gridPos": place, "panels": []})
        top += 1
        for number, panel in enumerate(row):
            down, right = divmod(number * WIDTH, ACROSS)
            place = {"x": right, "y": top + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_write_panel(panel, place))
        top += -(-len(row) * WIDTH // ACROSS) * HEIGHT
    return json.dumps(_frame(panels), indent=1) + "\n"


def _write_panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "enricher-prometheus"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": expr, "legendFormat": legend}
            for number, (legend, expr) in enumerate(panel.asks.items())
        ],
    }


def _frame(panels: list[dict[str, Any]]) -> dict[str, Any]:
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    source = {"type": "prometheus", "uid": "enricher-prometheus"}
    choice = {
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
        "templating": {"list": [choice]},
        "panels": panels,
    }


if __name__ == "__main__":
    FILE.write_text(write_dashboard(), encoding="utf-8")
