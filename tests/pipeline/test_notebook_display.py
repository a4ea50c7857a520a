"""What a notebook shows of a run: one display that is updated, and nothing else. A real kernel is in a slow test."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.encoder import libraries
from sfr_batch.errors import CorpusError, RunFailed, StorageError
from sfr_batch.format.run_accounts import RunAccount
from sfr_batch.format.run_progress import RunProgress
from sfr_batch.pipeline import display, notebook_display
from sfr_batch.pipeline.notebook_display import NotebookDisplay, Seen
from tests.pipeline.test_accounts import breaks_at, prepare
from tests.pipeline.test_accounts import tiny as tiny

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>\x1b[2J"


class Notebook:
    """A kernel that keeps what it is to show: a list of updates for each display."""

    def __init__(self) -> None:
        self.outputs: list[list[tuple[str, str]]] = []
        self.fails = False

    def display(self, shown: Any, display_id: bool = False) -> Any:
        if self.fails:
            raise RuntimeError("no browser")
        updates = [(repr(shown), shown._repr_html_())]
        self.outputs.append(updates)
        return SimpleNamespace(update=lambda new: updates.append((repr(new), new._repr_html_())))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    made = Notebook()
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    displays.display = made.display  # type: ignore[attr-defined]
    displays.HTML = lambda html: SimpleNamespace(_repr_html_=lambda: html)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    monkeypatch.setattr(notebook_display, "_AT_MOST_EVERY_S", 0.0)
    yield made
    assert display.board() is None


def test_a_run_is_one_display(
    tiny: Path, tmp_path: Path, notebook: Notebook, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(tmp_path, tiny)
    with monkeypatch.context() as broken:
        breaks_at(4, broken)
        with pytest.raises(RunFailed):
            sfr.embed(job, {"run.max_failed_splits": 0})
    sfr.embed(job)
    sfr.embed(job)
    sfr.embed(job, {"table.generation": "again"})
    failed, published, nothing, again = notebook.outputs
    assert [output[0][0] for output in notebook.outputs] == ["planning"] * 4
    assert "failed: RunFailed after 0:0" in failed[-1][0]
    assert "Nothing was published." in failed[-1][1]
    assert "published snapshot 1 after 0:0" in published[-1][0]
    assert "25 of 25 rows" in published[-1][1]
    assert nothing[-1][0].startswith("nothing to do")
    assert again[-1][0].endswith(
        "\nCompared the changed shards with the table: 0 new, 40 changed, 0 deleted, 0 unchanged"
    )
    assert capfd.readouterr().err == ""


def test_an_error_before_there_is_a_run(tmp_path: Path, tiny: Path, notebook: Notebook) -> None:
    job = prepare(tmp_path, tiny)
    with pytest.raises(CorpusError):
        sfr.embed(job, {"corpus.path": f"{tmp_path}/none"})
    (output,) = notebook.outputs
    assert output[-1][0].startswith("failed: CorpusError")


def test_a_display_that_fails_ends_no_run(tiny: Path, tmp_path: Path, notebook: Notebook) -> None:
    notebook.fails = True
    assert sfr.embed(prepare(tmp_path, tiny)).published
    assert notebook.outputs == []


def test_nothing_of_others_is_markup(notebook: Notebook) -> None:
    board = NotebookDisplay()
    board.show(RunProgress(EVIL, EVIL, EVIL, rows=3, splits=2, user=EVIL, host=EVIL, lost=EVIL, stop_with=EVIL))
    board.note(EVIL)
    board.trouble(StorageError(EVIL))
    board.end(RunAccount("r", "failed", error=EVIL, message=EVIL))
    (output,) = notebook.outputs
    assert len(output) == 4
    for text, html in output:
        assert "<script" not in html
        assert "\x1b" not in text + html


def test_few_updates_reach_the_browser(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """One a second where something changes, one in five where only time passes."""
    now = [1000.0]
    monkeypatch.setattr(notebook_display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(notebook_display, "_AT_MOST_EVERY_S", 1.0)
    board = NotebookDisplay()
    for tick in range(400):
        now[0] += 0.25
        board.show(RunProgress("t", "r", "encoding", rows=9, splits=9, splits_done=tick // 200, elapsed_s=tick / 4))
    assert 20 <= len(notebook.outputs[0]) <= 22


def test_watching_in_a_notebook(tmp_path: Path, notebook: Notebook) -> None:
    """The result of the cell does not show again what stands there; elsewhere it does."""
    from sfr_batch.storage.stores import open_store
    from tests.tables import make_table

    make_table(open_store(str(tmp_path)), {"a": ["x"]})
    found = sfr.open_table(tmp_path).watch()
    assert isinstance(found, Seen)
    assert (found.outcome, str(found).splitlines()[-1]) == ("none", "no run yet")
    found._ipython_display_()
    assert len(notebook.outputs) == 1
    found._ipython_display_()
    assert len(notebook.outputs) == 2


def test_verify_asks_for_no_widgets_before_a_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would warn on stderr, in the output of the cell."""
    asked: list[str] = []
    monkeypatch.setattr(notebook_display, "in_notebook", lambda: True)
    monkeypatch.setattr(notebook_display, "ask_for_no_widgets", lambda: asked.append("no widgets"))
    monkeypatch.setattr(libraries, "load_libraries", lambda: asked.append("libraries"))
    with pytest.raises(sfr.SfrBatchError):
        sfr.verify("none.yaml")
    assert asked == ["no widgets", "libraries"]


