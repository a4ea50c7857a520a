"""The command `score`: a table, or two of them, and questions of one's own."""

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import ENDPOINT, report_errors
from sfr_batch.errors import ConfigError
from sfr_batch.format.on_screen import shown_message

_NUMBER = click.IntRange(1)


@click.command()
@click.argument("table")
@click.argument("questions")
@click.option("--qrels", metavar="FILE", help="The judgements, if QUESTIONS is a file of queries with ids.")
@click.option("--against", metavar="OLD", help="Compare with the answers of this table, which is the one before.")
@click.option("-k", "k", default=100, show_default=True, type=_NUMBER, help="Documents to look at for each question.")
@click.option("--prompt", default="query", show_default=True, help="Prompt before each question; none: without one.")
@click.option(
    "--column", "columns", multiple=True, metavar="ROLE=NAME", help="Name of a column: query, document, grade."
)
@click.option("--snapshot", type=_NUMBER, help="Number of the snapshot of TABLE; default: the newest.")
@click.option("--against-snapshot", type=_NUMBER, help="Number of the snapshot of OLD; default: the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every question and its documents.")
@ENDPOINT
def score(
    table: str,
    questions: str,
    qrels: str | None,
    against: str | None,
    k: int,
    prompt: str,
    columns: tuple[str, ...],
    snapshot: int | None,
    against_snapshot: int | None,
    as_json: bool,
    endpoint_url: str | None,
) -> None:
    """Score TABLE with questions of your own: nDCG, recall, MRR, MAP, by exact search. TABLE may be of any corpus.

    QUESTIONS, on disk or s3://, is a file of judgements, with a row for each document that answers a question: columns
    query (or question) and document (or doc_id, corpus-id), and perhaps grade, 1 or more where some answer better, 0
    for no answer. Or it is a folder with queries.jsonl and qrels.tsv or qrels/test.tsv (BEIR), or queries.jsonl with
    --qrels. All is checked before the model is loaded; documents that TABLE does not have are counted and named.

    With --against, both tables are asked, each by its own model: what was gained and lost, whether that may be chance
    (paired randomization test), overlap@k of the answers, and the questions that lost most. Questions without
    judgements are enough, a text a line. OLD may be TABLE itself with --against-snapshot.

    \b
        sfr-batch score demo/table judged.csv
        sfr-batch score demo/float16 questions.txt --against demo/table

    Exit codes: 0 done, whatever the scores; 1 failed, 2 the command is wrong.
    """
    with report_errors():
        if against_snapshot and not against:
            raise ConfigError("--against-snapshot is for the table of --against.")
        storage = api.StorageSettings(endpoint_url=endpoint_url)
        opened, named = api.open_table(table, storage), _roles(columns)

        def say(remark: str) -> None:
            click.echo(shown_message(remark), err=True)

        found: api.TableScores | api.TableComparison
        if against:
            old = api.open_table(against, storage)
            found = opened.compare(
                old,
                questions,
                qrels,
                k=k,
                prompt=prompt,
                snapshot=snapshot,
                against_snapshot=against_snapshot,
                columns=named,
                storage=storage,
                say=say,
            )
        else:
            found = opened.evaluate(
                questions, qrels, k=k, prompt=prompt, snapshot=snapshot, columns=named, storage=storage, say=say
            )
        click.echo(found.to_json() if as_json else found.describe())


def _roles(columns: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in columns:
        role, sign, name = text.partition("=")
        if not (role and sign and name):
            raise ConfigError(f"--column {text}: write ROLE=NAME, e.g. query=question.")
        found[role] = name
    return found
