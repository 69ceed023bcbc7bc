"""Would a cluster take the manifests of deploy/kubernetes, and do they fit the service?"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service import __version__
from service.settings import Secret, Settings, variable_name

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
OWN_IMAGE = "keda.sh/v1alpha1"  # no part of Kubernetes
MARGIN_S = 10  # for closing what is open, after the grace time


def read_objects() -> list[dict[str, Any]]:
    """Read every object of every file."""
    return [object_ for file in FILES for object_ in yaml.safe_load_all(file.read_text())]


def find_object(kind: str, name: str) -> dict[str, Any]:
    """Find one object."""
    (match,) = [
        candidate
        for candidate in read_objects()
        if (candidate["kind"], candidate["metadata"]["name"]) == (kind, name)
    ]
    return match


DEPLOYMENTS = [each["metadata"]["name"] for each in read_objects() if each["kind"] == "Deployment"]
every_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.34", "1.37"])
def test_every_object_is_valid(version: str) -> None:
    """By the strict schemas of several versions: no field that is unknown there."""
    checked = [each for each in read_objects() if each["apiVersion"] != OWN_IMAGE]
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)
    assert {each["kind"] for each in checked} == {
        *("Deployment", "PodDisruptionBudget", "Secret", "Service")
    }


def test_a_mistake_would_be_seen() -> None:
    """The schemas are strict."""
    wrong = find_object("Deployment", "enricher-receiver")
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


@every_deployment
def test_a_pod_runs_as_nobody(name: str) -> None:
    """No root, no capability, no new privilege, no token of the cluster, a read-only disk."""
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
def test_its_environment_is_one_of_settings(name: str) -> None:
    """No other name is set, by us or by Kubernetes; secrets are files, mounted from the Secret."""
    pod = find_object("Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    defaults = Settings()
    secrets = [
        variable_name(field)
        for field in Settings.__struct_fields__
        if isinstance(getattr(defaults, field), Secret)
    ]
    plain = {variable_name(field) for field in Settings.__struct_fields__} - {*secrets}
    given = {each["name"]: each["value"] for each in container["env"]}
    assert given.keys() <= plain | {f"{secret}_FILE" for secret in secrets}
    assert pod["enableServiceLinks"] is False
    mount = container["volumeMounts"][0]["mountPath"]
    items = {each["path"] for each in pod["volumes"][0]["secret"]["items"]}
    files = {path for variable, path in given.items() if variable.endswith("_FILE")}
    assert files == {f"{mount}/{item}" for item in items}
    assert items <= find_object("Secret", "enricher")["stringData"].keys()


@every_deployment
def test_it_has_time_to_end_well(name: str) -> None:
    """Longer than a worker's grace; the image is that of this version."""
    pod = find_object("Deployment", name)["spec"]["template"]["spec"]
    needs = (
        Settings().shutdown_timeout if name.endswith("worker") else 5 + 5
    )  # until unknown, then in hand
    assert pod["terminationGracePeriodSeconds"] >= needs + MARGIN_S
    assert pod["containers"][0]["image"] == f"deployment-enricher:{__version__}"


def test_what_selects_finds() -> None:
    """Service, budgets of disruption and KEDA name what is there."""
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
def test_whatever_it_tells_is_asked_at_a_named_port(name: str) -> None:
    """Of all addresses, at the port that its settings say; each probe over HTTP goes there."""
    (container,) = find_object("Deployment", name)["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    variable, named = {
        "enricher-receiver": ("ENRICHER_PORT", "http"),
        "enricher-worker": ("ENRICHER_METRICS_PORT", "metrics"),
    }[name]
    assert given["ENRICHER_HOST"] == "0.0.0.0"  # noqa: S104 - a pod's own network
    assert container["ports"] == [{"name": named, "containerPort": int(given[variable])}]
    asked = [
        each["httpGet"]
        for key, each in container.items()
        if key.endswith("Probe") and "httpGet" in each
    ]
    assert {each["port"] for each in asked} == {named}
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_keda_scales_workers() -> None:
    """The target is there, each field of the trigger is one that KEDA knows, numbers are text."""
    scaled = find_object("ScaledObject", "enricher-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert scaled["minReplicaCount"] >= 1
    (trigger,) = scaled["triggers"]
    known = {"serverAddress", "query", "threshold", "activationThreshold"}
    assert (trigger["type"], trigger["metadata"].keys()) == ("prometheus", known)
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
