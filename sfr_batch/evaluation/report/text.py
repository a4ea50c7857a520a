"""An evaluation as text for a terminal, as Markdown and as HTML: one set of lines, shown in three ways.

Knows the values of a report; measures and compares nothing.
"""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sfr_batch.errors import counted
from sfr_batch.evaluation.measures.clustering import SEEDS
from sfr_batch.evaluation.published.comparison import DIFFERS, EQUAL, NOT_PUBLISHED, OTHER_DATA, Average, Row
from sfr_batch.evaluation.published.harness import OTHER_REVISION
from sfr_batch.evaluation.published.values import Published
from sfr_batch.evaluation.results import Made, OverSeeds
from sfr_batch.evaluation.task_files import (
    CLASSIFICATION,
    CLUSTERING,
    MAIN_SCORES,
    PAIR_CLASSIFICATION,
    RERANKING,
    RETRIEVAL,
    STS,
    SUMMARIZATION,
)
from sfr_batch.format.on_screen import printable, shown

WIDTH = 80
"""Characters of a line on a terminal."""
LABELS = {
    RETRIEVAL: "Retrieval",
    RERANKING: "Reranking",
    STS: "STS",
    PAIR_CLASSIFICATION: "Pair classification",
    CLASSIFICATION: "Classification",
    CLUSTERING: "Clustering",
    SUMMARIZATION: "Summarization",
}
_NAME = 41
"""Characters of the first column."""
_INDENT = {"type": "", "task": "  ", "seeds": "    ", "mean": "  "}
_HASH = 16
"""Characters of a hash that are shown where it is not the point."""
_HEAD = ("task", "ours", "published", "diff.", "verdict", "notes")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table, whose cells are text."""

    kind: Literal["type", "task", "seeds", "mean"]
    name: str
    ours: str = ""
    published: str = ""
    difference: str = ""
    verdict: str = ""
    notes: str = ""


def summary(rows: Sequence[Row]) -> str:
    """How many tasks were scored, and how they lie beside published scores."""
    parts = [counted(len(rows), "task")]
    words = {
        EQUAL: "equal to the published score within tolerance",
        DIFFERS: "different",
        OTHER_DATA: "published of other data alone",
        NOT_PUBLISHED: "not published",
    }
    if any(row.source for row in rows):
        for verdict, word in words.items():
            number = sum(row.verdict == verdict for row in rows)
            parts += [f"{number} {word}"] if number else []
    return ", ".join(parts)


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Every sentence that a row points to, once, in the order of the table."""
    ordered = [row for kind in MAIN_SCORES for row in rows if row.task.type == kind]
    known = [note for row in ordered for note in row.differences]
    return list(dict.fromkeys([*known, *(row.why for row in ordered if row.why)]))


def lines(rows: Sequence[Row], means: Sequence[Average], notes: Sequence[str]) -> Iterator[Line]:
    """The table: by type its tasks and their mean, and last the mean over all."""
    number = {note: str(at) for at, note in enumerate(notes, start=1)}
    for kind, label in LABELS.items():
        own = [row for row in rows if row.task.type == kind]
        if not own:
            continue
        beside = [row for row in own if row.source]
        common = [note for note in notes if beside and all(note in row.differences for row in beside)]
        common = common if len(own) > 1 else []
        yield Line("type", f"{label}, {MAIN_SCORES[kind]}", notes=", ".join(number[note] for note in common))
        for row in own:
            special = [note for note in notes if note in (*row.differences, row.why) and note not in common]
            yield from _task_lines(row, ", ".join(number[note] for note in special))
        if len(own) > 1:
            yield from (_mean_line(mean, len(own)) for mean in means if mean.type == kind)
    if len({row.task.type for row in rows}) > 1:
        yield Line("type", "All types")
        yield from (_mean_line(mean, len(rows)) for mean in means if mean.type is None)


def _task_lines(row: Row, notes: str) -> Iterator[Line]:
    """One; or of a score over several seeds two, for it is the mean that stands beside the published score."""
    task = row.task
    name = shown(task.name) + (f" ({task.subset})" if task.subset != "default" else "")
    name += f", {task.main_score}" if task.main_score != MAIN_SCORES[task.type] else ""
    verdict = {NOT_PUBLISHED: "", OTHER_DATA: "other"}.get(row.verdict, row.verdict)  # a note says what it is of
    beside = (points(row.published), signed(row.difference), verdict, notes)
    if not row.over_seeds:
        yield Line("task", name, points(row.ours), *beside)
        return
    yield Line("task", name, points(row.ours))
    yield Line("seeds", over_seeds(row.over_seeds), points(row.over_seeds.mean), *beside)


