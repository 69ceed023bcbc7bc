"""Tests of deploy/monitoring: alerts fire, and every name that they and the runbook use exists."""

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.generate import list_metrics
from service.metrics.counters import FAILURE_REASONS
from service.settings import list_settings

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
NAMES = re.findall(r"- alert: (\w+)", ALERTS)
# Fields of Redis's INFO, which the runbook names beside log events.
INFO_FIELDS = {"aof_last_write_status"}
PROCESS_METRICS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


def list_samples() -> set[str]:
    """Return every name that a query may use."""
    return {name for _, samples, _ in list_metrics().values() for name in samples}


def promtool_path() -> str:
    """Return the path of promtool; skip the test without it, or fail it in CI."""
    local_path = ROOT / ".tool" / "prometheus" / "usr" / "bin"
    program_path = shutil.which("promtool") or shutil.which("promtool", path=local_path)
    if program_path is None:
        reason = "promtool is not installed (Debian, Ubuntu: it is in the package prometheus)"
        if os.environ.get("CI") or os.environ.get("GATE"):
            pytest.fail(f"{reason}: the alerts cannot be tested")
        pytest.skip(reason)
    return program_path


@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_accepts_the_files(arguments: tuple[str, ...]) -> None:
    """The configuration is valid; each alert fires when it must, and only then."""
    command = [promtool_path(), *arguments]
    ran = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_use_metrics_that_exist() -> None:
    """No rule, and no test of a rule, names another."""
    rule_tests = (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"enricher_\w+", ALERTS + rule_tests))
    assert used
    assert used <= list_samples()


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    """alerts_test.yml names each alert in both ways."""
    rule_tests = (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"{{ eval_time: 110m, alertname: {name} }}" in rule_tests
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n", rule_tests), name
    assert set(re.findall(r"alertname: (\w+)", rule_tests)) == set(NAMES)


def test_every_alert_has_its_section_in_the_runbook() -> None:
    """It has a meaning, checks and a fix, and the annotation of the alert links to it."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(NAMES)
    for section in sections.values():
        assert re.findall(r"^\*\*(.+?)\*\*", section, re.MULTILINE) == ["Meaning", "Check", "Fix"]
    links = re.findall(r"runbook: deploy/monitoring/runbook\.md#(\w+)", ALERTS)
    assert links == [name.lower() for name in NAMES]


def test_the_runbook_names_panels_settings_and_log_events_that_exist() -> None:
    """Whatever it tells a person to look at can be found."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    titles = {panel["title"] for panel in read_dashboard()["panels"]}
    assert set(re.findall(r"(?<!\*)\*([A-Z][\w ]+)\*(?!\*)", runbook)) <= titles
    assert set(re.findall(r"`(ENRICHER_\w+)`", runbook)) <= {name for name, _, _ in list_settings()}
    events = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", runbook)) - {*FAILURE_REASONS}
    service = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "service").rglob("*.py"))
    literals = set(re.findall(r"[\"']([a-z_]+?)_?[\"'{]", service))
    assert {event for event in events if event not in literals} <= INFO_FIELDS


def test_the_runbook_explains_every_reason_of_a_failed_ticket() -> None:
    """The label that the alert shows is in the table."""
    runbook = (MONITORING / "runbook.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| reason \|.*?\n\n", runbook, re.MULTILINE | re.DOTALL)
    cells = [row.split(" | ")[0] for row in table.splitlines()]
    explained = {reason for cell in cells for reason in re.findall(r"`(\w+)`", cell)}
    assert explained == {*FAILURE_REASONS} - {"other"}


def read_dashboard() -> dict[str, list[dict[str, str]]]:
    """Return the dashboard that Grafana reads."""
    file = MONITORING / "grafana" / "dashboards" / "deployment-enricher.json"
    dashboard: dict[str, list[dict[str, str]]] = json.loads(file.read_text(encoding="utf-8"))
    return dashboard


def test_the_dashboard_is_current_and_shows_every_metric() -> None:
    """dashboard.py writes it; it uses every metric of the service and no other."""
    rendered = runpy.run_path(str(MONITORING / "dashboard.py"))["render_dashboard"]()
    assert json.loads(rendered) == read_dashboard()
    used = set(re.findall(r"(?:enricher|process)_[a-z_]+", json.dumps(read_dashboard()["panels"])))
    assert used <= list_samples() | PROCESS_METRICS
    shown = {name for name, (_, samples, _) in list_metrics().items() if samples & used}
    assert shown >= {name for name in list_metrics() if name.startswith("enricher_")}
