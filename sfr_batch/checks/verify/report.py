"""What `verify` found: every check of a model with its verdict."""

from dataclasses import dataclass

from sfr_batch.checks.report import CheckReport, CheckResult


@dataclass(frozen=True)
class VerifyReport(CheckReport):
    """All checks of one preflight, in the order in which they ran."""

    model: str
    """`model.path`."""
    checks: tuple[CheckResult, ...]

    def __repr__(self) -> str:
        return f"<VerifyReport {self.model}: {self.summary()}>"
