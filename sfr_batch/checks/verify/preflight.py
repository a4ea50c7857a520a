"""The preflight of a config's model, before money is spent on a run: it must be the right one and compute correctly.

`verify` runs the checks in order. A check that needs the result of one that failed is skipped.
Needs no corpus, no table and no Ray.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sfr_batch.checks.report import CheckResult, Outcome, failed, passed, skipped
from sfr_batch.checks.verify import checks, golden, reference, speed
from sfr_batch.checks.verify.report import VerifyReport
from sfr_batch.checks.verify.subject import Subject, Unavailable
from sfr_batch.config.settings import Config
from sfr_batch.encoder import devices
from sfr_batch.encoder.measured_rates import MeasuredRate, remember_rate
from sfr_batch.errors import ConfigError, SfrBatchError


def verify(
    config: Config,
    *,
    golden_file: Path | None = None,
    record_file: Path | None = None,
    seconds: float = 5.0,
    each: Callable[[CheckResult], None] = lambda check: None,
) -> VerifyReport:
    """Check the model of a config on this machine's device.

    golden_file: recorded vectors to compare with. record_file: where to record them if nothing failed. seconds: time
    for the throughput measurement, which is kept for plans on this machine; 0 skips it. each: called with each result
    at once. If nothing failed, a local model folder without a lock file gets one. Raises ConfigError; every other error
    is a failed check.
    """
    devices.require_device(config.model.device, config.model.compute_dtype)
    recorded = golden.read(golden_file) if golden_file else None
    if record_file:
        golden.check_target(record_file)
    subject = Subject(config)
    done: list[CheckResult] = []

    def run(name: str, check: Callable[[Subject], Outcome]) -> None:
        outcome = _find(check, subject)
        done.append(CheckResult(name, outcome.verdict, " ".join(outcome.measured.split())))
        each(done[-1])

    run("weights", checks.check_weights)
    run("recipe", checks.check_recipe)
    run("tokenizer", checks.check_tokenizer)
    run("model", checks.check_model)
    run("vectors", checks.check_vectors)
    run("instruction", checks.check_instruction)
    run("card scores", checks.check_scores)
    if recorded:
        run("golden", partial(checks.compare_golden, golden=recorded))
    run("drift", checks.check_drift)
    run("padding", checks.check_padding)
    run("float32", checks.check_float32)
    run("reference", partial(reference.check_sentence_transformers, bounds=checks.AGAINST_FLOAT32))
    run("family", partial(reference.check_family, compared=done[-1].verdict))
    run("throughput", partial(speed.check_throughput, seconds=seconds))
    _keep_rate(subject)
    ok = all(check.verdict != "FAIL" for check in done)
    if record_file:
        run("record", partial(_record, file=record_file, ok=ok))
    run("lock", partial(checks.write_lock, ok=ok))
    return VerifyReport(config.model.path, tuple(done))


def _find(check: Callable[[Subject], Outcome], subject: Subject) -> Outcome:
    try:
        return check(subject)
    except Unavailable as error:
        return skipped(str(error))
    except ConfigError:
        raise
    except SfrBatchError as error:
        return failed(str(error))
    except RuntimeError as error:  # PyTorch's, of the device or of weights that fit nothing
        return failed(f"{type(error).__name__}: {error}")


def _keep_rate(subject: Subject) -> None:
    """For plans on this machine, see `measured_rates`."""
    if found := subject.found.get("speed"):
        device, load_seconds = devices.kind_of(subject.settings.device), float(subject.found["load_seconds"])
        kept = MeasuredRate(found.tokens_per_second, load_seconds, device, found.row_tokens)
        remember_rate(subject.config, subject.hashes, kept)


def _record(subject: Subject, file: Path, ok: bool) -> Outcome:
    if not ok:
        return skipped(f"{file} is not written, because a check failed")
    made = checks.record(subject)
    made.write(file)
    return passed(f"written: {file}, {len(made.texts)} texts, fingerprint {made.fingerprint[:12]}")
