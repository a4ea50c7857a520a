"""Changes between snapshots of which one has copies of the rows of the other, as compactions make them: no vector of
these is read, and the result is that of a comparison."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.corpus.rejects import rejects_table
from sfr_batch.format import lineage, names
from sfr_batch.format.lineage import Lineage, Taken, names_of, taken
from sfr_batch.format.records import Receipt
from sfr_batch.table import row_changes
from sfr_batch.table.changes import Changes, changes
from sfr_batch.table.commit.compaction import compact
from sfr_batch.table.commit.writing import commit_split, create_or_open
from sfr_batch.table.table import Snapshot, Table
from tests.memory_store import MemoryStore
from tests.nights import Doc, Place, Writer, docs_of, night
from tests.planning.test_repair import mended
from tests.states import Row, commit_file, package_card, publish_state, rows_table
from tests.table.test_changes import ROWS, check, deleted, draw_states, upserted
from tests.tables import receipt_of, split_name


class Reads:
    """What `changes` reads: data files that it opens, and vectors that it compares."""

    def __init__(self, table: Table, patch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.vectors = 0
        real_open, real_hashes = table.store.open, row_changes._hashes

        def opening(key: str, size: int = 0) -> Any:
            self.opened.append(key)
            return real_open(key, size)

        def hashing(column: pa.ChunkedArray) -> Any:
            self.vectors += len(column) * pa.types.is_fixed_size_list(column.type)
            return real_hashes(column)

        patch.setattr(table.store, "open", opening)
        patch.setattr(row_changes, "_hashes", hashing)

    def of(self, table: Table, first: int, second: int) -> tuple[Changes, list[str], int]:
        """The changes, the data files that were opened for them, and the number of vectors that were compared."""
        self.opened, self.vectors = [], 0
        found = changes(table, first, second)
        return found, [key for key in self.opened if names.split_of_data_key(key)], self.vectors


def outcome(found: Changes) -> Any:
    return found.new, found.changed, found.deleted, found.unchanged, upserted(found), deleted(found)


def by_comparison(table: Table, first: int, second: int) -> Any:
    """What is found if no file says where its rows are from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "_parsed", lambda text: [])
        return outcome(changes(table, first, second))


def compacted(table: Table, **options: Any) -> Snapshot:
    done = compact(table, dry_run=False, **options).snapshot
    assert done is not None
    return done


@pytest.fixture
def used(nights: tuple[Place, Writer]) -> tuple[Place, Writer, Table]:
    """Two nights of two shards: of one, some texts have changed, and it has a duplicate."""
    place, writer = nights
    a, b = docs_of("a", 16), docs_of("b", 8)
    writer.write({"a.parquet": [*a, Doc("b2", "an earlier one")], "b.parquet": b})
    night(place)
    writer.write({"a.parquet": [Doc(d.id, f"other {d.id}") if n < 5 else d for n, d in enumerate(a)], "b.parquet": b})
    snapshot, _ = night(place)
    return place, writer, Table.open(snapshot.store)


