"""What a run came to: actor-hours and money, beside what was planned. Plain values; knows no sample and no rate."""

from dataclasses import dataclass
from typing import Any

from sfr_batch.pipeline.price.price import Price


@dataclass(frozen=True)
class Outcome:
    """Time and money of the actors of one run."""

    actor_hours: float
    """That they existed, start-up included."""
    price_per_hour: float | None
    planned: Price | None

    @property
    def money(self) -> float | None:
        return None if self.price_per_hour is None else self.actor_hours * self.price_per_hour

    def describe(self) -> str:
        """One line; empty where nobody has asked for a price."""
        if self.price_per_hour is None and self.planned is None:
            return ""
        return f"{_shown(self.actor_hours, self.money)}; {self._planned()}"

    def _planned(self) -> str:
        if self.planned is None or not self.planned.times:
            return "not planned, because nothing had been measured"
        hours, money = self.planned.times[0].actor_hours, self.planned.money
        return f"planned {_shown(hours.value, money.value if money else None)}"

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``planned`` as `Price.to_json`."""
        return {
            "actor_hours": self.actor_hours,
            "price_per_hour": self.price_per_hour,
            "money": self.money,
            "planned": None if self.planned is None else self.planned.to_json(),
        }


def _shown(actor_hours: float, money: float | None) -> str:
    hours = f"{_number(actor_hours)} actor-hours"
    return hours if money is None else f"{_number(money)} for {hours}"


def _number(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.4f}"
