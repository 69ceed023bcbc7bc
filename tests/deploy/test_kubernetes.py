"""Tests of deploy/kubernetes: the manifests are valid and match the service."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service import __version__
from service.settings import Secret, Settings, variable_name

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KEDA_API = "keda.sh/v1alpha1"  # not part of Kubernetes
MARGIN_S = 10  # time to close connections after the grace time


def read_objects() -> list[dict[str, Any]]:
    """Return every object of every file."""
    return [object_ for file in FILES for object_ in yaml.safe_load_all(file.read_text())]


def find_object(kind: str, name: str) -> dict[str, Any]:
    """Return one object."""
    (match,) = [
        candidate
        for candidate in read_objects()
        if (candidate["kind"], candidate["metadata"]["name"]) == (kind, name)
    ]
    return match


DEPLOYMENTS = [item["metadata"]["name"] for item in read_objects() if item["kind"] == "Deployment"]
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.34", "1.37"])
def test_objects_are_valid_in_every_version(version: str) -> None:
    """The strict schemas of several versions allow no unknown field."""
    checked = [item for item in read_objects() if item["apiVersion"] != KEDA_API]
    for item in checked:
        kubernetes_validate.validate(item, version, strict=True)
    assert {item["kind"] for item in checked} == {
        *("Deployment", "PodDisruptionBudget", "Secret", "Service")
    }


def test_unknown_field_is_refused() -> None:
    """The schemas are strict."""
    manifest = find_object("Deployment", "enricher-receiver")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


@every_deployment
def test_pod_runs_unprivileged(name: str) -> None:
    """No root, no capability, no new privilege, no cluster token, a read-only disk."""
    pod = find_object("Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@every_deployment
def test_environment_contains_only_settings(name: str) -> None:
    """Kubernetes adds no other variable, and secrets are files from the Secret."""
    pod = find_object("Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    defaults = Settings()
    secrets = [
        variable_name(field)
        for field in Settings.__struct_fields__
        if isinstance(getattr(defaults, field), Secret)
    ]
    plain = {variable_name(field) for field in Settings.__struct_fields__} - {*secrets}
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    assert given.keys() <= plain | {f"{secret}_FILE" for secret in secrets}
    assert pod["enableServiceLinks"] is False
    mount = container["volumeMounts"][0]["mountPath"]
    items = {item["path"] for item in pod["volumes"][0]["secret"]["items"]}
    files = {path for name, path in given.items() if name.endswith("_FILE")}
    assert files == {f"{mount}/{item}" for item in items}
    assert items <= find_object("Secret", "enricher")["stringData"].keys()


@every_deployment
def test_termination_grace_period_exceeds_shutdown_timeout(name: str) -> None:
    """Kubernetes waits longer than the service needs to stop. The image has this version."""
    pod = find_object("Deployment", name)["spec"]["template"]["spec"]
    # A receiver needs 5 s until it gets no new connections, then time for open requests.
    settings = Settings()
    needs = settings.shutdown_timeout if name.endswith("worker") else 5 + settings.enqueue_timeout
    assert pod["terminationGracePeriodSeconds"] >= needs + MARGIN_S
    assert pod["containers"][0]["image"] == f"deployment-enricher:{__version__}"


def test_selectors_match_the_pods() -> None:
    """Service, disruption budgets and KEDA select existing objects."""
    for name in DEPLOYMENTS:
        deployment = find_object("Deployment", name)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
        budget = find_object("PodDisruptionBudget", name)["spec"]
        assert budget["selector"]["matchLabels"] == labels
    service = find_object("Service", "enricher-receiver")["spec"]
    receiver = find_object("Deployment", "enricher-receiver")["spec"]["template"]
    assert service["selector"] == receiver["metadata"]["labels"]
    (port,) = receiver["spec"]["containers"][0]["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]


@every_deployment
def test_probes_use_the_configured_port(name: str) -> None:
    """Probes and metrics use the port of the settings, on all addresses of the pod."""
    (container,) = find_object("Deployment", name)["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    variable, port_name = {
        "enricher-receiver": ("ENRICHER_PORT", "http"),
        "enricher-worker": ("ENRICHER_METRICS_PORT", "metrics"),
    }[name]
    assert given["ENRICHER_HOST"] == "0.0.0.0"  # noqa: S104 - all addresses of the pod
    assert container["ports"] == [{"name": port_name, "containerPort": int(given[variable])}]
    probes = [
        value["httpGet"]
        for key, value in container.items()
        if key.endswith("Probe") and "httpGet" in value
    ]
    assert {probe["port"] for probe in probes} == {port_name}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_keda_scales_workers() -> None:
    """The target exists, KEDA knows each field of the trigger, and numbers are strings."""
    scaled = find_object("ScaledObject", "enricher-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert scaled["minReplicaCount"] >= 1
    (trigger,) = scaled["triggers"]
    known = {"serverAddress", "query", "threshold", "activationThreshold"}
    assert (trigger["type"], trigger["metadata"].keys()) == ("prometheus", known)
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
