"""Results of checks, one line each. Plain values; knows no model and no table of vectors."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from sfr_batch.format.notebook import html_table
from sfr_batch.table.tabular import Tabular

Verdict = Literal["PASS", "FAIL", "SKIP"]
_COLUMNS = ["verdict", "name", "measured", "details"]
_NAME_WIDTH = 12


@dataclass(frozen=True)
class Outcome:
    """The result of one check. measured: what was measured and the limit, or why it was not, in one line."""

    verdict: Verdict
    measured: str


def passed(measured: str) -> Outcome:
    return Outcome("PASS", measured)


def failed(measured: str) -> Outcome:
    return Outcome("FAIL", measured)


def skipped(why: str) -> Outcome:
    return Outcome("SKIP", why)


def judged(good: bool, measured: str) -> Outcome:
    return passed(measured) if good else failed(measured)


@dataclass(frozen=True)
class CheckResult:
    """The result of a check, with its name."""

    name: str
    verdict: Verdict
    measured: str

    def __str__(self) -> str:
        return f"{self.verdict}  {self.name:{_NAME_WIDTH}}  {self.measured}"

    def details(self) -> list[str]:
        """Lines that belong below ``measured``."""
        return []


class CheckReport(Tabular):
    """Several check results, ``checks``: the base of reports. `to_pandas` and `to_arrow` have a row for each."""

    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed. A skipped check counts as not failed; its line says why it was skipped."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        return self._names("FAIL")

    def __getitem__(self, name: str) -> CheckResult:
        """The result of the check with this name. Raises KeyError if there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_arrow(self) -> pa.Table:
        """verdict, name, measured, and details: what stands below it in `describe`, line by line."""
        rows = [(check.verdict, check.name, check.measured, "\n".join(check.details())) for check in self.checks]
        columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
        return pa.table([pa.array(column, pa.string()) for column in columns], names=_COLUMNS)

    def _repr_html_(self) -> str:
        rows = [(check.verdict, check.name, "\n".join([check.measured, *check.details()])) for check in self.checks]
        return html_table(rows, title=self.summary())

    def describe(self) -> str:
        """All results as text, one line for each check."""
        return "\n".join(map(str, self.checks))

    def summary(self) -> str:
        """One line: how many checks passed, which failed, which were skipped."""
        parts = [f"{len(self._names('PASS'))} passed"]
        for verdict, word in (("FAIL", "failed"), ("SKIP", "skipped")):
            names = self._names(verdict)
            parts.append(f"{len(names)} {word}" + (f" ({', '.join(names)})" if names else ""))
        return ", ".join(parts)

    def _names(self, verdict: str) -> list[str]:
        return [check.name for check in self.checks if check.verdict == verdict]
