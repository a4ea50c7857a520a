"""What `verify` found: every check of a model with its verdict."""

from dataclasses import dataclass

from sfr_batch.checks.report import Check, Checks


@dataclass(frozen=True)
class Report(Checks):
    """All checks of one preflight, in the order in which they ran."""

    model: str
    """`model.path`."""
    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        return f"<Report {self.model}: {self.summary()}>"
