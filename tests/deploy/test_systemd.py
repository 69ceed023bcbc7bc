"""Would systemd take the units of deploy/systemd, and is what they start locked in?"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Secret, Settings, variable_name

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/deployment-enricher/bin/deployment-enricher"
MOST_EXPOSED = 1.5  # of 10, by systemd's own count; a unit without any of it has 9.6

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.stem))


@pytest.fixture
def systemd_analyze() -> str:
    """Find systemd's own checker."""
    program_path = shutil.which("systemd-analyze")
    if program_path is None:
        pytest.skip("there is no systemd-analyze here: apt install systemd")
    return program_path


def parse_unit(unit: Path) -> dict[str, list[str]]:
    """Read the settings of the service; some stand there more than once."""
    lines = unit.read_text().split("[Service]")[1].split("[Install]")[0].splitlines()
    settings: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


@every_unit
def test_systemd_finds_nothing_wrong(unit: Path, systemd_analyze: str, tmp_path: Path) -> None:
    """Every setting is known, and its value too; the program is there, here another one."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    words = (systemd_analyze, "verify", "--man=no", copy)
    verified = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@every_unit
def test_it_is_locked_in(unit: Path, systemd_analyze: str) -> None:
    """Little of the machine is exposed to it."""
    words = (
        systemd_analyze,
        "security",
        "--offline=true",
        f"--threshold={MOST_EXPOSED * 10:.0f}",
        unit,
    )
    judged = subprocess.run(words, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout


@every_unit
def test_its_environment_is_one_of_settings(unit: Path) -> None:
    """Secrets are credentials, which no other process can read."""
    told, defaults = parse_unit(unit), Settings()
    names = {
        variable_name(field) + ("_FILE" if isinstance(getattr(defaults, field), Secret) else "")
        for field in Settings.__struct_fields__
    }
    given = dict(each.split("=", 1) for each in told["Environment"])
    assert given.keys() <= names
    credentials = {each.partition(":")[0] for each in told["LoadCredential"]}
    assert {value for value in given.values() if value.startswith("%d/")} == {
        f"%d/{name}" for name in credentials
    }


def test_a_worker_tells_what_it_does() -> None:
    """At a port that is not the receiver's: both may run on one machine."""
    given = dict(
        each.split("=", 1)
        for each in parse_unit(FOLDER / "deployment-enricher-worker.service")["Environment"]
    )
    assert int(given["ENRICHER_METRICS_PORT"]) not in {0, Settings().port}


def test_a_worker_has_time_to_end_well() -> None:
    """Longer than its grace; a mistake in the settings is not tried for ever."""
    told = parse_unit(FOLDER / "deployment-enricher-worker.service")
    assert int(told["TimeoutStopSec"][0]) >= Settings().shutdown_timeout + 10
    assert told["RestartPreventExitStatus"] == ["2"]
