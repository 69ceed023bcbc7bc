"""Tests of the text of Dockerfile and docker-compose.yml: they match the version and settings."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from service import __version__
from service.app import is_console_enabled
from service.metrics.http import MAX_HEADER_BYTES
from service.settings import Secret, Settings, read_settings, variable_name

ROOT = Path(__file__).resolve().parents[2]
COMPOSITION: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMPOSE: dict[str, Any] = COMPOSITION["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
OWN_SERVICES = {name: service for name, service in COMPOSE.items() if "build" in service}

MONITORING = ["monitoring"]  # third-party images with their own needs
every_service = pytest.mark.parametrize(
    "name", [name for name, service in COMPOSE.items() if service.get("profiles") != MONITORING]
)


def test_composition_has_only_known_services_and_networks() -> None:
    """The test lists every service, network and volume."""
    names = {
        "redis",
        "receiver",
        "proxy",
        "worker",
        "simulator",
        "pipeline",
        "prometheus",
        "grafana",
        "notes",
        "dora",
    }
    assert COMPOSE.keys() == names
    assert COMPOSITION["networks"] == {"default": {}, "store": {"internal": True}}
    used = {
        network for service in COMPOSE.values() for network in service.get("networks", ["default"])
    }
    assert used == COMPOSITION["networks"].keys()
    mounted = {
        volume.partition(":")[0]
        for service in COMPOSE.values()
        for volume in service.get("volumes", ())
    }
    assert {volume for volume in mounted if "/" not in volume} == COMPOSITION["volumes"].keys()


def test_versions_are_equal() -> None:
    """The image label, the image tag and the package have the same version."""
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE
    tags = {service["image"] for service in OWN_SERVICES.values()}
    version = f"${{ENRICHER_VERSION:-{__version__}}}"
    assert tags == {f"deployment-enricher:{version}"}
    arguments = [service["build"]["args"] for service in OWN_SERVICES.values()]
    revision = "${ENRICHER_REVISION:-unknown}"
    assert arguments == [{"VERSION": version, "REVISION": revision}] * len(arguments)
    assert DOCKERFILE.count(f"ARG VERSION={__version__}\n") == 2  # of both stages


def test_every_variable_of_the_composition_is_explained_in_the_example() -> None:
    """`.env.example` names each variable with its default, and git ignores `.env`."""
    text = (ROOT / "docker-compose.yml").read_text()
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    demo_only = {"DORA_PORT", "SIMULATOR_OPTIONS", "SIMULATOR_PORT"}
    example = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"^#(\w+)=(.*)$", example, re.MULTILINE))
    assert named.keys() == used.keys() - demo_only - {"ENRICHER_REVISION"}
    differing = {name for name, value in named.items() if used[name] != value}
    assert differing == {"ENRICHER_RECEIVERS", "ENRICHER_WORKERS"}  # the example shows two
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_proxy_passes_what_a_receiver_takes() -> None:
    """The proxy finds receivers again each second, tries another one, and limits less than they."""
    (line,) = COMPOSE["proxy"]["volumes"]
    path = line.split(":")[0]
    text = (ROOT / path).read_text()
    port = COMPOSE["receiver"]["environment"]["ENRICHER_PORT"]
    assert f"set $receivers http://receiver:{port};" in text
    assert "resolver 127.0.0.11 valid=1s" in text
    assert "proxy_next_upstream error timeout http_503 non_idempotent;" in text
    seconds = re.findall(r"proxy_next_upstream_timeout (\d+)s;", text)
    # Receivers wait for the same Redis, so the proxy asks one of them only.
    assert [int(second) < Settings().enqueue_timeout for second in seconds] == [True]
    assert "client_max_body_size 0;" in text
    assert f"large_client_header_buffers 4 {MAX_HEADER_BYTES >> 10}k;" in text


def test_image_installs_only_locked_packages() -> None:
    """Packages are installed with hashes in a build stage; only their result is copied."""
    build, final = DOCKERFILE.split("\nFROM ")[1:]
    assert '"--require-hashes", "-r", "deploy/requirements.lock"' in build
    assert re.findall(r"^(?:COPY|ADD) .*", final, re.MULTILINE) == [
        "COPY --from=build /opt/enricher /opt/enricher"
    ]
    assert "\nUSER 10001:10001\n" in final


def test_image_installs_tracing_only_on_request() -> None:
    """The build argument uses a lock of its own, which the build context includes."""
    build = DOCKERFILE.split("\nFROM ")[1]
    match = re.search(r'\nARG TRACES=""\n.*\nRUN if \[ -n "\$TRACES" \]; then (.*\n.*); fi', build)
    assert match is not None
    assert "--require-hashes -r deploy/requirements-otel.lock" in match[1]
    assert "!deploy/requirements-otel.lock" in (ROOT / ".dockerignore").read_text().split()
    lock = (ROOT / "deploy" / "requirements-otel.lock").read_text()
    assert "\nopentelemetry-exporter-otlp-proto-http==" in lock


@pytest.mark.parametrize("name", OWN_SERVICES)
def test_environment_contains_only_settings(name: str) -> None:
    """No other name is set, and secrets come from mounted files."""
    service, defaults = OWN_SERVICES[name], Settings()
    known = {
        variable_name(field) + ("_FILE" if isinstance(getattr(defaults, field), Secret) else "")
        for field in Settings.__struct_fields__
    }
    given: dict[str, str] = service.get("environment", {})
    assert given.keys() <= known | {"ENRICHER_REDIS_URL"}  # without a password here
    files = {path for path in given.values() if path.startswith("/run/secrets/")}
    assert files == {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}


def test_demo_enables_console_and_optional_env_file_is_shared() -> None:
    """The demo file has valid settings; receiver and worker read the same optional file."""
    demo = ROOT / "deploy" / "demo"
    lines = (demo / "enricher.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert is_console_enabled(replace(read_settings(given), host="0.0.0.0"))  # noqa: S104 - address of the receiver
    [env_file] = COMPOSE["receiver"]["env_file"]
    assert COMPOSE["worker"]["env_file"] == [env_file]
    assert env_file["required"] is False
    assert "ENRICHER_ENV_FILE=./deploy/demo/enricher.env\n" in (demo / "demo.env").read_text()
    default_path = env_file["path"].removeprefix("${ENRICHER_ENV_FILE:-./").removesuffix("}")
    assert default_path in (ROOT / ".gitignore").read_text().splitlines()


@every_service
def test_service_is_limited_and_locked_down(name: str) -> None:
    """Every service has limits for memory, processes and logs, and few rights."""
    service = COMPOSE[name]
    assert {"mem_limit", "pids_limit", "cpus", "logging", "stop_grace_period"} <= service.keys()
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"


def test_ports_are_published_to_localhost_only() -> None:
    """By default no other machine can connect, and Redis is not published at all."""
    published = {name: service.get("ports", []) for name, service in COMPOSE.items()}
    assert published["redis"] == published["receiver"] == []
    assert COMPOSE["redis"]["networks"] == ["store"]
    for port in (port for ports in published.values() for port in ports):
        assert port.startswith(("127.0.0.1:", "${ENRICHER_PUBLISH:-127.0.0.1:"))


def test_prometheus_scrapes_every_metrics_port() -> None:
    """Prometheus scrapes receiver and worker at their configured ports."""
    text = (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text()
    jobs = (job["dns_sd_configs"] for job in yaml.safe_load(text)["scrape_configs"])
    scraped = {name: target["port"] for (target,) in jobs for name in target["names"]}
    ports = ("ENRICHER_PORT", "ENRICHER_METRICS_PORT")
    metrics_ports = {
        name: int(given[port])
        for name, service in OWN_SERVICES.items()
        for given in [service.get("environment", {})]
        for port in ports
        if port in given
    }
    assert scraped == metrics_ports
    assert metrics_ports.keys() == {"receiver", "worker"}


def test_stop_grace_period_exceeds_shutdown_timeout() -> None:
    """Docker waits longer than a process needs to stop."""
    seconds = {
        name: int(service["stop_grace_period"].rstrip("s"))
        for name, service in OWN_SERVICES.items()
    }
    assert seconds["worker"] >= Settings().shutdown_timeout + 10
    assert seconds["receiver"] >= Settings().enqueue_timeout + 10
