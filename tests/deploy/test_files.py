"""Do Dockerfile and docker-compose.yml fit this version and its settings? Read, not run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from service import __version__
from service.app import is_console_enabled
from service.settings import Secret, Settings, read_settings, variable_name

ROOT = Path(__file__).resolve().parents[2]
COMPOSITION: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE: dict[str, Any] = COMPOSITION["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
OWN_SERVICES = {name: told for name, told in COMPOSE.items() if "build" in told}

MONITORING = ["monitoring"]  # images of others, which need what they need
every_service = pytest.mark.parametrize(
    "name", [name for name, told in COMPOSE.items() if told.get("profiles") != MONITORING]
)


def test_everything_stands_where_it_belongs() -> None:
    """What runs is a service, whoever added it last; a network is only a network."""
    named = {
        "redis",
        "receiver",
        "worker",
        "simulator",
        "pipeline",
        "prometheus",
        "grafana",
        "notes",
    }
    assert COMPOSE.keys() == named
    assert COMPOSITION["networks"] == {"default": {}, "store": {"internal": True}}
    used = {network for told in COMPOSE.values() for network in told.get("networks", ["default"])}
    assert used == COMPOSITION["networks"].keys()
    mounted = {
        each.partition(":")[0] for told in COMPOSE.values() for each in told.get("volumes", ())
    }
    assert {each for each in mounted if "/" not in each} == COMPOSITION["volumes"].keys()


def test_the_version_is_one() -> None:
    """The label of the image, the tag of the composition, and the package."""
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    tags = {told["image"] for told in OWN_SERVICES.values()}
    assert tags == {f"deployment-enricher:${{ENRICHER_VERSION:-{__version__}}}"}


def test_the_image_installs_what_is_locked_only() -> None:
    """With hashes, in a stage of its own, of which only the result is kept."""
    build, final = DOCKERFILE.split("\nFROM ")[1:]
    assert '"--require-hashes", "-r", "deploy/requirements.lock"' in build
    assert re.findall(r"^(?:COPY|ADD) .*", final, re.MULTILINE) == [
        "COPY --from=build /opt/enricher /opt/enricher"
    ]
    assert "\nUSER 10001:10001\n" in final


def test_the_image_has_the_extra_for_traces_only_where_it_is_told_to() -> None:
    """From a lock of its own, which is let into the build."""
    build = DOCKERFILE.split("\nFROM ")[1]
    asked = re.search(r'\nARG TRACES=""\n.*\nRUN if \[ -n "\$TRACES" \]; then (.*\n.*); fi', build)
    assert asked is not None
    assert "--require-hashes -r deploy/requirements-otel.lock" in asked[1]
    assert "!deploy/requirements-otel.lock" in (ROOT / ".dockerignore").read_text().split()
    lock = (ROOT / "deploy" / "requirements-otel.lock").read_text()
    assert "\nopentelemetry-exporter-otlp-proto-http==" in lock


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_its_environment_is_one_of_settings(name: str) -> None:
    """No other name is set; secrets come from files that are mounted."""
    told, defaults = OWN_SERVICES[name], Settings()
    known = {
        variable_name(field) + ("_FILE" if isinstance(getattr(defaults, field), Secret) else "")
        for field in Settings.__struct_fields__
    }
    given: dict[str, str] = told.get("environment", {})
    assert given.keys() <= known | {"ENRICHER_REDIS_URL"}  # which holds no password here
    files = {path for path in given.values() if path.startswith("/run/secrets/")}
    assert files == {f"/run/secrets/{secret}" for secret in told.get("secrets", ())}


def test_the_demo_shows_its_console_and_every_other_setting_has_a_place() -> None:
    """What the demo sets is a setting; receivers and workers read the same optional file."""
    demo = ROOT / "deploy" / "demo"
    lines = (demo / "enricher.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert is_console_enabled(replace(read_settings(given), host="0.0.0.0"))  # noqa: S104 - the receiver's
    [place] = COMPOSE["receiver"]["env_file"]
    assert COMPOSE["worker"]["env_file"] == [place]
    assert place["required"] is False
    assert "ENRICHER_ENV_FILE=./deploy/demo/enricher.env\n" in (demo / "demo.env").read_text()
    usual = place["path"].removeprefix("${ENRICHER_ENV_FILE:-./").removesuffix("}")
    assert usual in (ROOT / ".gitignore").read_text().splitlines()


@every_service
def test_it_is_bounded_and_locked(name: str) -> None:
    """Whatever is added to the composition: memory, processes, log files, rights."""
    told = COMPOSE[name]
    assert {"mem_limit", "pids_limit", "cpus", "logging", "stop_grace_period"} <= told.keys()
    assert (told["read_only"], told["cap_drop"]) == (True, ["ALL"])
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["restart"] == "unless-stopped"


def test_only_this_machine_is_published_to() -> None:
    """Nobody is reachable from elsewhere before somebody says so; Redis is not published at all."""
    published = {name: told.get("ports", []) for name, told in COMPOSE.items()}
    assert published["redis"] == []
    assert COMPOSE["redis"]["networks"] == ["store"]
    for port in (port for ports in published.values() for port in ports):
        assert port.startswith(("127.0.0.1:", "${ENRICHER_PUBLISH:-127.0.0.1:"))


def test_prometheus_looks_where_they_tell() -> None:
    """Each process of the composition that counts is scraped, at the port that it is given."""
    text = (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text()
    jobs = (job["dns_sd_configs"] for job in yaml.safe_load(text)["scrape_configs"])
    scraped = {name: place["port"] for (place,) in jobs for name in place["names"]}
    ports = ("ENRICHER_PORT", "ENRICHER_METRICS_PORT")
    told = {
        name: int(given[port])
        for name, each in OWN_SERVICES.items()
        for given in [each.get("environment", {})]
        for port in ports
        if port in given
    }
    assert scraped == told
    assert told.keys() == {"receiver", "worker"}


def test_there_is_time_to_end_well() -> None:
    """A worker's is longer than its grace."""
    seconds = {
        name: int(told["stop_grace_period"].rstrip("s")) for name, told in OWN_SERVICES.items()
    }
    assert seconds["worker"] >= Settings().shutdown_timeout + 10
    assert seconds["receiver"] >= 5 + 10
