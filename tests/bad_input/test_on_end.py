"""Bad input: whom to tell of the end of a run. Each way out is followed to the letter."""

import pytest

from tests.bad_input.bench import Bench, Row, check_row, environment

IN_VARIABLE = ("run.on_end=${SFR_HOOK}",)

ROWS = [
    Row("a URL with credentials",
        "{root}/job.yaml has 1 wrong setting:\n  config: The URL in run.on_end contains credentials before its host. "
        "They would end up in logs. Put the whole URL into an environment variable, and write run.on_end: ${NAME}.",
        code=2, overrides=("run.on_end=https://me:hunter2@127.0.0.1:1/",)),
    Row("the same in a variable", phase="done", prepare=environment(SFR_HOOK="https://me:hunter2@127.0.0.1:1/"),
        overrides=IN_VARIABLE),
    Row("a variable that is not set",
        "The environment variable SFR_HOOK is not set, but the config refers to it as ${SFR_HOOK}. Export it, on a "
        "cluster on every node.", code=2, prepare=environment(SFR_HOOK=None), overrides=IN_VARIABLE),
    Row("the same when it is set", phase="done", prepare=environment(SFR_HOOK="true"), overrides=IN_VARIABLE),
    Row("a URL of another kind",
        "{root}/job.yaml has 1 wrong setting:\n  run.on_end: must be a command for the shell, or a URL that begins "
        "with http:// or https://", code=2, overrides=("run.on_end=smtp://127.0.0.1:1",)),
    Row("nobody", "{root}/job.yaml has 1 wrong setting:\n  run.on_end: {*}", code=2, overrides=("run.on_end=''",)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)
