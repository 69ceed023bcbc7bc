"""Tests of deploy/systemd: the units are valid, and their services are sandboxed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Secret, Settings, variable_name

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/deployment-enricher/bin/deployment-enricher"
MAX_EXPOSURE = 1.5  # of 10, rated by systemd; a unit without sandboxing has 9.6

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.stem))


@pytest.fixture
def systemd_analyze() -> str:
    """Return the path of systemd-analyze, or skip the test."""
    program_path = shutil.which("systemd-analyze")
    if program_path is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    return program_path


def parse_unit(unit: Path) -> dict[str, list[str]]:
    """Return the settings of the service section. A setting may have several values."""
    lines = unit.read_text().split("[Service]")[1].split("[Install]")[0].splitlines()
    settings: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


@every_unit
def test_units_are_valid(unit: Path, systemd_analyze: str, tmp_path: Path) -> None:
    """Systemd knows every setting and value. Another program replaces the missing one."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    command = (systemd_analyze, "verify", "--man=no", copy)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@every_unit
def test_service_is_sandboxed(unit: Path, systemd_analyze: str) -> None:
    """Systemd rates the exposure of the service as low."""
    command = (
        systemd_analyze,
        "security",
        "--offline=true",
        f"--threshold={MAX_EXPOSURE * 10:.0f}",
        unit,
    )
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@every_unit
def test_environment_contains_only_settings(unit: Path) -> None:
    """Secrets are credentials, which no other process can read."""
    unit_settings, defaults = parse_unit(unit), Settings()
    names = {
        variable_name(field) + ("_FILE" if isinstance(getattr(defaults, field), Secret) else "")
        for field in Settings.__struct_fields__
    }
    given = dict(line.split("=", 1) for line in unit_settings["Environment"])
    assert given.keys() <= names
    credentials = {line.partition(":")[0] for line in unit_settings["LoadCredential"]}
    assert {value for value in given.values() if value.startswith("%d/")} == {
        f"%d/{name}" for name in credentials
    }


def test_worker_has_a_metrics_port_of_its_own() -> None:
    """A receiver and a worker may run on one machine."""
    given = dict(
        line.split("=", 1)
        for line in parse_unit(FOLDER / "deployment-enricher-worker.service")["Environment"]
    )
    assert int(given["ENRICHER_METRICS_PORT"]) not in {0, Settings().port}


def test_stop_timeout_exceeds_shutdown_timeout() -> None:
    """Systemd waits long enough, and does not restart after a configuration error."""
    unit_settings = parse_unit(FOLDER / "deployment-enricher-worker.service")
    assert int(unit_settings["TimeoutStopSec"][0]) >= Settings().shutdown_timeout + 10
    receiver_settings = parse_unit(FOLDER / "deployment-enricher-receiver.service")
    assert int(receiver_settings["TimeoutStopSec"][0]) >= Settings().enqueue_timeout + 10
    assert unit_settings["RestartPreventExitStatus"] == ["2"]
