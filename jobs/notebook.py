"""Runs `backfill.ipynb` from top to bottom, and keeps its outputs free of places and people.

    python -m jobs.notebook         run every cell in a new kernel and write the outputs into the file

What the cells say of this machine, its folders, addresses and users, is replaced by what a README would say. The file
also gets a hash of its code, so that a test can tell whether its outputs are those of its cells. Knows no cell.
"""

import copy
import getpass
import hashlib
import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import nbclient
import nbformat

from jobs import local_head

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "jobs" / "backfill.ipynb"
PARAMETERS = "parameters"
"""Tag of the cell after which a run may set its variables anew."""
RAN = "code_that_ran"
"""Key of the hash in the file's metadata."""
MOST_BYTES = 500_000
_CELL_S = 1800

_IP = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"
_LOOKS_LIKE = {
    "a path": r"(?<![\w.…:/<-])/(?:[\w.+-]+/)+[\w.+-]+|(?<![\w])(?:file://|~/|[A-Z]:\\)[\w.]",
    "an IP address": rf"{_IP}|\blocalhost\b",
    "an address": r"https?://(?!HEAD)[\w.-]+:\d+",
    "a user and a host": r"(?<![\w.])(?!you@laptop\b)[\w.-]+@(?!\d+\b)[\w-]+"
    r"|user='(?!you')[^']*|host='(?!laptop')[^']*|run \d{8}T\S+ of (?!you on laptop)\S+ on \S+",
    "a secret": r"(?<![0-9a-f])[0-9a-f]{32,}(?![0-9a-f])",
}


def read(path: Path = NOTEBOOK) -> Any:
    """The notebook, as nbformat has it."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def with_parameters(notebook: Any, **values: str | int) -> Any:
    """A copy whose cell of parameters goes on to set these names: a folder is a text."""
    own = copy.deepcopy(notebook)
    (cell,) = (cell for cell in own.cells if PARAMETERS in cell.metadata.get("tags", ()))
    for name, value in values.items():
        cell.source += f"\n{name} = Path({value!r})" if isinstance(value, str) else f"\n{name} = {value!r}"
    return own


def execute(notebook: Any, said: Callable[[str], object] = lambda line: None) -> None:
    """Run all cells in a kernel of their own, in the folder of the notebook. Raises CellExecutionError."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=_CELL_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: said(f"cell {cell_index} done"),
    )
    client.execute()


def hash_of_code(notebook: Any) -> str:
    """Of what the cells of code say, but for the outputs."""
    sources = [cell.source for cell in code_cells(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]


def places_of_here(folder: str) -> dict[str, str]:
    """What is only true of this machine, and what stands for it; longer ones first. folder: of the run's files."""
    user, host = getpass.getuser(), socket.gethostname()
    found = {
        folder: "…/demo",
        str(ROOT): "…",
        sys.prefix: "….venv",
        sys.base_prefix: "…/python",
        str(Path.home()): "~",
        f"{user}@{host}": "you@laptop",
        f"{user} on {host}": "you on laptop",
        f"user='{user}', host='{host}'": "user='you', host='laptop'",
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def scrub(notebook: Any, places: dict[str, str]) -> None:
    """Replace places in the outputs, and drop what a run adds to the cells."""
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = nbformat.from_dict(_replaced(cell.outputs, places))
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            RAN: hash_of_code(notebook),
        }
    )


def _replaced(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "image/png" else _replaced(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, places) for item in value]
    if isinstance(value, str):
        for place, instead in places.items():
            value = value.replace(place, instead)
        value = re.sub(r"https?://127\.0\.0\.1:\d+", "http://HEAD:8265", value)
        return re.sub(rf"{_IP}(:\d+)?", "HEAD:6379", value)
    return value


def problems(notebook: Any) -> Iterator[str]:
    """What a file that is given to others must not have: each is one sentence."""
    if notebook.metadata.get(RAN) != hash_of_code(notebook):
        yield "the code is not that which ran: python -m jobs.notebook runs it"
    numbers = [cell.execution_count for cell in code_cells(notebook)]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the cells did not run from top to bottom: {numbers}"
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell [{number}] has an output of the kind {output.get('name', 'error')}"
            for text in _texts(output):
                for what, pattern in _LOOKS_LIKE.items():
                    if found := re.search(pattern, text):
                        yield f"cell [{number}] shows {what}: {found[0]}"
    if (size := len(nbformat.writes(notebook).encode())) > MOST_BYTES:
        yield f"it has {size:,} bytes, and may have {MOST_BYTES:,}"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "image/png":
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


@click.command(help=__doc__)
def main() -> None:
    """Run the notebook and keep its outputs."""
    began = time.monotonic()
    notebook = read()
    with tempfile.TemporaryDirectory(prefix="sfr-notebook-") as folder:
        ran = with_parameters(notebook, FOLDER=folder)
        try:
            execute(ran, lambda line: click.echo(f"{time.monotonic() - began:5.0f} s  {line}"))
        finally:
            local_head.stop(f"{folder}/head")  # of a run that did not come to its last cell
        for cell, done in zip(code_cells(notebook), code_cells(ran), strict=True):
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
        scrub(notebook, places_of_here(folder))
    if found := list(problems(notebook)):
        raise click.ClickException("The outputs are not written:\n" + "\n".join(found))
    nbformat.write(notebook, NOTEBOOK)
    click.echo(f"{os.path.relpath(NOTEBOOK)}: {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
