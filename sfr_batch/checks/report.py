"""What a preflight or an audit found, a line a check. Plain values; knows no model and no table."""

from dataclasses import dataclass
from typing import Literal

from sfr_batch.format.notebook import html_table

Verdict = Literal["PASS", "FAIL", "SKIP"]
_NAME_WIDTH = 12


@dataclass(frozen=True)
class Outcome:
    """What one check says: ``measured`` against which tolerance, or why not, in one line."""

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
    """A check by its name, and what it found."""

    name: str
    verdict: Verdict
    measured: str

    def __str__(self) -> str:
        return f"{self.verdict}  {self.name:{_NAME_WIDTH}}  {self.measured}"

    def details(self) -> list[str]:
        """Lines that belong below ``measured``."""
        return []


class CheckReport:
    """What can be said of several checks: the base of reports, which have them as ``checks``."""

    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed. What was skipped was not checked: its line says why."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        return self._names("FAIL")

    def __getitem__(self, name: str) -> CheckResult:
        """The check of this name; KeyError if none ran under it."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def _repr_html_(self) -> str:
        rows = [(check.verdict, check.name, "\n".join([check.measured, *check.details()])) for check in self.checks]
        return html_table(rows, title=self.summary())

    def describe(self) -> str:
        """The table, a line a check."""
        return "\n".join(map(str, self.checks))

    def summary(self) -> str:
        """One sentence: how many passed, which failed, which were not checked."""
        parts = [f"{len(self._names('PASS'))} passed"]
        for verdict, word in (("FAIL", "failed"), ("SKIP", "skipped")):
            names = self._names(verdict)
            parts.append(f"{len(names)} {word}" + (f" ({', '.join(names)})" if names else ""))
        return ", ".join(parts)

    def _names(self, verdict: str) -> list[str]:
        return [check.name for check in self.checks if check.verdict == verdict]
