"""`jobs/backfill.ipynb`: what is committed of it, and (slow) real kernels that run its cells on a head of their own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.errors import ClusterError
from tests.test_readmes import Page, link_problems, python_problems

nbformat = pytest.importorskip("nbformat", reason="nbformat reads the notebook: pip install -e '.[notebook]'")
pytest.importorskip("nbclient", reason="nbclient runs the notebook: pip install -e '.[notebook]'")

from jobs import local_head, notebook  # noqa: E402  (they import nbclient)


def kinds(book: Any) -> list[list[tuple[str, ...]]]:
    """For each cell of code, the kind of each output and the formats that it has."""
    return [
        [(output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs]
        for cell in notebook.code_cells(book)
    ]


# --- what is committed


def test_what_is_committed_ran_and_tells_nothing_of_its_machine() -> None:
    committed = notebook.read()
    assert list(notebook.problems(committed)) == []
    pictures = [
        output.data["image/png"]
        for cell in notebook.code_cells(committed)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    assert all(len(cell.source.splitlines()) <= 25 for cell in committed.cells)


def test_what_its_cells_name_is_there() -> None:
    """Public names, methods of a table, links: as in a README."""
    committed = notebook.read()
    code = [f"```python\n{cell.source}\n```" for cell in notebook.code_cells(committed)]
    prose = [cell.source for cell in committed.cells if cell.cell_type == "markdown"]
    page = Page(notebook.NOTEBOOK, "\n\n".join([*code, *prose]))
    assert page.blocks("python")
    assert [*python_problems(page), *link_problems(page)] == []


def small(text: str = "", **changes: Any) -> Any:
    """A notebook of one cell that ran and showed ``text``."""
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    made = nbformat.v4.new_notebook(cells=[cell])
    notebook.scrub(made, {})
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/html": f"<td>{text}</td>"}, execution_count=1)]
    cell.update(changes)
    return made


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/home/ann/sfr-batch/demo", "a path: /home/ann/sfr-batch/demo"),
        ("it is in /tmp/sfr-x/a.parquet.", "a path: /tmp/sfr-x/a.parquet."),
        ("~/.cache", "a path: ~/."),
        ("Local node IP: 10.1.2.3", "an IP address: 10.1.2.3"),
        ("http://ray.example.com:8265", "an address: http://ray.example.com:8265"),
        ("by ann@gpu-7", "a user and a host: ann@gpu-7"),
        ("run 20261129T2-5f of ann on gpu-7, encoding", "a user and a host: run 20261129T2-5f of ann on gpu-7,"),
        ("RunAccount(user='ann')", "a user and a host: user='ann"),
        ("0123456789abcdef" * 4, "a secret: " + "0123456789abcdef" * 4),
    ],
)
def test_places_and_people_are_found(text: str, problem: str) -> None:
    assert list(notebook.problems(small(text))) == [f"cell [1] shows {problem}"]


def test_what_a_readme_would_show_is_no_problem() -> None:
    for text in (
        "…/demo/backfill",
        "you@laptop",
        "http://HEAD:8265",
        "tokens/s",
        "5ac1c9350afe",
        "</td>",
        "1 / 2",
        "nDCG@10",
    ):
        assert list(notebook.problems(small(text))) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"source": "1 + 2"}, "the code is not that which ran"),
        ({"execution_count": 2}, "the cells did not run from top to bottom: [2]"),
        ({"outputs": [nbformat.v4.new_output("error")]}, "cell [1] has an output of the kind error"),
        ({"outputs": [nbformat.v4.new_output("stream", name="stderr")]}, "cell [1] has an output of the kind stderr"),
    ],
)
def test_what_did_not_run_so_is_found(changes: dict[str, Any], problem: str) -> None:
    (found,) = notebook.problems(small(**changes))
    assert problem in found


def test_places_are_replaced_and_pictures_are_not() -> None:
    """The longer place comes first; what a run adds to a cell goes."""
    made = small()
    (cell,) = made.cells
    cell.metadata["execution"] = {"iopub.execute_input": "2026-11-29T20:00:00Z"}
    data = {"text/plain": "/x/y/z of ann@gpu-7, /x/y at http://127.0.0.1:4711/", "image/png": "/x/y"}
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    notebook.scrub(made, {"/x/y/z": "…/demo", "/x/y": "…", "ann@gpu-7": "you@laptop"})
    assert cell.outputs[0].data == {
        "text/plain": "…/demo of you@laptop, … at http://HEAD:8265/",
        "image/png": "/x/y",
    }
    assert cell.metadata == {}
    places = list(notebook.places_of_here("/tmp/some-folder"))
    assert {"/tmp/some-folder", str(notebook.ROOT)} < set(places)
    assert places == sorted(places, key=len, reverse=True)


# --- the head that it starts


def test_a_head_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing."""
    (tmp_path / "ray").write_text(
        "#!/bin/sh\necho no memory for $1 $2; echo $RAY_AUTH_TOKEN $RAY_ADDRESS > $HOME/seen; exit 1\n"
    )
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/python")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "anothers:6379")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match=r"does not start\. It says:\nno memory for start --head$"):
        local_head.start(tmp_path / "head")
    assert [file.name for file in (tmp_path / "head").iterdir()] == ["head.log"]
    assert "RAY_API_SERVER_ADDRESS" not in os.environ
    (token,) = (tmp_path / "seen").read_text().split()
    assert len(token) == 64