def over_seeds(score: OverSeeds) -> str:
    """What a line with a mean over seeds is called."""
    return f"mean over {len(SEEDS)} seeds (std {points(score.std)})"


def _mean_line(mean: Average, tasks: int) -> Line:
    only = " with a published score" if mean.published is not None and mean.tasks < tasks else ""
    difference = None if mean.published is None else mean.ours - mean.published
    name = f"mean of {counted(mean.tasks, 'task')}{only}"
    return Line("mean", name, points(mean.ours), points(mean.published), signed(difference))


def points(score: float | None) -> str:
    """A score times 100, with two decimals; nothing for None."""
    if score is None:
        return ""
    return "no number" if math.isnan(score) else f"{100 * score:.2f}"


def signed(difference: float | None) -> str:
    """A difference of scores in points, with its sign; never -0.00."""
    if difference is None or math.isnan(difference):
        return ""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"


def sources(published: Sequence[Published]) -> Iterator[str]:
    """A sentence for each source of published scores."""
    for own in published:
        what = "the model card" if own.kind == "card" else "results of mteb"
        model = f" of {shown(own.model)}" if own.model else ""
        yield f"Published: {what}{model}, {shown(own.source, 300)}."
        yield from own.remarks


def means_over(rows: Sequence[Row]) -> str:
    """What the means are over: a reader may take them for those of a whole benchmark."""
    if len(rows) < 2:
        return "Scores are times 100."
    drawn = ", by its mean over seeds if it has one" if any(row.over_seeds for row in rows) else ""
    return f"Means are over the {len(rows)} tasks that were scored, each counting once{drawn}; scores are times 100."


def details(row: Row) -> Iterator[tuple[str, str]]:
    """What a score depends on beside the model: data, prompts, and what a reader should know. Names and values."""
    result, task = row.result, row.task
    amounts = ", ".join(f"{number:,} {name}" for name, number in result.counts.items())
    subset = f", subset {task.subset}" if task.subset != "default" else ""
    yield "data", f"{shown(result.data, 300)}, split {task.split}{subset}"
    yield "version", result.version + (f" ({amounts})" if amounts else "")
    if OTHER_REVISION in row.differences:
        yield "revision", f"{task.revision}; published: {row.revision}"
    yield from ((f"prompt of {name}", _prompt(prompt)) for name, prompt in result.prompts.items())
    if result.parts:
        scored = [f"{name} {points(scores.get(task.main_score))}" for name, scores in result.parts.items()]
        yield "parts", ", ".join(scored)
    yield from (("remark", remark) for remark in result.remarks)
    yield from ((name, shown(uri, 300)) for name, uri in result.files.items())


def _prompt(prompt: str) -> str:
    return repr(prompt) if prompt else "none"


def made_with(made: Made) -> Iterator[tuple[str, str]]:
    """What all scores were made with. Names and values."""
    yield "model", shown(made.model, 300)
    yield "fingerprint", made.fingerprint
    yield "inputs", ", ".join(f"{name} {_short(value)}" for name, value in made.inputs.items())
    yield "versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())


def _short(value: object) -> str:
    text = shown(value, 300)
    return text if " " in text or len(text) <= 2 * _HASH else f"{text[:_HASH]}…"


# --- for a terminal


