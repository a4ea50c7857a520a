"""Files of configs/ for clusters: valid for those who read them, as far as that can be known without a cluster, and
what they name is there.

KubeRay's own schemas are too large to lie here: SFR_CRDS names a folder with its CustomResourceDefinitions.
"""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.scripts.scripts import start

from sfr_batch.cli import main as cli
from sfr_batch.config.loading import load_config
from sfr_batch.config.settings import Config
from sfr_batch.pipeline import execution

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "configs" / "cluster"
NIGHTLY = ROOT / "configs" / "nightly-kubernetes.yaml"
MISTRAL = ROOT / "configs" / "sfr-embedding-mistral.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
SMALL = ["anyscale-job.yaml", "skypilot.yaml"]
KUBERNETES = "1.31"
"""A version that clusters have."""


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8")))


def nightly() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(NIGHTLY.read_text(encoding="utf-8")))


def ray_objects() -> dict[str, dict[str, Any]]:
    """What KubeRay reads, by its file."""
    (data,) = [document["data"] for document in nightly() if document["kind"] == "ConfigMap"]
    of_the_cronjob = yaml.safe_load(data["rayjob.yaml"])
    return {NIGHTLY.name: of_the_cronjob} | {name: load(name) for name in ("rayjob-kueue.yaml", "raycronjob.yaml")}


def rayjobs() -> dict[str, dict[str, Any]]:
    return {name: found["spec"].get("jobTemplate", found["spec"]) for name, found in ray_objects().items()}


FILES = list(rayjobs())


