"""Do alerts, dashboard, runbook and README speak of what there is, and do the alerts fire?"""

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.metrics.counters import FAILURE_REASONS, Metrics
from service.metrics.namespace import NamespaceStats, collect_gauges

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
NAMES = re.findall(r"- alert: (\w+)", ALERTS)
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROCESS_METRICS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}

EMPTY = NamespaceStats(
    backlog=0,
    due=0,
    leased=0,
    overdue_s=0,
    oldest_age_s=0,
    records=0,
    reader_groups=0,
    lag_records=0,
    lag_s=0,
    closed_s=0,
    closed_reason="",
    in_flight=0,
    calls_left={"get": 0},
    failed={"other": 0},
)


def list_metrics() -> dict[str, tuple[str, set[str], str]]:
    """List what a worker's exposition has: by name its kind, its samples and its meaning."""
    metrics = Metrics(CollectorRegistry())
    metrics.set_limits(tickets=1, records=1)
    metrics.initialize_sources(["native"])
    metrics.add_worker(lambda: 0)
    metrics_by_name = {}
    for family in (*metrics.registry.collect(), *collect_gauges(EMPTY)):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        samples = {sample.name for sample in family.samples if "_created" not in sample.name}
        metrics_by_name[family.name + suffix] = (family.type, samples, family.documentation)
    return metrics_by_name


def list_samples() -> set[str]:
    """List every name that may be asked for."""
    return {name for _, samples, _ in list_metrics().values() for name in samples}


def promtool_path() -> str:
    """Find promtool; the gate must not pass without it."""
    local_path = ROOT / ".tool" / "prometheus" / "usr" / "bin"
    program_path = shutil.which("promtool") or shutil.which("promtool", path=local_path)
    if program_path is None:
        reason = "promtool is not installed (Debian, Ubuntu: it is in the package prometheus)"
        if os.environ.get("CI") or os.environ.get("GATE"):
            pytest.fail(f"{reason}: the alerts cannot be tried")
        pytest.skip(reason)
    return program_path


@pytest.mark.parametrize(
    "words", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    """The configuration is valid; each alert fires when it must, and only then."""
    command = [promtool_path(), *words]
    ran = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """No rule, and no test of a rule, names one that nobody exposes."""
    tried = (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"enricher_\w+", ALERTS + tried))
    assert asked
    assert asked <= list_samples()


def test_every_alert_is_tried_both_ways() -> None:
    """One of its tests expects that it fires, and one that it does not."""
    tried = (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"{{ eval_time: 110m, alertname: {name} }}" in tried
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n", tried), name
    assert set(re.findall(r"alertname: (\w+)", tried)) == set(NAMES)


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """What it means, what to look at, what to do; and its annotation leads there."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(NAMES)
    for section in sections.values():
        assert re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE) == ["Means", "Look at", "Do"]
    links = re.findall(r"runbook: deploy/monitoring/runbook\.md#(\w+)", ALERTS)
    assert links == [name.lower() for name in NAMES]


def test_the_runbook_speaks_of_what_there_is() -> None:
    """Panels and settings that it sends a person to exist."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    titles = {panel["title"] for panel in read_dashboard()["panels"]}
    assert set(re.findall(r"(?<!\*)\*([A-Z][\w ]+)\*(?!\*)", runbook)) <= titles
    assert set(re.findall(r"`(ENRICHER_\w+)`", runbook)) <= set(re.findall(r"ENRICHER_\w+", README))


def test_the_runbook_knows_every_reason_of_a_failure() -> None:
    """Whoever is called by the alert finds the label that it shows."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| reason \|.*?\n\n", runbook, re.MULTILINE | re.DOTALL)
    cells = [row.split(" | ")[0] for row in table.splitlines()]
    told = {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)}
    assert told == {*FAILURE_REASONS} - {"other"}


def read_dashboard() -> dict[str, list[dict[str, str]]]:
    """Read the file that Grafana reads."""
    file = MONITORING / "grafana" / "dashboards" / "deployment-enricher.json"
    dashboard: dict[str, list[dict[str, str]]] = json.loads(file.read_text(encoding="utf-8"))
    return dashboard


def test_the_dashboard_is_the_one_described() -> None:
    """It is written by its description, shows every metric of ours, and asks for no other."""
    described = runpy.run_path(str(MONITORING / "dashboard.py"))["render_dashboard"]()
    assert json.loads(described) == read_dashboard()
    asked = set(re.findall(r"(?:enricher|process)_[a-z_]+", json.dumps(read_dashboard()["panels"])))
    assert asked <= list_samples() | PROCESS_METRICS
    shown = {name for name, (_, samples, _) in list_metrics().items() if samples & asked}
    assert shown >= {name for name in list_metrics() if name.startswith("enricher_")}


def test_the_readme_lists_every_metric() -> None:
    """With its kind and its meaning, in the order of the exposition."""
    expected = [
        f"| `{name}` | {kind} | {meaning} |"
        for name, (kind, _, meaning) in list_metrics().items()
        if name.startswith("enricher_")
    ]
    rows = [line for line in README.splitlines() if line.startswith("| `enricher_")]
    assert rows == expected
