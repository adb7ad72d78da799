"""The manifests for Kubernetes follow its schemas, and fit the service."""

import http.client
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from .checks.service import running
from .combination import DEFAULT, find
from .conftest import Baker
from .process import check_output, run
from .project import Project
from .venv import package_bin

VALIDATOR = "kubernetes-validate==1.37.0"
"""Has the schemas of Kubernetes."""

VERSIONS = ("1.30", "1.37")
"""The first with the action `sleep`, and the newest."""

OPERATOR = "cloudcoil-models-prometheus-operator==0.80.1.0"
"""Has models of the resources of the Prometheus Operator."""

READ_MONITOR = """\
import json, sys
from cloudcoil.models.prometheus_operator import v1
monitor = v1.ServiceMonitor.model_validate(json.load(sys.stdin))
print(monitor.model_dump_json(by_alias=True, exclude_unset=True))
"""

MIB = 2**20
BASE_BYTES = 80 * MIB
BYTES_PER_CONNECTION = 19 * 1024

MARGIN_S = 5
DEADLINE_S = 30.0

VARIANTS = [DEFAULT, find("none")]


@pytest.fixture(params=VARIANTS, ids=lambda combination: combination.id)
def project(request: pytest.FixtureRequest, baked: Baker) -> Project:
    """Return a project with every option, and one with none."""
    return baked(request.param)


def manifests(project: Project) -> list[Path]:
    """Return the files with manifests."""
    return sorted((project.root / "deploy" / "kubernetes").rglob("*.yaml"))


def resources(project: Project) -> dict[str, Any]:
    """Return the resources by kind."""
    texts = [path.read_text(encoding="utf-8") for path in manifests(project)]
    found = [resource for text in texts for resource in yaml.safe_load_all(text)]
    by_kind = {resource["kind"]: resource for resource in found}
    assert len(by_kind) == len(found)
    return by_kind


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_the_schemas(project: Project, version: str) -> None:
    program = package_bin(VALIDATOR) / "kubernetes-validate"
    printed = check_output(
        [program, "--strict", "--kubernetes-version", version, *manifests(project)], project.root
    )
    unknown = [line for line in printed.splitlines() if line.startswith("WARN")]
    assert len(unknown) == 1
    assert "kind ServiceMonitor" in unknown[0]


def test_the_directory_can_be_applied_to_a_cluster_without_operators(project: Project) -> None:
    applied = [path for path in manifests(project) if path.parent.name == "kubernetes"]
    assert len(applied) == len(manifests(project)) - 1
    for path in applied:
        for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            group = resource["apiVersion"].rpartition("/")[0]
            assert group in {"", "apps", "policy", "autoscaling", "networking.k8s.io"}


def test_a_misspelt_field_is_found(baked: Baker, tmp_path: Path) -> None:
    project = baked(DEFAULT).copy(tmp_path / "project")
    path = "deploy/kubernetes/scaling.yaml"
    project.write(path, project.read(path).replace("maxUnavailable", "maxUnavailble"))
    done = run([package_bin(VALIDATOR) / "kubernetes-validate", "--strict", path], project.root)
    assert done.returncode == 1
    assert "maxUnavailble" in done.stdout + done.stderr


def test_the_monitor_follows_the_model_of_the_operator(baked: Baker) -> None:
    project = baked(DEFAULT)
    monitor = resources(project)["ServiceMonitor"]
    done = run(
        [package_bin(OPERATOR) / "python", "-c", READ_MONITOR],
        project.root,
        stdin=json.dumps(monitor),
    )
    assert done.returncode == 0, done.stderr
    # The models drop what they do not know.
    assert json.loads(done.stdout) == monitor


def test_resources_refer_to_each_other(project: Project) -> None:
    found = resources(project)
    (name,) = {resource["metadata"]["name"] for resource in found.values()}
    template = found["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
    ]
    if "redis" in project.combination.options:
        selectors.append(found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
        selectors.append(
            template["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
        )
        assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    assert all(selector == labels for selector in selectors)
    monitor = found["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == found["Service"]["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    assert [{"name": "http", "containerPort": image_port(project)}] == container["ports"]
    (port,) = found["Service"]["spec"]["ports"]
    assert (port["name"], port["targetPort"], monitor["endpoints"][0]["port"]) == ("http",) * 3
    (rule,) = found["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": name, "port": {"name": "http"}}
    assert f"https://{rule['host']}" in found["ConfigMap"]["data"]["ALLOWED_ORIGINS"]


def image_port(project: Project) -> int:
    """Return the port on which the image listens."""
    return int(re.findall(r"\bPORT=(\d+)", project.read("Dockerfile"))[0])


def setting(project: Project, name: str) -> float:
    """Return the default of a setting."""
    (default,) = re.findall(rf"^#{name}=(\S+)$", project.read(".env.example"), re.MULTILINE)
    return float(default)


def test_there_are_several_nodes_only_with_redis(project: Project) -> None:
    found = resources(project)
    deployment = found["Deployment"]["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    if "redis" in project.combination.options:
        (required,) = container["env"]
        secret = {"name": found["Deployment"]["metadata"]["name"], "key": "REDIS_URL"}
        assert required == {"name": "REDIS_URL", "valueFrom": {"secretKeyRef": secret}}
        assert "replicas" not in deployment
        assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        (metric,) = found["HorizontalPodAutoscaler"]["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == "ws_connections"
        assert int(metric["pods"]["target"]["averageValue"]) < setting(project, "MAX_CONNECTIONS")
    else:
        assert "env" not in container
        assert deployment["replicas"] == 1
        assert deployment["strategy"] == {"type": "Recreate"}
        assert not found.keys() & {"HorizontalPodAutoscaler", "PodDisruptionBudget"}


def test_there_is_time_to_drain_and_memory_for_connections(project: Project) -> None:
    pod = resources(project)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    stopping_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    stopping_s += setting(project, "SHUTDOWN_GRACE_S")
    assert pod["terminationGracePeriodSeconds"] >= stopping_s + MARGIN_S
    limit = container["resources"]["limits"]["memory"]
    connections = setting(project, "MAX_CONNECTIONS")
    assert int(limit.removesuffix("Mi")) * MIB > BASE_BYTES + connections * BYTES_PER_CONNECTION


def test_silent_clients_outlive_the_time_out_of_the_ingress(project: Project) -> None:
    kind = "HEARTBEAT" if "heartbeat" in project.combination.options else "WS_PING"
    interval_s = setting(project, f"{kind}_INTERVAL_S")
    annotations = resources(project)["Ingress"]["metadata"]["annotations"]
    for name in ("read", "send"):
        assert (
            int(annotations[f"nginx.ingress.kubernetes.io/proxy-{name}-timeout"]) > 2 * interval_s
        )


def test_a_service_with_the_settings_of_the_pod_passes_its_probes(project: Project) -> None:
    found = resources(project)
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    with running(project, ENVIRONMENT="production", **found["ConfigMap"]["data"]) as service:
        for probe in probes:
            connection = http.client.HTTPConnection(
                "127.0.0.1", int(service.port), timeout=DEADLINE_S
            )
            connection.request("GET", probe["path"])
            assert connection.getresponse().status == http.HTTPStatus.OK
            connection.close()
