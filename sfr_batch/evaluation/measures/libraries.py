"""The libraries that compute scores: an extra, imported only where a score is computed. Knows no measure."""

import importlib.util

from sfr_batch.errors import ConfigError

PACKAGES = ("pytrec_eval", "sklearn", "scipy")
"""What the measures import, by the names of imports."""


def need_libraries() -> None:
    """Raises ConfigError if a library of the measures is missing. Imports none of them, so it costs nothing early."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"Scores are computed by {', '.join(missing)}, not installed here: pip install 'sfr-batch[evaluation]'."
        )