@pytest.fixture(params=FILES)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return rayjobs()[request.param]


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = spec["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in groups(spec)]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def pinned() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def embedding(words: list[str], place: str) -> Config:
    """The config of ``python PLACE/jobs/embed.py CONFIG key=value …``, with the one that is shipped as its file."""
    assert words[:2] == ["python", f"{place}jobs/embed.py"]
    assert (ROOT / "jobs" / "embed.py").exists()
    return load_config(MISTRAL, words[3:])


# The image


def test_the_image_has_what_the_files_call() -> None:
    copied = dict(line.split() for line in instructions("COPY") if len(line.split()) == 2)
    assert copied["jobs"] == "/sfr-batch/jobs"
    for line in instructions("COPY"):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    for command in re.findall(r"sfr-batch (\w+|--\w+)", " ".join(instructions("RUN"))):
        assert command == "--help" or command in cli.main.commands


def test_the_image_is_not_roots() -> None:
    """A number: Kubernetes cannot tell of a name that it is not root, and refuses to start it."""
    assert int(instructions("USER")[-1]) > 0


def test_the_image_has_the_ray_of_the_files() -> None:
    (base,) = instructions("ARG")
    version = base.partition(":")[2].partition("-")[0]
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert base == f"BASE={cluster['docker']['image']}"
    assert version == pinned()["ray"]
    assert {spec["rayClusterSpec"]["rayVersion"] for spec in rayjobs().values()} == {version}


def test_the_image_has_exact_versions() -> None:
    """Also of what dependencies depend on; and nothing that only the machine has where the list was made."""
    versions = pinned()
    for dependency in DEPENDENCIES:
        assert dependency.specifier.contains(versions[canonicalize_name(dependency.name)]), dependency
    assert {"botocore", "aiohttp", "safetensors"} <= set(versions)
    assert all(re.fullmatch(r"[\w.]+", version) for version in versions.values()), "no +cpu, no path, no host"
    assert canonicalize_name(PROJECT["name"]) not in versions
    assert "-r /tmp/constraints.txt" in instructions("RUN")[0]


def test_a_cluster_without_the_image_has_the_same_versions() -> None:
    lines = " ".join(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["setup_commands"])
    for name, version in re.findall(r'"([\w-]+)(?:\[[\w,]+\])?==([\w.]+)"', lines):
        assert pinned()[canonicalize_name(name)] == version, name


# KubeRay


def test_a_rayjob_runs_the_entry_point_on_a_config_that_is_there(spec: dict[str, Any]) -> None:
    words = shlex.split(spec["entrypoint"])
    embedding(words, "/sfr-batch/")
    head = pods(spec)[0]
    (mount,), (volume,) = head["containers"][0]["volumeMounts"], head["volumes"]
    assert words[2] == f"{mount['mountPath']}/job.yaml"
    assert mount["name"] == volume["name"]


def test_no_pod_is_roots(spec: dict[str, Any]) -> None:
    jobs = [document["spec"]["jobTemplate"]["spec"] for document in nightly() if document["kind"] == "CronJob"]
    for pod in [*pods(spec), *(job["template"]["spec"] for job in jobs)]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert all(
            container["securityContext"] == {"allowPrivilegeEscalation": False} for container in pod["containers"]
        )
    assert {pod["securityContext"]["runAsUser"] for pod in pods(spec)} == {int(instructions("USER")[-1])}


def test_a_rayjob_is_closed_to_strangers_and_has_no_secrets(spec: dict[str, Any]) -> None:
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for pod in pods(spec):
        for container in pod["containers"]:
            assert all("valueFrom" in variable for variable in container.get("env", []))


def test_the_workers_hold_the_actors(spec: dict[str, Any]) -> None:
    actors = embedding(shlex.split(spec["entrypoint"]), "/sfr-batch/").run.actors
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    gpus = int(resources["limits"]["nvidia.com/gpu"])
    assert actors.max == group["maxReplicas"] * gpus / actors.gpus
    assert int(resources["requests"]["cpu"]) >= gpus / actors.gpus * actors.cpus + execution._READ_CPUS
    known = {option for parameter in start.params for option in parameter.opts}
    assert {f"--{name}" for part in groups(spec) for name in part["rayStartParams"]} <= known
    assert groups(spec)[0]["rayStartParams"]["num-cpus"] == "0", "the head has no room for work"


def refusals(spec: dict[str, Any]) -> Iterator[str]:
    """What KubeRay's operator refuses beyond its schema, of what stands in these files."""
    shutdown, rules = spec.get("shutdownAfterJobFinishes", False), spec.get("deletionStrategy", {}).get("deletionRules")
    if spec.get("suspend") and not shutdown:
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished") and not shutdown:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if rules and shutdown:
        yield "deletionRules beside shutdownAfterJobFinishes"
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules or []:
        condition = dict(rule["condition"])
        after = condition.pop("ttlSeconds", 0)
        if len(condition) != 1:
            yield "a condition needs one of jobStatus and jobDeploymentStatus"
        of_status = seen.setdefault(next(iter(condition.items()), ("", "")), {})
        if rule["policy"] in of_status:
            yield "two rules for one status and policy"
        of_status[rule["policy"]] = after
        if rule["policy"] == "DeleteWorkers" and spec["rayClusterSpec"]["enableInTreeAutoscaling"]:
            yield "DeleteWorkers with autoscaling"
    for of_status in seen.values():
        times = [of_status[name] for name in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if name in of_status]
        if times != sorted(times):
            yield "the larger part is deleted first"


def test_the_operator_refuses_nothing(spec: dict[str, Any]) -> None:
    assert list(refusals(spec)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shutdownAfterJobFinishes": True}, "deletionRules beside shutdownAfterJobFinishes"),
        ({"suspend": True}, "suspend without shutdownAfterJobFinishes"),
        ({"ttlSecondsAfterFinished": 9}, "ttlSecondsAfterFinished without shutdownAfterJobFinishes"),
    ],
)
def test_what_the_operator_refuses_is_found(change: dict[str, Any], expected: str) -> None:
    assert expected in list(refusals(rayjobs()["raycronjob.yaml"] | change))