def as_text(made: Made, rows: Sequence[Row], means: Sequence[Average], published: Sequence[Published]) -> str:
    """The report in lines of at most WIDTH characters, but for words that are longer."""
    notes = notes_of(rows)
    beside = any(row.source for row in rows)
    out = [*_wrapped(f"{shown(made.model, 300)}, fingerprint {made.fingerprint[:_HASH]}: {summary(rows)}.")]
    out += [line for sentence in sources(published) for line in _wrapped(sentence)]
    out += ["", _columns(_HEAD if beside else _HEAD[:2])] if rows else []
    for line in lines(rows, means, notes):
        out += [""] if line.kind == "type" else []
        out.append(_text_line(line))
    out += ["", *_wrapped(means_over(rows))] if rows else []
    if notes:
        out += ["", "Notes"]
        for at, note in enumerate(notes, start=1):
            out += _wrapped(note, f"{at:>3}  ")
    for row in rows:
        out += ["", shown(row.task.name)]
        out += [line for name, value in details(row) for line in _wrapped(f"{name}: {value}", "  ", "    ")]
    out += ["", "Made with"]
    out += [line for name, value in made_with(made) for line in _wrapped(f"{name}: {value}", "  ", "    ")]
    return printable("\n".join(out))


def _text_line(line: Line) -> str:
    if line.kind == "type":
        return line.name + (f" (notes {line.notes})" if line.notes else "")
    name = _INDENT[line.kind] + line.name
    cells = (line.ours, line.published, line.difference, line.verdict, line.notes)
    if len(name) > _NAME:
        return f"{name}\n{_columns(('', *cells))}" if any(cells) else name
    return _columns((name, *cells))


def _columns(cells: Sequence[str]) -> str:
    name, ours, published, difference, verdict, notes = (*cells, *[""] * (6 - len(cells)))
    return f"{name:<{_NAME}}{ours:>6} {published:>9} {difference:>6}  {verdict:<7} {notes.replace(' ', '')}".rstrip()


def _wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    other = " " * len(first) if rest is None else rest
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=other, break_long_words=False, break_on_hyphens=False
    )


# --- as Markdown and HTML


def as_markdown(made: Made, rows: Sequence[Row], means: Sequence[Average], published: Sequence[Published]) -> str:
    """The report with a table, and below it notes, data and prompts."""
    notes = notes_of(rows)
    out = [f"# {_plain(made.model)}", "", _plain(f"{summary(rows)}. Fingerprint {made.fingerprint}.")]
    out += [f"\n{_plain(sentence)}" for sentence in sources(published)]
    out += ["", f"| {' | '.join(_HEAD)} |", "|---|--:|--:|--:|---|---|"]
    for line in lines(rows, means, notes):
        mark = {"type": "**", "mean": "*"}.get(line.kind, "")
        cells = (line.ours, line.published, line.difference, line.verdict, line.notes)
        out.append(f"| {' | '.join([f'{mark}{_plain(line.name)}{mark}', *cells])} |")
    out += ["", means_over(rows), ""]
    out += [f"{at}. {_plain(note)}" for at, note in enumerate(notes, start=1)]
    out += ["", "## Data and prompts"]
    for row in rows:
        out += ["", f"**{_plain(row.task.name)}**", ""]
        out += [f"- {name}: {_plain(value)}" for name, value in details(row)]
    out += ["", "## Made with", "", *(f"- {name}: {_plain(value)}" for name, value in made_with(made))]
    return printable("\n".join(out)) + "\n"


def _plain(text: str) -> str:
    """A text of others in Markdown: on one line, without what Markdown takes for a sign."""
    for sign in "\\|*_`<>[]#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split("\n"))


def as_html(
    table: Callable[..., str],
    made: Made,
    rows: Sequence[Row],
    means: Sequence[Average],
    published: Sequence[Published],
) -> str:
    """The report as tables of a notebook. table: `format.notebook.html_table`."""
    notes = notes_of(rows)
    title = "\n".join([f"{made.model}, fingerprint {made.fingerprint[:_HASH]}: {summary(rows)}.", *sources(published)])
    cells = [(_INDENT[line.kind] + line.name, *_cells(line)) for line in lines(rows, means, notes)]
    scores = table(cells, head=_HEAD, title=title, numbers=(1, 2, 3))
    below = [table(enumerate(notes, start=1), title=means_over(rows), numbers=(0,))]
    data = [(row.task.name, "\n".join(f"{name}: {value}" for name, value in details(row))) for row in rows]
    below.append(table([*data, ("made with", "\n".join(f"{name}: {value}" for name, value in made_with(made)))]))
    folded = f"<details><summary>Data, prompts, versions</summary>{below[1]}</details>"
    return scores + below[0] + folded


def _cells(line: Line) -> tuple[str, ...]:
    return line.ours, line.published, line.difference, line.verdict, line.notes
