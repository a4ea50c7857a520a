"""Results for people and for files: tables on the terminal, results.json, a chart. Measures nothing."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs.benchmark.contenders import BARE, CONTENDERS
from jobs.benchmark.pipeline import Comparison
from sfr_batch.errors import counted

_RIVALS = ("sentence-transformers", "ray-data")
_RIVALS_WHOLE = (*_RIVALS, "daft")  # Daft does not tell when what was done
_CPU = "CPU s/100k"
_PACKAGES = (
    "sfr-batch",
    "torch",
    "transformers",
    "tokenizers",
    "ray",
    "pyarrow",
    "numpy",
    "sentence-transformers",
    "daft",
)
# Okabe and Ito's palette, which people with any kind of colour vision tell apart.
_OURS, _BARE, _OTHERS = "#0072B2", "#999999", "#E69F00"


def tables(comparison: Comparison) -> str:
    """Two tables: the whole process, and steady state."""
    rows_whole, rows_steady = [], []
    for name in comparison.rounds:
        padding, cpu = comparison.rounds[name][0].padding, comparison.cpu_per_token(name)
        whole = [_number(comparison.seconds(name), 1), _number(comparison.cpu_seconds(name), 1)]
        whole += [_number(comparison.time_ratio(name, other), 2) for other in _RIVALS_WHOLE]
        peak = comparison.peak_bytes(name)
        rows_whole.append([CONTENDERS[name].label, *whole, _number(peak / 2**30 if peak else None, 2)])
        steady = [_number(comparison.tokens_per_second(name), 0)]
        steady += [_number(comparison.rate_ratio(name, other), 2) for other in (BARE, *_RIVALS)]
        steady += [_number(cpu, 1, 1e5), _number(padding, 1, 100)]
        rows_steady.append([CONTENDERS[name].label, *steady])
    head = f"{comparison.documents:,} documents, {comparison.tokens:,} tokens, {comparison.splits} splits"
    head += f", {counted(comparison.threads, 'thread')}"
    rounds = len(next(iter(comparison.rounds.values())))
    most = max(done.max_difference for all_done in comparison.rounds.values() for done in all_done)
    return "\n".join(
        [
            f"{head}; median of {rounds} round(s); the same vectors within {most:.1g}.",
            "",
            *aligned(
                ["Whole process", "seconds", "CPU s", "x s-t", "x Ray Data", "x Daft", "peak GiB"],
                rows_whole,
            ),
            "",
            *aligned(["Steady state", "tokens/s", "/ bare", "/ s-t", "/ Ray Data", _CPU, "padding %"], rows_steady),
        ]
    )


def _number(value: float | None, digits: int, factor: float = 1) -> str:
    return "–" if value is None else f"{factor * value:,.{digits}f}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return lines


def machine() -> dict[str, Any]:
    """Where it was measured: CPU, cores, memory, and the versions of what matters."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "gpu": _gpu(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: found for package in _PACKAGES if (found := _version(package))},
        "command": sys.argv,
    }


def _commit() -> str | None:
    """The commit of this repository, with a + if something is not committed; None outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parents[2])]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _gpu() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[0] if found else None


def _field(file: str, name: str) -> str | None:
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def to_json(comparison: Comparison, where: dict[str, Any]) -> str:
    """Everything that was measured, each round by itself, and the medians and ratios of the tables."""
    contenders = {}
    for name, rounds in comparison.rounds.items():
        contenders[name] = {
            "label": CONTENDERS[name].label,
            "command": comparison.commands[name],
            "seconds": comparison.seconds(name),
            "cpu_seconds": comparison.cpu_seconds(name),
            "peak_bytes": comparison.peak_bytes(name),
            "tokens_per_second": comparison.tokens_per_second(name),
            "tokens_per_second_ratio": {other: comparison.rate_ratio(name, other) for other in comparison.rounds},
            "speed_up_whole_process": {other: comparison.time_ratio(name, other) for other in comparison.rounds},
            "rounds": [asdict(done) for done in rounds],
        }
    corpus = {
        "model": comparison.model,
        "documents": comparison.documents,
        "tokens": comparison.tokens,
        "splits": comparison.splits,
        "threads": comparison.threads,
    }
    return json.dumps({"machine": where, "corpus": corpus, "contenders": contenders}, indent=1)


def draw(comparison: Comparison, where: dict[str, Any], file: Path) -> None:
    """Two bar charts side by side, every round a dot: seconds of the whole process, tokens per second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(comparison.rounds)
    labels = [CONTENDERS[name].label for name in names]
    colours = [_BARE if name == BARE else _OURS if name.startswith("sfr-batch") else _OTHERS for name in names]
    with plt.rc_context({"font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold"}):
        height = 1.9 + 0.55 * len(names)
        figure, axes = plt.subplots(1, 2, figsize=(12, height), sharey=True, layout="constrained")
        figure.set_constrained_layout_pads(wspace=0.1)
        panels = [
            ("Whole process (less is better)", "seconds", comparison.seconds, "{:,.1f}"),
            ("Steady state (more is better)", "tokens per second", comparison.tokens_per_second, "{:,.0f}"),
        ]
        for axis, (title, unit, median, form) in zip(axes, panels, strict=True):
            values = [median(name) for name in names]
            axis.barh(labels, [value or 0.0 for value in values], color=colours, height=0.62, zorder=2)
            for row, name in enumerate(names):
                rounds = comparison.rounds[name]
                told = [r.usage.seconds if unit == "seconds" else r.tokens_per_second for r in rounds]
                seen = [number for number in told if number is not None]
                axis.scatter(seen, [row] * len(seen), color="black", s=14, zorder=3, linewidths=0)
                axis.annotate(
                    "not told" if (value := values[row]) is None else form.format(value),
                    (max(seen, default=0), row),
                    xytext=(7, 0),
                    textcoords="offset points",
                    va="center",
                )
            axis.set_title(title, loc="left")
            axis.set_xlabel(unit)
            axis.margins(x=0.14)
            axis.set_xlim(left=0)
            axis.grid(axis="x", color="#dddddd", zorder=0)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(left=False)
            axis.xaxis.set_major_formatter("{x:,.0f}")
        axes[0].invert_yaxis()
        figure.text(
            0.005,
            -0.02,
            f"{comparison.documents:,} docstrings, {comparison.tokens:,} tokens, {comparison.splits} splits, "
            f"{comparison.model} in float32 on {where['cores']} cores of {where['cpu']}. Bars: median of "
            f"{len(next(iter(comparison.rounds.values())))} round(s), dots: each round.",
            fontsize=9,
            color="#444444",
            va="top",
        )
        figure.savefig(file, dpi=160, bbox_inches="tight", pad_inches=0.15)
        plt.close(figure)
