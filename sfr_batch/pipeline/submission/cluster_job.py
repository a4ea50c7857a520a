"""A job as its cluster has it. A value; imports no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED = "pending", "running", "succeeded", "failed", "stopped"
"""Ray's states of a job."""


@dataclass(frozen=True)
class ClusterJob:
    """What the Jobs API says of a job."""

    id: str
    status: str
    message: str = ""
    """Ray's own words on the status."""
    exit_code: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    """When it was submitted, in seconds since the epoch, by the clock of the head."""
    ended: float | None = None

    @classmethod
    def of(cls, details: Any) -> Self:
        """From Ray's JobDetails."""
        return cls(
            details.submission_id or "",
            str(details.status.value).lower(),
            details.message or "",
            details.driver_exit_code,
            details.metadata or {},
            (details.start_time or 0) / 1000,
            details.end_time / 1000 if details.end_time else None,
        )

    @property
    def is_over(self) -> bool:
        return self.status not in (PENDING, RUNNING)
