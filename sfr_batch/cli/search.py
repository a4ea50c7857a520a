"""The command `search`: the rows of a table that are nearest to a query, or to each query of a file."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli import output_file
from sfr_batch.cli.options import ENDPOINT, NOTHING, on_ray, report_errors
from sfr_batch.errors import ConfigError, counted
from sfr_batch.format.on_screen import shown, shown_id

if TYPE_CHECKING:
    import pyarrow as pa

    from sfr_batch.evaluation.data.given_texts import GivenTexts
    from sfr_batch.table.search import Matches

_OUTPUTS = (output_file.PARQUET, output_file.JSONL)
_LINES_AT_ONCE = 4096


@click.command()
@click.argument("table")
@click.argument("query", required=False)
@click.option("--queries", metavar="FILE", help="Search for each text of this file, in place of QUERY.")
@click.option("--column", metavar="NAME", help="The column of FILE that has the texts; default: text.")
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(1), help="Number of rows to return.")
@click.option("--show", multiple=True, metavar="COLUMN", help="Column to print with each hit; repeatable.")
@click.option("--where", metavar="CONDITION", help="Search only these rows, e.g. \"package = 'numpy'\"; see export.")
@click.option("--prompt", default="query", show_default=True, help="What is put before each query; none: nothing.")
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to search; default: the newest.")
@click.option("--json", "as_lines", is_flag=True, help="Print a JSON line per hit: score, id and the shown columns.")
@click.option("--output", metavar="FILE", help="With --queries: write to this new file, .parquet or .jsonl.")
@on_ray
@ENDPOINT
def search(
    table: str,
    query: str | None,
    queries: str | None,
    column: str | None,
    k: int,
    show: tuple[str, ...],
    where: str | None,
    prompt: str,
    snapshot: int | None,
    as_lines: bool,
    output: str | None,
    ray_address: str | None,
    shared_path: bool,
    endpoint_url: str | None,
) -> None:
    """Find the rows of TABLE that are nearest to QUERY: exact, by cosine, in one snapshot.

    Prints score and id. Where documents are cut into chunks, the number of the chunk follows the id: `id [2]`.

    --queries searches for all texts of FILE in one pass over TABLE. FILE, on disk or s3://, is JSON Lines, CSV, TSV or
    Parquet with a column text, query or question, and ids in a column _id or id if it has one; any other file is a text
    a line. All texts are checked before the model is loaded. It prints, or writes, a row for each hit: the id of its
    query, or the query's number from 0; its rank, from 0; score, id and the shown columns.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.table.search import Search

    with report_errors(changes=output is not None, stopped=NOTHING):
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        _check_options(query, queries, column, output, as_lines)
        if output:
            output_file.check_new(output, _OUTPUTS, storage)
        opened = api.open_table(table, storage)
        if output:
            output_file.check_beside(output, opened.store, storage)
        state = opened.current() if snapshot is None else opened.snapshot(snapshot)
        asked = Search.of(state, k, show, where)  # what is wrong is said before the model is loaded
        given = _given(query, queries, column, storage)
        with api.on_ray(ray_address, shared_path=shared_path, rows=asked.scan.live) as executor:
            vectors = _encoded(opened, given, prompt)
            found = opened.search_many(vectors, k, show, where=where, snapshot=state.number, executor=executor)
        if queries:
            _tell(found, given, output, storage)
        else:
            _show(found, show, as_lines)


def _check_options(
    query: str | None, queries: str | None, column: str | None, output: str | None, as_lines: bool
) -> None:
    if (query is None) == (queries is None):
        raise ConfigError("Give QUERY, or a file of them: --queries FILE.")
    if queries is None and (column or output):
        raise ConfigError(f"{'--column' if column else '--output'} is for the texts of --queries FILE.")
    if output and as_lines:
        raise ConfigError("Give --output or --json, not both.")


def _given(query: str | None, queries: str | None, column: str | None, storage: "api.StorageSettings") -> "GivenTexts":
    from sfr_batch.evaluation.data import given_texts
    from sfr_batch.table.queries import check_texts

    if queries is not None:
        return given_texts.of_file(queries, storage, column)
    return given_texts.of_arguments(check_texts([query]))


def _encoded(opened: "api.EmbeddingTable", given: "GivenTexts", prompt: str) -> Any:
    """[q, d] float32 of unit length."""
    import numpy as np

    from sfr_batch.evaluation.encoding import prepare, vectors_of

    prepared = prepare(opened.encoder, given, prompt)
    if prepared.cut:
        click.echo(prepared.cut_told(opened.encoder.recipe.max_length), err=True)
    return np.concatenate(list(vectors_of(opened.encoder, prepared)))


def _show(found: "Matches", show: tuple[str, ...], as_lines: bool) -> None:
    """Print the hits of one query."""
    from sfr_batch.format import names

    for hit in found[0]:
        if as_lines:
            click.echo(json.dumps(hit.as_json(), ensure_ascii=False, allow_nan=False))
            continue
        chunk = f" [{hit.row[names.CHUNK]}]" if names.CHUNK in hit.row else ""
        click.echo(f"{hit.score:.4f}  {shown_id(hit.id)}{chunk}")
        for column in dict.fromkeys(show):
            click.echo("        " + shown(hit.row[column]))


def _tell(found: "Matches", given: "GivenTexts", output: str | None, storage: "api.StorageSettings") -> None:
    """Print or write the hits of all queries."""
    import pyarrow as pa

    hits = found.to_arrow()
    keys = pa.array(given.keys).take(hits.column(0))
    hits = hits.set_column(0, hits.column_names[0], keys)
    if output is None:
        for line in _lines(hits):
            click.echo(line)
        return
    if output.lower().endswith(output_file.JSONL):
        content = "".join(f"{line}\n" for line in _lines(hits)).encode()
    else:
        from sfr_batch.format.parquet import encode_parquet

        content = encode_parquet(hits)
    output_file.create(output, content, storage)
    queries = counted(len(given.texts), "query", "queries")
    click.echo(f"Wrote {counted(hits.num_rows, 'hit')} of {queries} to {output}.")


def _lines(hits: "pa.Table") -> Iterator[str]:
    from sfr_batch.table.json_values import rows_as_json

    for batch in hits.to_batches(max_chunksize=_LINES_AT_ONCE):
        yield from (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows_as_json(batch))
