"""The manifests as kubectl renders them: valid, hardened, and in agreement with the service."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from tests.system import require_tool

K8S = Path(__file__).parents[2] / "k8s"
# The oldest version that has all we use, and the newest that is known.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
OPERATOR = "monitoring.coreos.com/v1"

Manifest = dict[str, Any]


def render(folder: str) -> list[Manifest]:
    kubectl = require_tool("kubectl")
    done = subprocess.run([kubectl, "kustomize", K8S / folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["base", "overlays/example", "overlays/ray"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param)


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return render("base")


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    return next(m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name)


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(manifests: list[Manifest], container: Manifest) -> dict[str, str]:
    """What the container sees; "" where only the cluster knows the value."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        values |= find(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return values | {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_fits_the_schema_of_its_kind(manifests: list[Manifest], version: str) -> None:
    """Nothing is misspelt: the strict schemas know no additional fields."""
    known = [manifest for manifest in manifests if manifest["apiVersion"] != OPERATOR]
    for manifest in known:
        kubernetes_validate.validate(manifest, version, strict=True)
    assert len(known) == len(manifests) - 2


def test_the_base_has_every_part(base: list[Manifest]) -> None:
    """One kind missing would be one promise missing."""
    assert {m["kind"] for m in base} == {
        "Namespace", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Deployment", "Service",
        "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule",
    }  # fmt: skip
    assert {m["metadata"].get("namespace", "fovea") for m in base} == {"fovea"}
    namespace = find(base, "Namespace", "fovea")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_fulfil_the_restricted_pod_security_standard(manifests: list[Manifest]) -> None:
    """Each rule of the standard "restricted", which the namespace enforces; a pod that breaks one would not start."""
    allowed_volumes = {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
    }  # fmt: skip
    pods = dict(pod_specs(manifests))
    assert set(pods) - {"fovea-ray-head", "fovea-ray-node"} == {"fovea-serving", "fovea-trainer"}
    for pod in pods.values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all(set(volume) - {"name"} <= allowed_volumes for volume in pod["volumes"])
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] != 0
        assert context["seccompProfile"]["type"] == "RuntimeDefault"
        assert not {"sysctls", "seLinuxOptions", "appArmorProfile"} & context.keys()
        for container in containers(pod):
            confined = container["securityContext"]
            # Nothing else is set, so nothing of the pod's is taken back.
            assert confined == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_pods_have_no_rights_in_the_cluster(manifests: list[Manifest]) -> None:
    """Fovea never calls the Kubernetes API, so a pod that is broken into holds no token for it."""
    for _, pod in pod_specs(manifests):
        assert pod["serviceAccountName"] == "fovea"
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


def test_every_container_has_requests_and_limits(manifests: list[Manifest]) -> None:
    """Without them one container could starve the others of its node."""
    for _, pod in pod_specs(manifests):
        for container in containers(pod):
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def test_serving_is_probed_where_the_service_answers(base: list[Manifest]) -> None:
    """Startup, liveness and readiness each ask their own route, so a slow load is not taken for a hung process."""
    [container] = find(base, "Deployment", "fovea-serving")["spec"]["template"]["spec"]["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/health/startup", "port": "http"},
        "liveness": {"path": "/health/live", "port": "http"},
        "readiness": {"path": "/health/ready", "port": "http"},
    }
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 120
    port = next(port for port in container["ports"] if port["name"] == "http")
    assert str(port["containerPort"]) == environment(base, container)["FOVEA_PORT"]


def test_a_pod_is_killed_only_after_its_requests_had_their_time(base: list[Manifest]) -> None:
    """The pause before SIGTERM and the service's own grace fit into the time that the pod gets."""
    pod = find(base, "Deployment", "fovea-serving")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    grace = float(environment(base, container)["FOVEA_SHUTDOWN_GRACE"])
    assert int(seconds) + grace + 5 <= pod["terminationGracePeriodSeconds"]


def test_serving_pods_queue_jobs_and_one_trainer_runs_them(base: list[Manifest]) -> None:
    """The executor, the command and the image of each; a second trainer never lives beside the first."""
    serving = find(base, "Deployment", "fovea-serving")["spec"]["template"]["spec"]["containers"][0]
    assert serving["args"] == ["serve"]
    assert serving["image"].split(":")[0] == "fovea"
    assert environment(base, serving)["FOVEA_EXECUTOR"] == "none"

    deployment = find(base, "Deployment", "fovea-trainer")["spec"]
    trainer = deployment["template"]["spec"]["containers"][0]
    assert trainer["args"] == ["worker"]
    assert trainer["image"].split(":")[0] == "fovea-full"
    assert environment(base, trainer)["FOVEA_EXECUTOR"] == "local"
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")