def test_nothing_of_rows_that_only_moved_is_read(
    used: tuple[Place, Writer, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, table = used
    before = table.current()
    after = compacted(table, rows_per_file=9)
    written = set(after.split_ids()) - set(before.split_ids())
    assert len(written) > 1
    reads = Reads(table, monkeypatch)
    for first, second in ((2, 3), (3, 2)):
        found, opened, vectors = reads.of(table, first, second)
        assert (found.new, found.changed, found.deleted, found.unchanged) == (0, 0, 0, 24)
        assert (found.files_read, vectors) == (0, 0)
        assert sorted(opened) == sorted(map(names.data_key, written)), "one footer of each new file"
    for first, second in ((1, 3), (3, 1)):
        found, _, vectors = reads.of(table, first, second)
        assert outcome(found) == by_comparison(table, first, second)
        assert (found.changed, found.new + found.deleted) == (6, 0), "five texts, and b2 is another one now"
        assert vectors == 0


def test_nights_between_two_compactions(used: tuple[Place, Writer, Table], monkeypatch: pytest.MonkeyPatch) -> None:
    place, writer, table = used
    between = compacted(table, rows_per_file=100)
    writer.write({**writer.now, "b.parquet": docs_of("b", 6), "c.parquet": [*docs_of("c", 3), Doc("a9", "loses")]})
    night(place)
    last = compacted(table, rows_per_file=100)
    assert last.number == 5
    assert len(last.split_ids()) == 1
    reads = Reads(table, monkeypatch)
    for first, second in itertools.permutations(range(1, 6), 2):
        found, _, vectors = reads.of(table, first, second)
        assert outcome(found) == by_comparison(table, first, second)
        assert vectors == 0, "every row whose text is the same is a copy of one file's"

    for name in between.split_ids():  # as an expiry removes them
        (Path(place.table) / names.data_key(name)).unlink()
    found, _, vectors = reads.of(table, 2, 5)
    assert outcome(found) == by_comparison(table, 2, 5)
    assert vectors == 2 * 22, "nothing proves any more that they are copies"


def test_what_a_repair_has_made_anew_is_compared(
    used: tuple[Place, Writer, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _, table = used
    before = table.current()
    after = compacted(table, rows_per_file=14)
    lost, *rest = (receipt for receipt in after.read_receipts() if receipt.split_id not in before.split_ids())
    assert rest
    (Path(place.table) / names.data_key(lost.split_id)).unlink()
    repaired, texts = mended(place)
    assert repaired is not None
    assert repaired.manifest.operation == "repair"
    assert 0 < len(texts) < lost.vectors, "the repair takes the others from the files before the compaction"
    reads = Reads(table, monkeypatch)
    found, _, vectors = reads.of(table, 2, 4)
    assert outcome(found) == by_comparison(table, 2, 4)
    assert vectors == 2 * len(texts), "what it has encoded is no copy"
    again = compacted(table, rows_per_file=100)
    found, _, vectors = reads.of(table, 2, again.number)
    assert outcome(found) == by_comparison(table, 2, again.number)
    assert vectors == 2 * len(texts)


# --- what proves it


def commit_copy(table: Table, sources: Sequence[Taken], rows: Sequence[Row], name: str | None = None) -> Receipt:
    """A data file that says of itself that it has the rows of the sources. name: default the one that proves it."""
    name = name or next(names_of(sources, table.card.fingerprint, ""))
    receipt = receipt_of(name, len(rows), shard="", start=0, copied=True)
    rejects = rejects_table([], "")
    return commit_split(table.store, table.card, receipt, rows_table(rows, table.schema), rejects, sources=sources)


HERE = [Row(f"r{n}", "text") for n in range(9)]
OTHER = [Row(f"r{n}", "text", seed=1) for n in range(9)]
"""The same rows with other vectors."""


def whole(receipt: Receipt) -> Taken:
    return taken(receipt.split_id, np.ones(receipt.vectors, bool))


@pytest.mark.parametrize(
    ("how", "believed"),
    [
        ("proved", True),
        ("proved after a sweep", True),
        ("without a list", False),
        ("of another name", False),
        ("other rows", False),
        ("another source", False),
        ("more rows than it has", False),
        ("of rows that are not there", False),
        ("of no file", False),
        ("nonsense", False),
    ],
)
def test_only_a_list_that_the_name_proves_is_believed(how: str, believed: bool) -> None:
    """The vectors are others here, which a comparison finds: who believes the list does not look."""
    table = create_or_open(MemoryStore(), package_card())
    source = commit_file(table, "a", HERE)
    publish_state(table, [source], {})
    sources, fingerprint = [whole(source)], table.card.fingerprint
    one_less = [taken(source.split_id, np.arange(9) > 0)]
    possible = list(itertools.islice(names_of(sources, fingerprint, ""), 2))
    copy = {
        "proved": lambda: commit_copy(table, sources, OTHER),
        "proved after a sweep": lambda: commit_copy(table, sources, OTHER, possible[1]),
        "without a list": lambda: commit_copy(table, [], OTHER, possible[0]),
        "of another name": lambda: commit_copy(table, sources, OTHER, split_name("b")),
        "other rows": lambda: commit_copy(table, one_less, OTHER, possible[0]),
        "another source": lambda: commit_copy(table, [whole(receipt_of(split_name("z"), 9))], OTHER, possible[0]),
        "more rows than it has": lambda: commit_copy(table, one_less, OTHER),
        "of rows that are not there": lambda: commit_copy(table, [taken(source.split_id, np.arange(16) > 6)], OTHER),
        "of no file": lambda: commit_copy(table, [("../table", sources[0][1])], OTHER),
        "nonsense": lambda: commit_copy(table, [(5, ["x"])], OTHER),  # type: ignore[list-item]
    }[how]()
    publish_state(table, [copy], {})
    found = changes(table, 1, 2)
    assert (found.new, found.deleted, found.changed) == (0, 0, 0 if believed else 9)


def test_a_row_is_followed_through_many_files_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "_STEPS", 5)
    table = create_or_open(MemoryStore(), package_card())
    chain = [commit_file(table, "a", HERE)]
    for _ in range(6):
        chain.append(commit_copy(table, [whole(chain[-1])], HERE))
    known = {chain[0].split_id: (9, "")}
    for steps, receipt in enumerate(chain[1:], 1):
        found = Lineage(table.store, table.card.fingerprint, known).origins(receipt.split_id)
        assert [len(origin.at) for origin in found] == ([9] if steps <= 5 else [])


# --- the property


@st.composite
def copies(draw: st.DrawFn) -> Any:
    """Files of rows, others that have some rows of earlier ones each, and states over all of them."""
    files: list[tuple[list[Row], tuple[tuple[int, tuple[bool, ...]], ...]]] = [
        (rows, ()) for rows in draw(st.lists(st.lists(ROWS, max_size=5), min_size=1, max_size=3))
    ]
    for _ in range(draw(st.integers(1, 5))):
        chosen = draw(st.lists(st.integers(0, len(files) - 1), unique=True, min_size=1, max_size=3))
        masks = [tuple(draw(st.lists(st.booleans(), min_size=(n := len(files[c][0])), max_size=n))) for c in chosen]
        sources = tuple(zip(chosen, masks, strict=True))
        rows = [row for c, mask in sources for row, its in zip(files[c][0], mask, strict=True) if its]
        if all(sources != its for _, its in files):
            files.append((rows, sources))
    return files, draw_states(draw, [rows for rows, _ in files])


@given(copies(), st.sampled_from([1, 1000]))
@settings(max_examples=60)
def test_copies_give_what_a_comparison_gives(drawn: Any, partition_rows: int) -> None:
    """Also with rows that have their key and their text, and another vector, in the same file or another one."""
    files, states = drawn
    table = create_or_open(MemoryStore(), package_card())
    receipts: list[Receipt] = []
    for number, (rows, sources) in enumerate(files):
        listed = [taken(receipts[n].split_id, np.array(mask, bool)) for n, mask in sources]
        receipts.append(commit_copy(table, listed, rows) if listed else commit_file(table, f"f{number}", rows))
    for state, dead in states:
        live = [receipts[int(label[1:])] for label in state]
        publish_state(table, live, {receipts[int(label[1:])].split_id: at for label, at in dead.items()})
    check(table, partition_rows)