def test_a_process_that_is_no_head_is_left_alone(tmp_path: Path) -> None:
    """The head is gone, and its number is another process's."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        local_head._Head(other.pid, 1, "token", f"{tmp_path}/files").write(tmp_path)
        assert (tmp_path / "head.json").stat().st_mode & 0o777 == 0o600
        local_head.stop(tmp_path)
        assert other.poll() is None
        other.kill()
    assert not (tmp_path / "head.json").exists()
    local_head.stop(tmp_path)


# --- real kernels


@contextlib.contextmanager
def no_cluster(folder: Path) -> Iterator[None]:
    """An environment without a cluster, and at the end without the head of the notebook."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            environment.delenv(name)
        try:
            yield
        finally:
            local_head.stop(folder / "head")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_top_to_bottom(tmp_path: Path) -> None:
    """Outputs of the same kinds as those that are committed, and none on stderr."""
    ran = notebook.with_parameters(notebook.read(), FOLDER=str(tmp_path))
    with no_cluster(tmp_path):
        notebook.execute(ran)
    assert not (tmp_path / "head" / "head.json").exists(), "its last cell ends the head"
    assert kinds(ran) == kinds(notebook.read())
    (run,) = sfr.open_table(tmp_path / "backfill").runs()
    assert run.how == "published snapshot 1"
    ran.metadata = notebook.read().metadata  # the hash is that of the code without the folder
    notebook.scrub(ran, notebook.places_of_here(str(tmp_path)))
    assert list(notebook.problems(ran)) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_job_outlives_a_kernel_that_is_killed(tmp_path: Path) -> None:
    """A new kernel runs the first cells, which find the head, and then finds the job by its id and its result."""
    jupyter_client = pytest.importorskip("jupyter_client")
    smaller = notebook.with_parameters(notebook.read(), FOLDER=str(tmp_path), DOCUMENTS=1500)
    sources = [cell.source for cell in notebook.code_cells(smaller)]
    (submits,) = (at for at, source in enumerate(sources) if "sfr.submit(" in source)
    (finds,) = (source for source in sources if "sfr.job(" in source)
    head = "os.environ['RAY_API_SERVER_ADDRESS']"

    def run(client: Any, source: str) -> str:
        """What a cell shows."""
        texts: list[str] = []

        def keep(message: Any) -> None:
            content = message["content"]
            assert message["msg_type"] != "error", content["traceback"]
            if message["msg_type"] in ("execute_result", "stream"):
                texts.append(content.get("text") or content["data"]["text/plain"])

        client.execute_interactive(source, output_hook=keep, timeout=900)
        return "".join(texts)

    @contextlib.contextmanager
    def kernel() -> Iterator[tuple[Any, Any]]:
        manager, client = jupyter_client.manager.start_new_kernel(
            kernel_name="python3", cwd=str(notebook.NOTEBOOK.parent)
        )
        try:
            yield manager, client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    with no_cluster(tmp_path):
        with kernel() as (manager, client):
            for source in sources[: submits + 1]:
                shown = run(client, source.replace("sfr.verify(CONFIG)", ""))  # which takes as long as all the rest
            submission_id = shown.split("'")[1]
            address = run(client, head)
            os.kill(manager.provisioner.pid, signal.SIGKILL)
            assert manager.provisioner.process.wait(30) == -signal.SIGKILL
        with kernel() as (_, client):
            for source in sources[:2]:
                run(client, source)
            assert run(client, head) == address
            shown = run(client, f"job = sfr.job({submission_id!r})\njob.wait()")
            assert shown == "'succeeded'"
            assert "outcome='published', snapshot=1," in run(client, finds)
            assert run(client, "job.result().ray_job") == f"'{submission_id}'"
