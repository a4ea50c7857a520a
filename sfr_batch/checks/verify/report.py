"""The report of `verify`: the result of each check of a model."""

from dataclasses import dataclass

from sfr_batch.checks.report import CheckReport, CheckResult


@dataclass(frozen=True)
class VerifyReport(CheckReport):
    """All results of one preflight, in the order in which the checks ran."""

    model: str
    """`model.path`."""
    checks: tuple[CheckResult, ...]

    def __repr__(self) -> str:
        return f"<VerifyReport {self.model}: {self.summary()}>"
