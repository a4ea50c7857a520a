"""Configs: every shipped one parses, every mistake is named with its place, and secrets never show."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from sfr_batch.config import settings as config_module
from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config, StorageSettings, secret
from sfr_batch.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = [
    path for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")) if path.stem != "nightly-kubernetes"
]
SMALL = """
corpus: {path: corpus}
model: {path: model, device: cpu}
table: {path: table}
run: {actors: {gpus: 0}}
"""
SECTIONS = [
    value
    for value in vars(config_module).values()
    if isinstance(value, type) and issubclass(value, config_module.Section) and value is not config_module.Section
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def small(**sections: Any) -> dict[str, Any]:
    return {
        "corpus": {"path": "corpus"},
        "model": {"path": "model", "device": "cpu"},
        "table": {"path": "table"},
        "run": {"actors": {"gpus": 0}},
        **sections,
    }


def complaint(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(small(), overrides, source="small.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_config_parses(path: Path) -> None:
    config = load_config(path)
    assert Config.model_validate_json(config.to_json()) == config


def test_there_are_shipped_configs() -> None:
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_setting_is_documented(section: type[BaseModel]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        whole_section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        assert field.description or (section is Config and whole_section), f"{section.__name__}.{name}"


def test_config_is_a_value(file: Path) -> None:
    config = load_config(file)
    assert config == load_config(file)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.table.path = "elsewhere"


# --- mistakes


def test_unknown_setting_suggests_the_near_one() -> None:
    assert complaint("run.rows_per_splits=3") == (
        "small.yaml has 1 wrong setting:\n  run.rows_per_splits: unknown setting. Did you mean rows_per_split?"
    )
    assert "run.actors.mni: unknown setting. Did you mean min?" in complaint("run.actors.mni=3")
    assert "corpus.storage.endpoint: unknown setting. Did you mean endpoint_url?" in complaint(
        "corpus.storage.endpoint=http://x"
    )


def test_unknown_setting_without_a_near_one_lists_what_there_is() -> None:
    assert "resume: unknown setting. Known settings: corpus, model, table, select, run, evaluation." in complaint(
        "resume=true"
    )


def test_missing_sections_are_all_named(file: Path) -> None:
    file.write_text("corpus: {path: corpus}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value) == (
        f"{file} has 2 wrong settings:\n"
        "  model: missing, and it has no default\n"
        "  table: missing, and it has no default"
    )


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("run.rows_per_split=0", "run.rows_per_split: must be at least 1$"),
        ("run.rows_per_split=many", "run.rows_per_split: must be a whole number, at least 1$"),
        ("run.bytes_per_split=10", "run.bytes_per_split: must be at least 1024$"),
        ("run.actors={min: 3, max: 2, gpus: 0}", r"run.actors: max \(2\) must be at least min \(3\)"),
        ("run.actors.gpus=2", "run.actors.gpus: must be at least 0 and at most 1$"),
        ("run.actors.cpus=.inf", "run.actors.cpus: must be a number, more than 0$"),
        ("run.actors.cpus=0", "run.actors.cpus: must be more than 0$"),
        ("model.device=mps", "model.device: a Mac's GPU is not used: set model.device=cpu and run.actors.gpus=0$"),
        ("model.device=gpu", "model.device: must be 'cuda' or 'cpu'$"),
        ("model.dtype=bf16", "model.dtype: must be 'bfloat16', 'float16', 'float32' or 'fp8'"),
        ("model.max_length=3", "model.max_length: must be at least 4$"),
        (
            "table.generation=2",
            "table.generation: must be a string: quote numbers and dates, .*twice: .*generation='\"…\"'",
        ),
        ("table.generation=2026-01-01", "table.generation: must be a string: quote numbers and dates"),
        ("corpus.carry=text", "corpus.carry: must be a list, such as "),
        ("run=5", "run: must be a section that contains settings"),
        ("corpus.path=3", r"1 wrong setting:\n  corpus.path: must be a string"),
        ("corpus.path=[a, 3]", r"1 wrong setting:\n  corpus.path.1: must be a string"),
        ("corpus.path=[]", "corpus.path: must not be empty$"),
        ("corpus.path=", "corpus.path: must not be empty$"),
        ("table.path=''", "table.path: must not be empty$"),
    ],
)
def test_impossible_value_is_refused(override: str, text: str) -> None:
    assert re.search(text, complaint(override)), complaint(override)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["run.actors.gpus=1"], "model.device is cpu but run.actors.gpus is 1: set run.actors.gpus=0"),
        (
            ["model.device=cuda"],
            "model.device is cuda but run.actors.gpus is 0: set run.actors.gpus=1 or model.device=cpu",
        ),
    ],
)
def test_device_and_gpus_must_agree(overrides: list[str], text: str) -> None:
    assert text in complaint(*overrides)


def test_missing_file_names_those_that_are_there(file: Path) -> None:
    with pytest.raises(ConfigError, match=rf"There is no config .*big.yaml. Configs in {file.parent}: {file}"):
        load_config(file.with_name("big.yaml"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"corpus: [", "is not valid YAML"),
        (b"- a\n- b\n", "must be a mapping with the sections corpus, model, table, select, run, evaluation"),
        (b"", "must be a mapping"),
        (b"corpus: \xff\xfe", r"is not valid UTF-8 \(.* at byte 8\). Save the file as UTF-8"),
    ],
)
def test_file_that_is_no_config_is_refused(file: Path, content: bytes, text: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=text) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


# --- overrides


def test_overrides_are_yaml_and_reach_any_depth(file: Path) -> None:
    config = load_config(
        file,
        [
            "run.actors.max=3",
            "corpus.carry=[title, url]",
            'model.prompts.query="Query: "',
            "model.prompts.document='passage: '",
            "corpus.storage.anonymous=yes",
            'table.generation="2"',
            'corpus.text="{title} {text}"',
            "model.max_length=null",
            "table.path=a=b",
        ],
    )
    assert (config.run.actors.max, config.run.actors.gpus) == (3, 0)
    assert config.corpus.carry == ["title", "url"]
    carry = load_config(file, ["corpus.carry={lang: meta.lang, n: n}"]).corpus.carried
    assert carry == {"lang": "meta.lang", "n": "n"}
    assert config.model.prompts["document"] == "passage: "
    assert config.corpus.storage.anonymous is True
    assert config.table.generation == "2"
    assert config.corpus.text == "{title} {text}"
    assert config.model.max_length is None
    assert config.table.path == "a=b"


def test_last_override_wins_and_may_replace_a_section() -> None:
    config = config_from_dict(small(), ["run.min_splits=2", "run={actors: {gpus: 0}, min_splits: 3}"])
    assert config.run.min_splits == 3


def test_override_goes_through_an_empty_section() -> None:
    """A section whose settings are all commented out is None in YAML."""
    raw = small(corpus={"path": "x", "storage": None})
    assert config_from_dict(raw, ["corpus.storage.anonymous=true"]).corpus.storage.anonymous


def test_overrides_as_values_of_python(file: Path) -> None:
    """By name or by section, as a dictionary or as keywords: as those of the command line, but for YAML."""
    written = [
        "run.actors.max=3",
        "corpus.path=elsewhere",
        'table.generation="1"',
        "select.ids=[a, 5]",
        "select.limit=7",
    ]
    by_name = {
        "run.actors.max": np.int64(3),
        "corpus.path": Path("elsewhere"),
        "table.generation": "1",
        "select.ids": np.array(["a", 5], dtype=object),
        "select.limit": 7,
    }
    by_section = {
        "run": {"actors": {"max": 3}},
        "corpus": {"path": "elsewhere"},
        "table.generation": "1",
        "select": {"ids": ("a", 5), "limit": 7},
    }
    expected = load_config(file, written)
    assert expected.run.actors.gpus == 0, "the other settings of a section stay"
    for given in (by_name, by_section):
        assert load_config(file, given) == load_config(file, **given) == expected
        assert load_config(file, {"select": {"limit": 9}, "table.path": "t"}, **given).select.limit == 7
    assert expected.table.path == load_config(file).table.path
    assert load_config(file, "select.limit=7") == load_config(file, ["select.limit=7"])
    assert load_config(file, {"corpus.carry": {"lang": "meta.lang"}}).corpus.carried == {"lang": "meta.lang"}
    storage = load_config(file, {"table.storage": StorageSettings(region="x")}).table.storage
    assert storage.region == "x"
    assert by_section["run"] == {"actors": {"max": 3}}


def test_overrides_leave_the_given_values_alone() -> None:
    raw = small()
    config_from_dict(raw, ["run.actors.min=2", "table.path=elsewhere"])
    assert raw == small()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("table.path", "'table.path' is not of the form section.field=value"),
        ("=x", "'' is not of the form section.field=value"),
        ("table..path=x", "is not of the form"),
        ("corpus.path.deeper=x", "corpus.path.deeper goes through 'path', which is a value and not a section"),
        ("corpus.carry=[a", r"of the override corpus.carry is not valid YAML: .*Quote it twice: corpus.carry='\"…\"'"),
        ("table=x", "table: must be a section"),
    ],
)
def test_wrong_override_is_explained(override: str, text: str) -> None:
    assert re.search(text, complaint(override)), complaint(override)


# --- secrets


@pytest.mark.parametrize(
    "override",
    [
        "corpus.storage.secret_access_key=hunter2",
        "corpus.storage.access_key_id=hunter2",
        "table.storage.secret_access_key='${A}hunter2'",
        "corpus.storage.secret_access_key.x=hunter2",
        "corpus.path.secret_access_key=hunter2",
        "table.storage.secret_access_key=[hunter2",
        "table.storage.secret_acess_key=hunter2",
    ],
)
def test_literal_secret_is_refused_and_not_repeated(override: str) -> None:
    assert "hunter2" not in complaint(override)


def test_literal_secret_is_told_what_to_do() -> None:
    text = complaint("corpus.storage.secret_access_key=hunter2")
    assert "a config must not contain secrets: write ${NAME} and set the environment variable NAME" in text


def test_one_key_alone_is_refused() -> None:
    assert "access_key_id and secret_access_key go together" in complaint("corpus.storage.access_key_id=${A}")


@pytest.mark.parametrize(
    "override",
    ["corpus.path=s3://${BUCKET}/x", "table.generation=${DAY}", "model.prompts.query='${PROMPT}: '", "corpus.id=${ID}"],
)
def test_reference_outside_secrets_is_refused(override: str) -> None:
    assert "${NAME} works only for secrets; to vary this setting, use an override" in complaint(override)


def test_dump_holds_the_reference_and_never_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFR_TEST_KEY", "hunter2")
    keys = {"access_key_id": "${SFR_TEST_KEY}", "secret_access_key": "${SFR_TEST_KEY}"}
    config = config_from_dict(small(table={"path": "t", "storage": keys}))
    assert secret(config.table.storage.secret_access_key) == "hunter2"
    for shown in (config.to_json(), repr(config), str(config), pickle.dumps(config).decode("latin-1")):
        assert "hunter2" not in shown
    assert json.loads(config.to_json())["table"]["storage"]["secret_access_key"] == "${SFR_TEST_KEY}"


@pytest.mark.parametrize("value", [None, ""])
def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SFR_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SFR_TEST_KEY", value)
    with pytest.raises(ConfigError, match="The environment variable SFR_TEST_KEY is not set"):
        secret("${SFR_TEST_KEY}")


def test_no_secret_needs_no_variable() -> None:
    assert secret(None) is None


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("corpus: {path: a}\ntable:\n  path: one\n  path: two\nmodel: {path: m}\n")
    with pytest.raises(ConfigError, match=r"(?s)job.yaml is not valid YAML.*'path' is set twice.*line 4"):
        load_config(file)


def test_anchors_and_merges_are_yaml(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "corpus: {path: c, storage: &here {region: eu-central-1, anonymous: true}}\n"
        "model: {path: m, device: cpu}\n"
        "table:\n  path: t\n  storage:\n    <<: *here\n    anonymous: false\n"
        "run: {actors: {gpus: 0}}\n"
    )
    storage = load_config(file).table.storage
    assert (storage.region, storage.anonymous) == ("eu-central-1", False)


def test_a_key_that_is_no_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("? [a]\n: b\n")
    with pytest.raises(ConfigError, match=r"job.yaml is not valid YAML: the key \['a'\] must be a string"):
        load_config(file)