def test_every_end_of_a_job_is_cleaned_up() -> None:
    """Also one without a status of Ray: a submission that failed, a deadline. Nothing outlives them for ever."""
    for spec in rayjobs().values():
        if spec.get("shutdownAfterJobFinishes"):
            continue
        rules = spec["deletionStrategy"]["deletionRules"]
        gone = {
            (status, value)
            for rule in rules
            for status, value in rule["condition"].items()
            if rule["policy"] == "DeleteSelf" and status != "ttlSeconds"
        }
        assert gone == {("jobStatus", "SUCCEEDED"), ("jobStatus", "FAILED"), ("jobDeploymentStatus", "Failed")}


def test_a_queue_admits_the_job() -> None:
    """Kueue refuses autoscaling, and a cluster that stays after the job; and it reserves what the workers ask for."""
    job = load("rayjob-kueue.yaml")
    assert set(job["metadata"]["labels"]) == {"kueue.x-k8s.io/queue-name"}
    assert job["spec"]["suspend"] is True
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0


def test_a_night_ends_before_the_next_one_begins() -> None:
    cron = load("raycronjob.yaml")["spec"]
    kubernetes = next(document["spec"] for document in nightly() if document["kind"] == "CronJob")
    assert (cron["schedule"], cron["timeZone"]) == (kubernetes["schedule"], kubernetes["timeZone"])  # daily, see there
    assert cron["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600
    assert cron["jobTemplate"]["backoffLimit"] == 0, "the next night repeats it"


# Schemas


def test_kubernetes_accepts_what_it_reads_itself() -> None:
    for document in nightly():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_kubernetes_accepts_the_pods(spec: dict[str, Any]) -> None:
    for pod in pods(spec):
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
        pod["securityContext"]["runAsNoRoot"] = True
        with pytest.raises(kubernetes_validate.ValidationError, match="runAsNoRoot"):
            kubernetes_validate.validate(whole, KUBERNETES, strict=True)  # it does find a typo


def closed(schema: Any) -> Any:
    """A schema of a definition as kubectl applies it: a field that it does not name is an error."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def schema_of(kind: str) -> dict[str, Any]:
    """KubeRay's own schema. Skips if it is not here."""
    folder = os.environ.get("SFR_CRDS")
    if not folder:
        pytest.skip("SFR_CRDS names no folder with KubeRay's definitions (helm-chart/kuberay-operator/crds)")
    for path in sorted(Path(folder).glob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if definition["spec"]["names"]["kind"] == kind:
            (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
            return dict(closed(version["schema"]["openAPIV3Schema"]))
    pytest.skip(f"{folder} has no definition of {kind}")


@pytest.mark.parametrize("name", FILES)
def test_kuberays_schema_accepts_it(name: str) -> None:
    found = ray_objects()[name]
    schema = schema_of(found["kind"])
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(found | {"spec": found["spec"] | {"backofLimit": 0}}, schema)  # it does find a typo


# Anyscale and SkyPilot


@pytest.mark.parametrize("name", SMALL)
def test_the_small_files_are_small(name: str) -> None:
    assert len((CLUSTER / name).read_text(encoding="utf-8").splitlines()) <= 20


def test_an_anyscale_job_runs_the_entry_point() -> None:
    job = load("anyscale-job.yaml")
    words = shlex.split(job["entrypoint"])
    actors = embedding(words, "").run.actors
    assert (ROOT / job["working_dir"] / words[2]).samefile(MISTRAL)
    (group,) = job["compute_config"]["worker_nodes"]
    assert group["max_nodes"] == actors.max
    assert job["compute_config"]["head_node"]["resources"] == {"CPU": 0}


def test_a_skypilot_task_runs_the_entry_point_on_a_ray_of_its_own() -> None:
    task = load("skypilot.yaml")
    words = shlex.split(task["run"])
    run = embedding(words, "/sfr-batch/").run
    assert (ROOT / task["file_mounts"][words[2]]).samefile(MISTRAL)
    assert run.ray_address == "local", "SkyPilot has a Ray on the same machine, which is not for jobs"
    assert list(task["resources"]["accelerators"].values()) == [run.actors.max]
