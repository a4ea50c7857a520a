"""Pointers: every reader follows them, no writer does, and if two move one at once, each succeeds or gets an error."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.config.loading import config_from_dict
from sfr_batch.errors import ConfigError, PointerMoved, TableError, TableNotFound
from sfr_batch.format import names as schema
from sfr_batch.storage.store import Content, Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table import pointer
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.table import Table
from tests.cli.test_cli import complaint, run
from tests.memory_store import MemoryStore
from tests.states import Row, commit_file, package_card, publish_state, state_of
from tests.tables import jsonl, put


def table_at(root: str, *ids: str) -> Table:
    """A table with a snapshot for each id, which holds that id alone."""
    table = state_of(open_store(root), {ids[0]: [Row(ids[0])]})
    for id_ in ids[1:]:
        publish_state(table, [commit_file(table, id_, [Row(id_)])], {})
    return table


def ids_at(root: str) -> list[str]:
    found: list[str] = sfr.open_table(root).to_arrow(["id"]).column(0).to_pylist()
    return found


def steps(store: Store) -> list[dict[str, Any]]:
    return [json.loads(store.read(key)) for key in sorted(info.key for info in store.list(schema.POINTER))]


def test_there_and_back(place: str) -> None:
    table_at(f"{place}/blue", "b1", "b2")
    table_at(f"{place}/green", "g1", "g2")
    current = f"{place}/current"
    with pytest.raises(TableNotFound, match=f"There is no table at {current}"):
        sfr.open_table(current)
    first = sfr.promote(current, f"{place}/blue")
    assert (first.number, first.table, first.snapshot) == (1, f"{place}/blue", None)
    assert ids_at(current) == ["b2"]
    reading = sfr.open_table(current)
    sfr.promote(current, f"{place}/green", snapshot=1, expect_current=f"{place}/blue")
    assert ids_at(current) == ["g1"], "pinned"
    assert reading.to_arrow(["id"]).column(0).to_pylist() == ["b2"], "who has opened it stays with it"
    pinned = sfr.open_table(current)
    assert (pinned.store.root, pinned.current().number, pinned.num_rows, pinned.pinned) == (f"{place}/green", 1, 1, 1)
    assert [snapshot.number for snapshot in pinned.snapshots()] == [1, 2]
    sfr.promote(current, f"{place}/green")
    assert ids_at(current) == ["g2"]
    assert sfr.promote(current, f"{place}/green").number == 3, "where it points already"
    found = steps(open_store(current))
    assert [(s["table"], s["snapshot"], s["before"]) for s in found] == [
        ("../blue", None, None), ("../green", 1, 1), ("../green", None, 2),
    ]  # fmt: skip
    assert len({s["token"] for s in found}) == 3
    assert [sfr.promote_back(current).number for _ in range(2)] == [4, 5]
    assert ids_at(current) == ["b2"]
    with pytest.raises(ConfigError, match=r"points to .*blue, since .*. It did not point anywhere before"):
        sfr.promote_back(current)
    sfr.promote(current, f"{place}/green")
    sfr.promote_back(current)
    assert ids_at(current) == ["b2"], "and not what had been given up"


def test_commands_follow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blue, green, current = (str(tmp_path / name) for name in ("blue", "green", "current"))
    table_at(blue, "b1"), table_at(green, "g1", "g2")
    told = run("promote", current, blue).output
    assert told.startswith(f"{current} points to {blue}, since 20")
    assert f"{current} points to {blue}, since " in complaint(1, "promote", current, green, "--expect-current", green)
    assert "does not point to a table yet. Expected: " in complaint(
        1, "promote", tmp_path / "x", blue, "--expect-current", green
    )
    told = run("promote", current, green, "--snapshot", 1, "--expect-current", blue).output
    assert told.startswith(f"{current} points to {green}, snapshot 1, since 20")
    pointer_line, rest = run("status", current).output.split("\n", 1)
    assert pointer_line == f"pointer   {told.rstrip().removesuffix('.')}"
    assert rest == run("status", green).output
    for command in (["snapshots"], ["changes", 1, 2, "--json"]):
        name, *options = command
        assert run(name, current, *options).output == run(name, green, *options).output
    assert run("view", current).output == run("view", green, "--snapshot", 1).output
    of_first = run("audit", green, "--snapshot", 1).output.rsplit(",", 2)[0]  # the rest is the time that it took
    assert run("audit", current).output.rsplit(",", 2)[0] == of_first
    assert of_first != run("audit", green).output.rsplit(",", 2)[0]
    assert "Exported 1 row to" in run("export", current, tmp_path / "out").output
    assert "is inside the table" in complaint(2, "changes", current, 1, 2, "--output", f"{green}/feed")

    def first_of_green(*_: Any) -> Any:
        return sfr.open_table(green).to_pandas(["embedding"])["embedding"][0][None]

    monkeypatch.setattr("sfr_batch.cli.search._encoded", first_of_green)
    assert run("search", current, "q", "-k", 1).output.endswith("  g1\n"), "the pinned one"
    assert run("search", current, "q", "-k", 1, "--snapshot", 2).output == "1.0000  g2\n"
    assert run("promote", current, "--back").output.startswith(f"{current} points to {blue}, since 20")
    assert "It did not point anywhere before, so it cannot go back" in complaint(2, "promote", current, "--back")
    assert "is not a pointer. `sfr-batch promote" in complaint(2, "promote", blue, "--back")
    assert "--back takes no argument but POINTER" in complaint(2, "promote", current, blue, "--back")
    assert "Give TABLE or --back. `sfr-batch status POINTER` shows where it points now." in complaint(
        2, "promote", current
    )


def test_who_writes_names_the_table(tmp_path: Path, mistral: str) -> None:
    green, current = str(tmp_path / "green"), str(tmp_path / "current")
    table_at(green, "g1")
    sfr.promote(current, green)
    corpus = put(str(tmp_path), "corpus/a.jsonl", jsonl([{"id": "a", "text": "a"}]))
    config = config_from_dict(
        {
            "corpus": {"path": corpus},
            "model": {"path": mistral, "device": "cpu"},
            "table": {"path": current},
            "run": {"actors": {"gpus": 0}},
        }
    )
    told = f"{current} is a read-only pointer. Pass the table's own path: {green}"
    for write in (sfr.plan, sfr.embed):
        with pytest.raises(ConfigError, match=told):
            write(config)
    opened = sfr.open_table(current)
    for clean in (opened.compact, lambda: opened.expire(keep_last=1)):
        with pytest.raises(ConfigError, match=told):
            clean()
    commands = (["sweep"], ["expire", "--keep-last", 1], ["compact", "--write"], ["promote", tmp_path / "x"])
    for name, *more in commands:
        assert told in complaint(2, name, *more, current)
    assert [info.key for info in open_store(current).list("")] == ["_sfr/pointer/00000001.json"]


def test_what_cannot_be_promoted(tmp_path: Path) -> None:
    green, current = str(tmp_path / "green"), str(tmp_path / "current")
    assert f"There is no table at {green}" in complaint(1, "promote", current, green)
    from sfr_batch.table.commit.writing import create_or_open

    create_or_open(open_store(green), package_card())
    assert f"Nothing has been published in {green} yet" in complaint(1, "promote", current, green)
    table = Table.open(open_store(green))
    for id_ in ("g1", "g2"):
        publish_state(table, [commit_file(table, id_, [Row(id_)])], {})
    assert "has no snapshot 3. Available: 1, 2." in complaint(1, "promote", current, green, "--snapshot", 3)
    assert f"{green} is a table. A pointer needs a folder or prefix of its own" in complaint(2, "promote", green, green)
    assert list(open_store(current).list("")) == []
    sfr.promote(current, green, snapshot=1)
    expire(table, keep_last=1, dry_run=False)
    with pytest.raises(TableNotFound, match=r"Snapshot 1 of .*green was removed by"):
        sfr.open_table(current).to_arrow()


def test_tables_and_pointer_move_together(tmp_path: Path) -> None:
    table_at(str(tmp_path / "here/blue"), "b1"), table_at(str(tmp_path / "far"), "f1")
    sfr.promote(str(tmp_path / "here/current"), str(tmp_path / "here/blue"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert ids_at(str(tmp_path / "there/current")) == ["b1"]
    assert sfr.promote(str(tmp_path / "there/current"), str(tmp_path / "far")).record.table == str(tmp_path / "far")
    assert ids_at(str(tmp_path / "there/current")) == ["f1"]


@pytest.mark.parametrize(
    ("root", "table", "stored"),
    [
        ("/a/current", "/a/blue", "../blue"),
        ("/a/current", "/a/b/blue", "../b/blue"),
        ("/a/current", "/b/blue", "/b/blue"),
        ("/a/current", "/ab", "/ab"),
        ("/current", "/blue", "../blue"),
        ("/a/current", "s3://b/blue", "s3://b/blue"),
        ("s3://b/current", "s3://b/x/blue", "../x/blue"),
        ("s3://b/x/current", "s3://b/blue", "s3://b/blue"),
        ("s3://b", "s3://c/blue", "s3://c/blue"),
        ("s3://b/current", "s3://bc/blue", "s3://bc/blue"),
    ],
)
def test_relative_where_it_lies_beside(root: str, table: str, stored: str) -> None:
    assert pointer._as_stored(root, table) == stored
    assert pointer._as_uri(root, stored) == table


@pytest.mark.parametrize("table", ["../../etc", "../a/../../b", "..", "../", "blue", "", "http://x/y", "file:///etc"])
def test_a_strangers_pointer_leads_nowhere_else(table: str) -> None:
    store = MemoryStore("/a/current")
    step = pointer.PointerRecord(token="t", table=table, snapshot=None, before=None, created_at="2026", by="x\x1b[2J@y")
    store.create(schema.pointer_key(1), step.to_json())
    with pytest.raises(TableError, match=r"The pointer /a/current names .*, which is not the path of a table"):
        pointer.read_pointer(store)


# --- at once


class Racing(MemoryStore):
    """Somebody else creates an object just before we do, or our reply is lost and the client asks again."""

    def __init__(self, others: list[bytes], lose_reply: bool = False) -> None:
        super().__init__("/a/current")
        self.others, self.lose_reply = others, lose_reply

    def create(self, key: str, data: Content) -> bool:
        if self.others:
            super().create(key, self.others.pop(0))
        created = super().create(key, data)
        return False if self.lose_reply else created


def entry(table: str) -> bytes:
    step = pointer.PointerRecord(token=table, table=table, snapshot=None, before=None, created_at="2026", by="other")
    return step.to_json()


def test_the_later_one_wins_or_is_told() -> None:
    table = state_of(MemoryStore("/a/green"), {"x": [Row("x")]})
    store = Racing([])
    assert pointer.promote(store, table).number == 1
    store.others = [entry("/a/red"), entry("/a/pink")]
    last = pointer.promote(store, table, 1)
    assert (last.number, last.record.before, str(last)) == (4, 3, "/a/green, snapshot 1"), (
        "on top of what the others did"
    )
    store.others = [entry("/a/red")]
    with pytest.raises(PointerMoved, match=r"points to /a/red, since 2026, by other\. Expected: /a/green\."):
        pointer.promote(store, table, expect="/a/green")
    assert str(pointer.read_pointer(store)) == "/a/red"
    pointer.promote(store, table)
    store.others = [entry("/a/pink")]
    with pytest.raises(PointerMoved, match=r"Another process moved .* meanwhile\. Nothing was changed"):
        pointer.back(store)
    assert str(pointer.read_pointer(store)) == "/a/pink"


def test_a_lost_reply_is_no_conflict() -> None:
    table = state_of(MemoryStore("/a/green"), {"x": [Row("x")]})
    store = Racing([], lose_reply=True)
    assert pointer.promote(store, table).number == 1
    assert pointer.promote(store, table, 1).number == 2
    assert str(pointer.back(store)) == "/a/green"
    assert len(steps(store)) == 3


def test_a_pointer_that_others_create_while_it_is_checked(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table_at(f"{place}/blue", "blue")
    table_at(f"{place}/green", "green")

    def meanwhile(*of: Any, **more: Any) -> None:
        monkeypatch.setattr(pointer, "check_apart", check_apart)
        sfr.promote(f"{place}/current", f"{place}/green")
        check_apart(*of, **more)

    check_apart = pointer.check_apart
    monkeypatch.setattr(pointer, "check_apart", meanwhile)
    sfr.promote(f"{place}/current", f"{place}/blue")
    assert len(steps(open_store(f"{place}/current"))) == 2
    assert ids_at(f"{place}/current") == ["blue"]


def test_a_pointer_whose_creator_died_before_the_first_record(tmp_path: Path) -> None:
    table_at(f"{tmp_path}/blue", "blue")
    (tmp_path / "current/_sfr/pointer").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "current")
    with pytest.raises(ConfigError, match="inside the pointer"):
        sfr.promote(f"{tmp_path}/current/deeper", f"{tmp_path}/blue")
    sfr.promote(f"{tmp_path}/link", f"{tmp_path}/blue")
    assert ids_at(f"{tmp_path}/current") == ["blue"]


def test_threads_that_promote_at_once(place: str) -> None:
    """Each one wins a number; with an expectation exactly one of them does."""
    names = ("blue", "green", "red")
    for name in names:
        table_at(f"{place}/{name}", name)
    current = f"{place}/current"
    together = threading.Barrier(3)
    won: list[str] = []

    def promote(name: str, expect: str | None) -> None:
        together.wait()
        try:
            sfr.promote(current, f"{place}/{name}", expect_current=expect)
            won.append(name)
        except PointerMoved:
            pass

    def race(expect: str | None) -> None:
        threads = [threading.Thread(target=promote, args=(name, expect)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    race(None)
    assert (sorted(won), len(steps(open_store(current)))) == (sorted(names), 3)
    table_at(f"{place}/black", "black")
    sfr.promote(current, f"{place}/black")
    won.clear()
    race(f"{place}/black")
    assert (len(won), len(steps(open_store(current)))) == (1, 5)
    assert ids_at(current) == won
