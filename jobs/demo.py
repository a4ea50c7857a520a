"""The demo: a real corpus, a real model, a searchable table, on any machine with two cores in a few minutes.

    python jobs/demo.py                      12,500 docstrings of the installed packages, then three searches
    python jobs/demo.py --documents 1000     a smaller sample

Everything is written to ./demo. Run it again: nothing is embedded twice.
"""

import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sfr_batch.cli.start import run

if __name__ == "__main__":  # before the imports below, which take a moment in which Ctrl-C must be a sentence, too
    run(lambda: import_module("jobs.demo").main)

import click

import sfr_batch as sfr
from jobs.docstrings import write_docstring_corpus
from sfr_batch.cli.options import report_errors
from sfr_batch.format.on_screen import shown, shown_id
from sfr_batch.pipeline import interrupt

QUESTIONS = (
    "read only some columns of a parquet file",
    "stop training when the loss no longer improves",
    "wait until one of several tasks has finished",
)


@click.command(help=__doc__)
@click.option("--documents", default=12_500, show_default=True, type=click.IntRange(1), help="Size of the sample.")
@click.option(
    "--folder", default="demo", show_default=True, type=click.Path(file_okay=False), help="Folder to write to."
)
def main(documents: int, folder: str) -> None:
    """Write the corpus, embed it, search it."""
    with report_errors(changes=True, stopped=interrupt.state):
        print(f"It embeds and searches {documents:,} docstrings of installed packages.", flush=True)
        corpus = write_docstring_corpus(f"{folder}/corpus", documents)
        print(f"Corpus: {corpus.documents:,} docstrings, {corpus.bytes / 1e6:.1f} MB of text, in {corpus.folder}")
        paths = [f"corpus.path={corpus.folder}", f"table.path={folder}/table"]
        summary = sfr.embed(ROOT / "configs" / "demo.yaml", paths)
        print(summary.describe())
        table = sfr.open_table(summary.table)
        for question in QUESTIONS:
            print(f"\n{question}?")
            for hit in table.search(question, k=3, columns=["text"]):
                print(f"  {hit.score:.3f}  {shown_id(hit.id)}\n         {shown(hit.row['text'], 90)}")
