"""The schedules in configs/: their parts agree with each other, with the entry point and with what the job needs."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sfr_batch.cli import main as cli
from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config

ROOT = Path(__file__).parents[2]
CRON = (ROOT / "configs" / "nightly.cron").read_text(encoding="utf-8")


def of_kind(kind: str) -> dict[str, Any]:
    text = (ROOT / "configs" / "nightly-kubernetes.yaml").read_text(encoding="utf-8")
    (found,) = [document for document in yaml.safe_load_all(text) if document["kind"] == kind]
    return dict(found)


@pytest.fixture
def rayjob() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(of_kind("ConfigMap")["data"]["rayjob.yaml"])
    return loaded


@pytest.fixture
def job() -> Config:
    return config_from_dict(yaml.safe_load(of_kind("ConfigMap")["data"]["job.yaml"]))


def pods(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def lines() -> list[str]:
    """Commands of the cron file, those that are commented out as examples too."""
    return re.findall(r"^(?:# )?(?:[\d*]+ ){5} ?\w+  (.*)$", CRON, re.MULTILINE)


def test_all_schedules_run_the_same_entry_point(rayjob: dict[str, Any]) -> None:
    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert words[:2] == ["python", "/sfr-batch/jobs/embed.py"]
    assert (ROOT / "jobs" / "embed.py").exists()
    nights = [line for line in lines() if "jobs/embed.py" in line]
    assert len(nights) == 2
    for line in nights:
        (config,) = re.findall(r"python jobs/embed\.py (\S+)", line)
        assert load_config(ROOT / config).model.path == "Salesforce/SFR-Embedding-Mistral"
    assert len([line for line in CRON.splitlines() if line and line[0].isdigit()]) == 1, "the others are examples"


def test_a_cron_line_is_a_line(rayjob: dict[str, Any]) -> None:
    """In a crontab a percent sign ends the command, and there is no way to go on in the next line."""
    for line in lines():
        assert "%" not in line
        assert not line.endswith("\\")


def test_what_is_done_once_a_week_is_understood() -> None:
    (line,) = [line for line in lines() if "sfr-batch compact" in line]
    commands = re.findall(r"sfr-batch (\w+) (\$T .*?)(?: && |$)", line)
    assert [name for name, _ in commands] == ["compact", "expire", "sweep"]
    for name, arguments in commands:
        context = cli.main.commands[name].make_context(name, shlex.split(arguments))
        assert context.params.get("write", context.params.get("delete")) is True


def test_the_config_is_where_the_entry_point_looks(rayjob: dict[str, Any], job: Config) -> None:
    config = shlex.split(rayjob["spec"]["entrypoint"])[2]
    head = pods(rayjob)[0]
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = head["volumes"]
    assert config == f"{mount['mountPath']}/job.yaml"
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    mistral = load_config(ROOT / "configs" / "sfr-embedding-mistral.yaml")
    assert job.model == mistral.model


def test_no_gpu_before_there_is_work_and_enough_then(rayjob: dict[str, Any], job: Config) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    actors = job.run.actors
    assert actors.max == group["maxReplicas"] * int(limits["nvidia.com/gpu"]) / actors.gpus
    assert rayjob["spec"]["shutdownAfterJobFinishes"]


def test_versions_are_those_of_the_project(rayjob: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ray,) = [r for r in map(Requirement, project["project"]["dependencies"]) if r.name == "ray"]
    assert Version(str(rayjob["spec"]["rayClusterSpec"]["rayVersion"])) in ray.specifier
    assert len({pod["containers"][0]["image"] for pod in pods(rayjob)}) == 1


def test_it_is_closed_to_strangers(rayjob: dict[str, Any]) -> None:
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert of_kind("Role")["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    cron = of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert cron["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]
    assert cron["serviceAccountName"] not in {pod["serviceAccountName"] for pod in pods(rayjob)}


def test_nights_do_not_pile_up(rayjob: dict[str, Any]) -> None:
    spec = of_kind("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert rayjob["spec"]["activeDeadlineSeconds"] < 24 * 3600
    assert rayjob["spec"]["backoffLimit"] == 0
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["kubectl", "create", "-f", "/etc/sfr-batch/rayjob.yaml"]
    assert "generateName" in rayjob["metadata"], "a second night with the same name would be refused by Kubernetes"
