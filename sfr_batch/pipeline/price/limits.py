"""`run.max_hours` and `run.max_price`: a run that would go beyond them stops before it embeds. Knows no stage."""

from sfr_batch.errors import ConfigError, TooExpensive, counted
from sfr_batch.pipeline.price.price import Price, find_price
from sfr_batch.planning.plan import EmbedPlan


def planned(plan: EmbedPlan) -> Price | None:
    """The price of a plan whose rows are compared, if the config asks what a run costs; else None.

    Raises TooExpensive if it is above a limit, ConfigError if there is a limit and no rate.
    """
    run = plan.config.run
    if run.price_per_hour is None and run.max_hours is None:
        return None
    price = find_price(plan)
    check_limits(price)
    return price


def check_limits(price: Price) -> None:
    """Raises TooExpensive for a price above `run.max_hours` or `run.max_price`, ConfigError if that cannot be told."""
    run = price.plan.config.run
    limits = [name for name in ("max_hours", "max_price") if getattr(run, name) is not None]
    if not limits or not price.sample.splits:
        return
    hours, money = price.hours, price.money
    if hours is None:
        raise ConfigError(
            f"run.{limits[0]} cannot be checked, because nothing is known of how fast the model computes. Nothing was "
            "embedded or published. Measure it on this machine: `sfr-batch verify CONFIG`; or set run.gpu for a rate "
            f"on paper; or remove run.{limits[0]} for the first run, which measures it for later ones."
        )
    for name, what, found, limit in (
        ("max_hours", "take", hours, run.max_hours),
        ("max_price", "cost", money, run.max_price),
    ):
        if limit is None or found is None or found.value <= limit:
            continue
        unit = f" hours on {counted(price.times[0].actors, 'actor')}" if name == "max_hours" else ""
        raise TooExpensive(
            f"The run would {what} ~{_number(found.value)}{unit}, and run.{name} allows {_number(limit)}. Nothing was "
            "embedded or published. `sfr-batch plan CONFIG --compare` shows what it is made of. If it is meant: "
            f"run.{name}={_ceiling(found.value)} for this run. If not: embed a part (select), or correct the corpus or "
            "its settings."
        )


def _number(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.01 else f"{value:.1e}"


def _ceiling(value: float) -> str:
    """A limit that the same run keeps, though its estimate may differ a little the next time."""
    return f"{value * 1.5:.2g}" if value < 10 else f"{value * 1.5:.0f}"
