"""cluster.yaml: valid for Ray's launcher as far as that can be known offline, and closed to strangers."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


def node_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types: dict[str, dict[str, Any]] = cluster["available_node_types"]
    return types


def pins(cluster: dict[str, Any]) -> dict[str, Requirement]:
    lines = " ".join([*cluster["setup_commands"], *cluster["head_setup_commands"]])
    found = [Requirement(quoted) for quoted in re.findall(r'"([^"]+)"', lines)]
    return {requirement.name: requirement for requirement in found}


def dependencies() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [Requirement(line) for line in project["project"]["dependencies"]]


def test_rays_schema_accepts_it(cluster: dict[str, Any]) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate(cluster | {"max_worker": 3}, schema)  # the schema does catch a typo


def test_rays_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    full = fillout_defaults(cluster)
    validate_config(full)
    # Ray's defaults come in silently where a section is missing; the ones that would undo ours are not there.
    assert set(full["available_node_types"]) == {"head", "gpu_spot", "gpu_on_demand"}
    assert full["setup_commands"] == cluster["setup_commands"]
    assert full["head_start_ray_commands"] == cluster["head_start_ray_commands"]


def test_no_port_is_open_to_the_world(cluster: dict[str, Any]) -> None:
    assert "0.0.0.0" not in TEXT
    assert "::/0" not in TEXT
    # Ray opens SSH to the world in every group that it makes, and makes one for each type that names none.
    assert "security_group" not in cluster["provider"]
    for node_type in node_types(cluster).values():
        assert node_type["node_config"]["SecurityGroupIds"]
        assert "NetworkInterfaces" not in node_type["node_config"]
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--ray-client-server-port" not in start


def test_ray_does_open_ssh_where_no_group_is_named() -> None:
    # The reason for SecurityGroupIds above. When this fails, Ray has changed and the comments need another look.
    import ray.autoscaler

    # As text: the module itself needs boto3, which only the head has.
    source = (Path(ray.autoscaler.__file__).parent / "_private/aws/config.py").read_text()
    assert '"CidrIp": "0.0.0.0/0"' in source


def test_token_authentication_is_on_everywhere(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]  # both head and workers
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "RAY_AUTH_TOKEN=" not in TEXT  # the token itself is no business of this file


def test_no_credentials_stand_in_it(cluster: dict[str, Any]) -> None:
    assert "aws_credentials" not in cluster["provider"]
    assert not re.search(r"A[KS]IA[0-9A-Z]{16}|arn:aws:iam::\d|ami-[0-9a-f]|subnet-[0-9a-f]|sg-[0-9a-f]", TEXT)
    for node_type in node_types(cluster).values():
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_head_and_workers_have_their_own_rights(cluster: dict[str, Any]) -> None:
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Arn"] for name, node in node_types(cluster).items()}
    assert profiles["gpu_spot"] == profiles["gpu_on_demand"] != profiles["head"]


def test_no_task_runs_on_the_head(cluster: dict[str, Any]) -> None:
    head = node_types(cluster)[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)


def test_spot_comes_first_and_on_demand_is_the_same_machine(cluster: dict[str, Any]) -> None:
    spot, fallback = node_types(cluster)["gpu_spot"], node_types(cluster)["gpu_on_demand"]
    assert spot["priority"] > fallback["priority"]
    assert spot["node_config"] == fallback["node_config"] | {"InstanceMarketOptions": {"MarketType": "spot"}}
    assert spot["resources"] == fallback["resources"]


def test_an_idle_cluster_costs_only_its_head(cluster: dict[str, Any]) -> None:
    assert all(node_type["min_workers"] == 0 for node_type in node_types(cluster).values())
    assert 0 < cluster["idle_timeout_minutes"] <= 30
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_every_version_is_pinned_within_pyproject(cluster: dict[str, Any]) -> None:
    found = pins(cluster)
    assert all(re.fullmatch(r"==[\d.]+", str(requirement.specifier)) for requirement in found.values())
    for dependency in dependencies():
        pin = found[dependency.name]
        assert pin.extras == dependency.extras
        assert dependency.specifier.contains(str(pin.specifier).removeprefix("==")), dependency


def test_the_ray_of_image_and_packages_is_the_ray_of_pyproject(cluster: dict[str, Any]) -> None:
    (ray,) = (dependency for dependency in dependencies() if dependency.name == "ray")
    version = str(ray.specifier).removeprefix("~=")
    assert str(pins(cluster)["ray"].specifier) == f"=={version}"
    assert re.fullmatch(rf"rayproject/ray:{re.escape(version)}-py311-cu12\d", cluster["docker"]["image"])
    assert set(re.findall(r'"ray\[\S+\]==([\d.]+)"', TEXT)) == {version}  # also in the comments


def test_boto3_matches_the_botocore_of_s3fs(cluster: dict[str, Any]) -> None:
    found = pins(cluster)
    assert found["boto3"].specifier == found["botocore"].specifier