def test_serving_and_trainer_share_the_model_store_and_the_workspace(base: list[Manifest]) -> None:
    """Both mount the same claims where the settings say; the claims can be mounted on several nodes at once."""
    for _, pod in pod_specs(base):
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if len(v) == 2
                  and "persistentVolumeClaim" in v}  # fmt: skip
        assert claims == {"model-store": "fovea-model-store", "workspace": "fovea-workspace"}
        container = pod["containers"][0]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        variables = environment(base, container)
        assert mounts["model-store"] == variables["FOVEA_MODEL_STORE"]
        assert mounts["workspace"] == variables["FOVEA_WORKSPACE"]
        assert mounts["tmp"] == "/tmp"
    for claim in (m for m in base if m["kind"] == "PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_settings_in_the_manifests_exist_and_may_start(manifests: list[Manifest]) -> None:
    """A misspelt variable would be ignored in silence."""
    for _, pod in pod_specs(manifests):
        for container in pod["containers"]:
            values = {
                name.removeprefix("FOVEA_").lower(): value or "2"
                for name, value in environment(manifests, container).items()
                if name.startswith("FOVEA_") or name == "RAY_ADDRESS"
            }
            assert values.keys() <= Settings.model_fields.keys()
            Settings.model_validate(values).check()


def test_serving_takes_its_keys_from_a_secret(base: list[Manifest]) -> None:
    """Nothing listens on the cluster's network without keys, and no key stands in a manifest."""
    pod = find(base, "Deployment", "fovea-serving")["spec"]["template"]["spec"]
    keys = Path(environment(base, pod["containers"][0])["FOVEA_API_KEYS"])
    mount = next(m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(keys.parent))
    volume = next(v for v in pod["volumes"] if v["name"] == mount["name"])
    assert mount["readOnly"] is True
    assert volume["secret"]["secretName"] == "fovea-api-keys"
    assert not volume["secret"].get("optional", False)
    assert not any(m["kind"] == "Secret" for m in base)


def test_the_engine_uses_the_processors_that_the_pod_was_given(base: list[Manifest]) -> None:
    """Python sees all processors of the node; the thread counts come from the limits instead."""
    for name, variables in {
        "fovea-serving": ["FOVEA_INFERENCE_THREADS", "FOVEA_LANES"],
        "fovea-trainer": ["FOVEA_TRAINING_THREADS"],
    }.items():
        container = find(base, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        given = {entry["name"]: entry.get("valueFrom") for entry in container["env"]}
        for variable in variables:
            assert given[variable]["resourceFieldRef"]["resource"] == "limits.cpu"
            assert given[variable]["resourceFieldRef"]["containerName"] == container["name"]


def test_selectors_choose_the_serving_pods_and_no_others(base: list[Manifest]) -> None:
    """Service, budget, autoscaler, monitor and spread constraints all mean the same pods."""
    serving = find(base, "Deployment", "fovea-serving")["spec"]["template"]
    trainer = find(base, "Deployment", "fovea-trainer")["spec"]["template"]
    selectors = [
        find(base, "Service", "fovea")["spec"]["selector"],
        find(base, "PodDisruptionBudget", "fovea-serving")["spec"]["selector"]["matchLabels"],
        find(base, "NetworkPolicy", "fovea-serving")["spec"]["podSelector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in serving["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector.items() <= serving["metadata"]["labels"].items()
        assert not selector.items() <= trainer["metadata"]["labels"].items()
    target = find(base, "HorizontalPodAutoscaler", "fovea-serving")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "fovea-serving")
    # With a number here, each apply would undo what the autoscaler chose.
    assert "replicas" not in find(base, "Deployment", "fovea-serving")["spec"]


def test_nothing_goes_out_and_only_serving_can_be_reached(base: list[Manifest]) -> None:
    """All pods are closed in both directions; one more policy opens the service's port, to named callers."""
    closed = find(base, "NetworkPolicy", "fovea-default-deny")["spec"]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & closed.keys()
    for _, pod in [(m["metadata"]["name"], m["spec"]["template"]) for m in base if m["kind"] == "Deployment"]:
        assert closed["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    opened = find(base, "NetworkPolicy", "fovea-serving")["spec"]
    assert opened["policyTypes"] == ["Ingress"]
    [rule] = opened["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert len(rule["from"]) == 3
    assert all(peer for peer in rule["from"])


def test_the_service_monitor_scrapes_the_service(base: list[Manifest]) -> None:
    """The operator's kind is not among the schemas: its fields are checked here."""
    monitor = find(base, "ServiceMonitor", "fovea")
    service = find(base, "Service", "fovea")
    assert monitor["apiVersion"] == OPERATOR
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    assert set(monitor["spec"]["selector"]) == {"matchLabels"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["endpoints"]
    assert set(endpoint) <= {"port", "path", "interval", "scrapeTimeout", "authorization"}
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_operator_gets_the_same_rules_as_prometheus_in_compose(base: list[Manifest]) -> None:
    """The rules stand in two files, which must not drift apart."""
    rule = find(base, "PrometheusRule", "fovea")
    file = yaml.safe_load((K8S.parent / "deploy/prometheus/rules/fovea.yml").read_text())
    assert rule["apiVersion"] == OPERATOR
    assert rule["spec"] == file


def test_an_overlay_changes_images_replicas_storage_and_settings() -> None:
    """The example does what it says: nothing of it is a patch that missed its target."""
    manifests = render("overlays/example")
    images = {container["image"] for _, pod in pod_specs(manifests) for container in containers(pod)}
    assert images == {"registry.example.com/team/fovea:0.1.0", "registry.example.com/team/fovea-full:0.1.0"}
    scaling = find(manifests, "HorizontalPodAutoscaler", "fovea-serving")["spec"]
    assert (scaling["minReplicas"], scaling["maxReplicas"]) == (3, 20)
    claims = [m["spec"]["storageClassName"] for m in manifests if m["kind"] == "PersistentVolumeClaim"]
    assert claims == ["shared-files", "shared-files"]
    serving = dict(pod_specs(manifests))["fovea-serving"]["containers"][0]
    assert environment(manifests, serving)["FOVEA_DEFAULT_MODEL"] == "cifar10"
    bodies = {
        m["metadata"]["name"]: m["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
        for m in manifests
        if m["kind"] == "Ingress"
    }
    fields = Settings.model_fields
    assert fields["max_body_bytes"].default == int(bodies["fovea"].removesuffix("m")) * 2**20
    assert fields["max_upload_bytes"].default == int(bodies["fovea-datasets"].removesuffix("g")) * 2**30


@pytest.fixture(scope="module")
def ray() -> list[Manifest]:
    return render("overlays/ray")


def test_jobs_are_handed_to_ray_by_a_pod_that_trains_nothing_itself(ray: list[Manifest]) -> None:
    """The sender is the small image, knows the head by its service, and shows the token that the cluster asks for."""
    sender = dict(pod_specs(ray))["fovea-trainer"]["containers"][0]
    assert sender["image"] == "fovea:0.1.0"
    assert sender["args"] == ["worker"]
    variables = environment(ray, sender)
    assert variables["FOVEA_EXECUTOR"] == "ray"
    head = find(ray, "Service", "fovea-ray-head")["spec"]
    [dashboard] = [port["port"] for port in head["ports"] if port["name"] == "dashboard"]
    assert variables["RAY_ADDRESS"] == f"http://fovea-ray-head:{dashboard}"
    tokens = [
        entry["valueFrom"]["secretKeyRef"]
        for name, pod in pod_specs(ray)
        for entry in pod["containers"][0]["env"]
        if entry["name"] == "RAY_AUTH_TOKEN"
    ]
    assert tokens == [{"name": "fovea-ray-token", "key": "token"}] * 3
    for name in ("fovea-ray-head", "fovea-ray-node"):
        assert environment(ray, dict(pod_specs(ray))[name]["containers"][0])["RAY_AUTH_MODE"] == "token"


def test_rays_nodes_see_the_shared_folders_where_the_sender_does(ray: list[Manifest]) -> None:
    """A job's folder has one path everywhere; the head runs no job, and needs none."""
    pods = dict(pod_specs(ray))
    places = {}
    for name in ("fovea-trainer", "fovea-ray-node"):
        claims = {v["name"]: v["persistentVolumeClaim"] for v in pods[name]["volumes"] if "persistentVolumeClaim" in v}
        mounts = {m["name"]: m["mountPath"] for m in pods[name]["containers"][0]["volumeMounts"]}
        places[name] = {claims[volume]["claimName"]: path for volume, path in mounts.items() if volume in claims}
    assert places["fovea-ray-node"] == places["fovea-trainer"]
    head = pods["fovea-ray-head"]["containers"][0]
    assert "--num-cpus=0" in head["command"]
    labels = find(ray, "Deployment", "fovea-ray-head")["spec"]["template"]["metadata"]["labels"]
    assert find(ray, "Service", "fovea-ray-head")["spec"]["selector"].items() <= labels.items()
    assert f"--port={head['ports'][0]['containerPort']}" in head["command"]
    assert f"--dashboard-port={head['ports'][1]['containerPort']}" in head["command"]


def test_only_the_sender_reaches_ray_from_outside(ray: list[Manifest]) -> None:
    """Whoever reaches it could run anything there, the serving pods included."""
    policy = find(ray, "NetworkPolicy", "fovea-ray")["spec"]
    own, sender = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    [peer] = sender["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "trainer"
    assert sender["ports"] == [{"port": 8265, "protocol": "TCP"}]
    trainer = find(ray, "Deployment", "fovea-trainer")["spec"]["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"].items() <= trainer.items()
    outgoing = find(ray, "NetworkPolicy", "fovea-trainer-to-ray")["spec"]["egress"]
    assert outgoing[0]["ports"] == sender["ports"]


@pytest.fixture(scope="module")
def kserve() -> list[Manifest]:
    return render("overlays/kserve")


@pytest.mark.parametrize("version", VERSIONS)
def test_kserves_runtime_is_a_pod_that_fits_its_schema(kserve: list[Manifest], version: str) -> None:
    """KServe's kinds are not among the schemas: what is a pod in them is checked as one, the few other fields here."""
    runtime, service = find(kserve, "ServingRuntime", "fovea"), find(kserve, "InferenceService", "cifar10")
    assert len(kserve) == 2
    assert {m["metadata"]["namespace"] for m in kserve} == {"fovea"}
    assert (runtime["apiVersion"], service["apiVersion"]) == ("serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1")
    spec = runtime["spec"]
    assert spec.keys() == {"annotations", "supportedModelFormats", "protocolVersions", "containers", "volumes"}
    assert spec["supportedModelFormats"] == [{"name": "fovea", "version": "1", "autoSelect": True}]
    assert set(spec["protocolVersions"]) <= {"v1", "v2", "grpc-v1", "grpc-v2"}
    assert service["spec"].keys() == {"predictor"}
    predictor = dict(service["spec"]["predictor"])
    own = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "model"}
    model = {name: predictor.pop(name) for name in own}["model"]
    pod = {"containers": spec["containers"], "volumes": spec["volumes"], **predictor}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(manifest, version, strict=True)
    assert model.keys() == {"runtime", "modelFormat", "protocolVersion", "storageUri"}
    assert model["modelFormat"].items() <= spec["supportedModelFormats"][0].items()
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in spec["protocolVersions"]


def test_kserves_pods_are_as_closed_as_the_others_and_serve_the_same_store(
    kserve: list[Manifest], base: list[Manifest]
) -> None:
    """The restricted standard, the routes that are there, no rights, and the claim that the trainer writes to."""
    spec = find(kserve, "ServingRuntime", "fovea")["spec"]
    predictor = find(kserve, "InferenceService", "cifar10")["spec"]["predictor"]
    [container] = spec["containers"]
    assert (container["name"], container["image"], container["args"]) == ("kserve-container", "fovea:0.1.0", ["serve"])
    serving = find(base, "Deployment", "fovea-serving")["spec"]["template"]["spec"]["containers"][0]
    assert {**serving["securityContext"], "runAsNonRoot": True, "runAsUser": 10001} == {
        name: value for name, value in container["securityContext"].items() if name != "seccompProfile"
    }
    assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert predictor["automountServiceAccountToken"] is False
    for kind in ("startup", "liveness", "readiness"):
        ours, theirs = container[f"{kind}Probe"], serving[f"{kind}Probe"]
        assert ours["httpGet"]["path"] == theirs["httpGet"]["path"]
    variables = environment(kserve, container)
    assert int(variables["FOVEA_PORT"]) == container["ports"][0]["containerPort"] == 8080
    assert spec["annotations"]["prometheus.kserve.io/port"] == variables["FOVEA_PORT"]
    assert variables["FOVEA_MODEL_STORE"] == "/mnt/models"
    settings = Settings.model_validate(
        {name.removeprefix("FOVEA_").lower(): value or "2" for name, value in variables.items()}
    ).model_copy(update={"host": "0.0.0.0"})
    settings.check()
    assert settings.anonymous == "predict"
    assert predictor["terminationGracePeriodSeconds"] > Settings.model_fields["shutdown_grace"].default + 5
    claims = {m["metadata"]["name"] for m in base if m["kind"] == "PersistentVolumeClaim"}
    assert predictor["model"]["storageUri"].removeprefix("pvc://") in claims