def test_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not notebook_display.in_notebook()
    ipython = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for shell in (None, SimpleNamespace()):  # no IPython runs, or one in a terminal
        ipython.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        assert not notebook_display.in_notebook()
    del ipython.get_ipython
    assert not notebook_display.in_notebook()


@pytest.mark.slow
def test_a_real_kernel(tiny: Path, tmp_path: Path) -> None:
    """One output for each run, that is updated; nothing on stderr; an interrupted cell says so."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (tmp_path / "job.yaml").write_text(json.dumps(prepare(tmp_path, tiny)))
    job = f"'{tmp_path}/job.yaml'"
    stop = "import os, signal, threading, time\nthreading.Timer(3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    slow = "from sfr_batch.pipeline import local\nread = local.read_stage.read_and_tokenize\n"
    slow += "local.read_stage.read_and_tokenize = lambda *a: (time.sleep(1) or row for row in read(*a))\n"
    sources = [
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport sfr_batch as sfr",
        f"sfr.embed({job}).embedded",
        f"sfr.embed({job}, {{'corpus.path': '{tmp_path}/none'}})",
        f"{stop}{slow}sfr.embed({job}, {{'table.generation': 'again'}})",
        f"sfr.open_table('{tmp_path}/table').watch()",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    updates: list[dict[str, Any]] = []

    class Client(nbclient.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, message: Any, cell: Any, index: int) -> Any:
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"]["data"])
            return super().process_message(message, cell, index)

    notebook = nbformat.v4.new_notebook(cells=cells)
    Client(notebook, timeout=300, kernel_name="python3", allow_errors=True).execute()
    kinds = [[output.output_type for output in cell.outputs] for cell in notebook.cells]
    assert kinds == [
        [],
        ["display_data", "execute_result"],
        ["display_data", "error"],
        ["display_data", "error"],
        ["display_data"],
    ]
    texts = [cell.outputs[0].data["text/plain"] for cell in notebook.cells[1:]]
    assert "published snapshot 1" in texts[0]
    assert texts[1].startswith("failed: CorpusError")
    assert "stopped by SIGINT" in texts[2]
    assert "stopped by SIGINT" in texts[3]
    assert len(updates) > 5
    assert {"text/html", "text/plain"} <= updates[0].keys()
    assert any("of 8 splits" in update["text/plain"] for update in updates)
    assert any("loading the model: 0%, … left" in update["text/html"] for update in updates)
