"""The command `encode`: the vectors of texts for other services, by the model of a table."""

import io
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli import output_file
from sfr_batch.cli.options import ENDPOINT, NOTHING, report_errors
from sfr_batch.errors import ConfigError, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfr_batch.evaluation.data.given_texts import GivenTexts

_NPY = ".npy"
_OUTPUTS = (output_file.PARQUET, output_file.JSONL, _NPY)
_NUMBER = "number"
"""The key of a text without an id."""


@click.command()
@click.argument("table")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--file", metavar="FILE", help="Encode the texts of this file; default without TEXT: of stdin.")
@click.option("--column", metavar="NAME", help="The column of FILE that has the texts; default: text.")
@click.option(
    "--prompt", default="query", show_default=True, help="What is put before each text: query, document, none."
)
@click.option("--output", metavar="FILE", help="Write to this new file, .parquet, .jsonl or .npy; default: stdout.")
@ENDPOINT
def encode(
    table: str,
    texts: tuple[str, ...],
    file: str | None,
    column: str | None,
    prompt: str,
    output: str | None,
    endpoint_url: str | None,
) -> None:
    """Print the vectors of texts, by the model that made TABLE: for a service that searches elsewhere.

    The vectors are those that `search` compares with the table, and with --prompt document those that `embed` writes.
    If the model at its path is no longer the one that made TABLE, nothing is encoded. TABLE may be a pointer.

    FILE, on disk or s3://, is JSON Lines, CSV, TSV or Parquet with a column text, and ids in a column _id or id if it
    has one; any other file is a text a line, as is stdin. All texts are checked before the model is loaded.

    Prints a JSON line for each text, in their order: its id, or its number from 0, and embedding: float32 numbers, unit
    length. A .parquet or .jsonl file has the same columns, a .npy file the matrix. Texts that are longer than the model
    takes are cut, and counted on stderr.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.evaluation.encoding import prepare, vectors_of

    with report_errors(changes=output is not None, stopped=NOTHING):
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        if output:
            output_file.check_new(output, _OUTPUTS, storage)
        opened = api.open_table(table, storage)
        if output:
            output_file.check_beside(output, opened.store, storage)
        given = _given(texts, file, column, storage)
        prepared = prepare(opened.encoder, given, prompt)
        if prepared.cut:
            click.echo(prepared.cut_told(opened.encoder.recipe.max_length), err=True)
        parts = vectors_of(opened.encoder, prepared)
        if output is None:
            for line in _lines(given, parts):
                click.echo(line)
            return
        output_file.create(output, _content(output, given, parts), storage)
        click.echo(f"Wrote {counted(len(given.texts), 'vector')} of {opened.dim:,} numbers to {output}.")


def _given(
    texts: tuple[str, ...], file: str | None, column: str | None, storage: "api.StorageSettings"
) -> "GivenTexts":
    """The texts of the arguments, of the file or of stdin. Raises ConfigError if it is not clear which are meant."""
    from sfr_batch.evaluation.data import given_texts

    if column and not file:
        raise ConfigError("--column is for the texts of --file.")
    if texts and file:
        raise ConfigError("Give TEXT or --file, not both.")
    if file:
        return given_texts.of_file(file, storage, column)
    if texts:
        return given_texts.of_arguments(texts)
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError("There is nothing to encode. Give TEXT, --file FILE, or a text a line on stdin.")
    return given_texts.of_lines(sys.stdin.buffer, "stdin")


def _records(given: "GivenTexts", parts: "Iterable[NDArray[np.float32]]") -> Iterable[dict[str, Any]]:
    from sfr_batch.format import names

    key = _NUMBER if given.ids is None else names.ID
    vectors = (vector for part in parts for vector in part)
    return ({key: own, names.EMBEDDING: vector.tolist()} for own, vector in zip(given.keys, vectors, strict=True))


def _lines(given: "GivenTexts", parts: "Iterable[NDArray[np.float32]]") -> Iterable[str]:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) for record in _records(given, parts))


def _content(output: str, given: "GivenTexts", parts: "Iterable[NDArray[np.float32]]") -> bytes:
    if output.lower().endswith(output_file.JSONL):
        return "".join(f"{line}\n" for line in _lines(given, parts)).encode()
    import numpy as np
    import pyarrow as pa

    from sfr_batch.format import names
    from sfr_batch.format.parquet import encode_parquet

    matrix = np.concatenate(list(parts))
    if output.lower().endswith(_NPY):
        file = io.BytesIO()
        np.save(file, matrix)
        return file.getvalue()
    keys = {_NUMBER: pa.array(range(len(matrix)))} if given.ids is None else {names.ID: pa.array(given.ids)}
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
    return encode_parquet(pa.table({**keys, names.EMBEDDING: vectors}))
