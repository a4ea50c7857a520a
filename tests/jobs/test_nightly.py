"""The schedules in configs/: their parts agree with each other, with the entry point and with what the job needs."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from ray.scripts.scripts import start

from sfr_batch.cli import main as cli
from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config
from sfr_batch.pipeline import execution

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


def test_a_cron_line_is_a_line(rayjob: dict[str, Any]) -> None:
    """In a crontab a percent sign ends the command, and there is no way to go on in the next line."""
    for line in lines():
        assert "%" not in line
        assert not line.endswith("\\")
        subprocess.run(["bash", "-n", "-c", line], check=True)  # its syntax


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


def test_the_workers_hold_the_actors(rayjob: dict[str, Any], job: Config) -> None:
    """All of them at most, and each beside something that reads for it."""
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    gpus, actors = int(resources["limits"]["nvidia.com/gpu"]), job.run.actors
    assert actors.max == group["maxReplicas"] * gpus / actors.gpus
    assert int(resources["requests"]["cpu"]) >= gpus / actors.gpus * actors.cpus + execution._READ_CPUS


def test_a_cluster_without_workers_gets_some_and_only_then(rayjob: dict[str, Any]) -> None:
    """No GPU is paid for before there is work; nothing would ever run if nobody added a worker, or if KubeRay made
    something else of the options than `ray start` knows."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "the head has no room for work"
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    known = {option for parameter in start.params for option in parameter.opts}
    for options in (cluster["headGroupSpec"]["rayStartParams"], group["rayStartParams"]):
        assert {f"--{name}" for name in options} <= known
        assert all(isinstance(value, str) for value in options.values()), "KubeRay refuses others"


def test_versions_are_those_of_the_project(rayjob: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ray,) = [r for r in map(Requirement, project["project"]["dependencies"]) if r.name == "ray"]
    assert Version(str(rayjob["spec"]["rayClusterSpec"]["rayVersion"])) in ray.specifier
    assert len({pod["containers"][0]["image"] for pod in pods(rayjob)}) == 1


def test_it_is_closed_to_strangers(rayjob: dict[str, Any]) -> None:
    """Who reaches the ports needs a token; and what creates the job may do that and no more, least of all read data."""
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"
    (rule,) = of_kind("Role")["rules"]
    assert rule["apiGroups"] == [rayjob["apiVersion"].split("/")[0]]
    assert rule["resources"] == [f"{rayjob['kind'].lower()}s"]
    assert rule["verbs"] == [container()["command"][1]]
    binding, account = of_kind("RoleBinding"), of_kind("ServiceAccount")["metadata"]["name"]
    assert binding["roleRef"]["name"] == of_kind("Role")["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [account]
    assert of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"] == account
    assert account not in {pod["serviceAccountName"] for pod in pods(rayjob)}


def container() -> dict[str, Any]:
    """What the CronJob runs."""
    (found,) = of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_job_is_created_from_what_is_mounted(rayjob: dict[str, Any]) -> None:
    (mount,), pod = container()["volumeMounts"], of_kind("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    assert container()["command"][-1] in {f"{mount['mountPath']}/{key}" for key in of_kind("ConfigMap")["data"]}
    assert "generateName" in rayjob["metadata"], "a second night with the same name would be refused by Kubernetes"


def test_a_night_ends_before_the_next_one_begins(rayjob: dict[str, Any]) -> None:
    """Also one that began as late as it may. They are a day apart: the schedule has one hour, of every day."""
    spec = of_kind("CronJob")["spec"]
    minute, hour, *days = spec["schedule"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert days == ["*", "*", "*"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert rayjob["spec"]["backoffLimit"] == 0, "the next night repeats it"
    assert spec["startingDeadlineSeconds"] + rayjob["spec"]["activeDeadlineSeconds"] <= 24 * 3600
