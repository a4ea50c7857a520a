"""The corpus: every row comes out of exactly one split, whatever the files look like, good or with its reason."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Columns, resolve_columns
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import SMALLEST_SPLIT, ReadUnit, Split, cut, rows_by_text, rows_per_split
from sfr_batch.corpus.survey import RowGroup, ShardStatistics, survey_shards
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.corpus.unchanged import check_unchanged
from sfr_batch.errors import ConfigError, CorpusError, StorageError
from sfr_batch.format import names
from tests.tables import jsonl, parquet, put

IDENTITY = ["recipe", "fingerprint", ""]
quick = settings(max_examples=60)
MANY = 10**9
NOT_UTF8 = "a lone surrogate, or bytes that are not UTF-8"


def units_of(path: str, max_rows: int = MANY, max_bytes: int = MANY, **options: Any) -> tuple[list[ReadUnit], Any]:
    """All read units of a corpus, with the function that reads one."""
    corpus = CorpusSettings(path=path, **options)
    surveys = survey_shards(list_shards(corpus), corpus)
    columns = resolve_columns(surveys, corpus)
    assert columns is not None
    units = [unit for survey in surveys for unit in cut(survey, max_rows, max_bytes, IDENTITY, frozenset())]
    return units, lambda unit: list(read_unit(unit, corpus, columns))


def read_all(path: str, max_rows: int = MANY, max_bytes: int = MANY, **options: Any) -> list[tuple[Split, Rows]]:
    units, read = units_of(path, max_rows, max_bytes, **options)
    found = [pair for unit in units for pair in read(unit)]
    for _, rows in found:
        assert rows.read == len(rows.texts) + rows.rejects.num_rows
        assert len(rows.ids) == len(rows.content_hash) == len(rows.texts)
        assert rows.rejects.schema == names.REJECTS_SCHEMA
    return found


def ids_of(found: Sequence[tuple[Split, Rows]]) -> list[Any]:
    return [id_ for _, rows in found for id_ in rows.ids.to_pylist()]


def rejects_of(found: Sequence[tuple[Split, Rows]]) -> list[tuple[Any, int, str, str]]:
    keys = ("id", "position", "reason", "message")
    return [tuple(row[key] for key in keys) for _, rows in found for row in rows.rejects.to_pylist()]


def documents(n: int, first: int = 0) -> pa.Table:
    columns = {"id": [f"d{i}" for i in range(first, first + n)], "text": [f"text {i}" for i in range(n)]}
    return pa.table(columns, schema=pa.schema([("id", pa.string()), ("text", pa.string())]))


# --- on local disk and on S3


def test_layouts_of_row_groups(place: str) -> None:
    """Many small groups, one huge group that is cut, groups without rows, and a shard without any row."""
    put(place, "a.parquet", parquet(documents(60), [3, 0, 4] + [1] * 13 + [40]))
    put(place, "b.parquet", parquet(documents(0)))
    put(place, "c.parquet", parquet(pa.table({"id": pa.nulls(0), "other": pa.nulls(0)}), []))
    put(place, "deep/d.pq", parquet(documents(5, 60), [0, 5, 0]))
    found = read_all(place, max_rows=10)
    assert ids_of(found) == [f"d{i}" for i in range(65)]
    assert [rows.read for _, rows in found] == [10, 10, 10, 10, 10, 10, 5]
    assert [split.rows for split, _ in found] == [rows.read for _, rows in found]
    units, _ = units_of(place, max_rows=10)
    assert [len(unit.splits) for unit in units] == [1, 1, 4, 1], "a group is read once, with all its splits"


def test_lines_of_json(place: str) -> None:
    rows = [{"id": i, "text": f"Zeile {i}, größer 日本"} for i in range(40)]
    put(place, "a.jsonl", jsonl(rows[:20]))
    put(place, "b.ndjson", jsonl(rows[20:], "\r\n").removesuffix(b"\r\n"))
    put(place, "empty.jsonl", b"")
    put(place, "blank.jsonl", b"\n\n  \n")
    put(place, "_SUCCESS", b"")
    found = read_all(place, max_rows=6)
    assert sorted(ids_of(found)) == list(range(40))
    assert ids_of(read_all(place)) == list(range(40))


def test_shard_replaced_or_gone_is_noticed(place: str) -> None:
    put(place, "a.parquet", parquet(documents(5)))
    units, read = units_of(place)
    put(place, "a.parquet", parquet(documents(6)))
    with pytest.raises(CorpusError, match=r"a\.parquet was replaced during the run. Run the command"):
        read(units[0])
    from sfr_batch.storage.stores import open_store

    open_store(place).delete(["a.parquet"])
    with pytest.raises(CorpusError, match=r"a\.parquet was deleted after the run was planned. Run the command again"):
        read(units[0])


def test_shard_replaced_between_two_splits_is_noticed(tmp_path: Path) -> None:
    """Splits that are out before the change are of the old version; none mixes the two."""
    uri = put(str(tmp_path), "a.parquet", parquet(documents(20)))
    corpus = CorpusSettings(path=uri)
    survey = survey_shards(list_shards(corpus), corpus)[0]
    (unit,) = cut(survey, 5, MANY, IDENTITY, frozenset())
    reading = read_unit(unit, corpus, resolve_columns([survey], corpus))
    assert next(reading)[1].read == 5
    put(str(tmp_path), "a.parquet", parquet(documents(21)))
    with pytest.raises(CorpusError, match="was replaced"):
        next(reading)


def test_truncated_parquet_is_named(place: str) -> None:
    data = parquet(documents(500))
    put(place, "a.parquet", data[: len(data) // 2])
    with pytest.raises(CorpusError, match=r"a\.parquet is not a readable Parquet file"):
        units_of(place)


def test_damaged_parquet_page_is_named(tmp_path: Path) -> None:
    data = bytearray(parquet(documents(500)))
    data[20:400] = bytes(380)
    put(str(tmp_path), "a.parquet", bytes(data))
    units, read = units_of(str(tmp_path))
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read"):
        read(units[0])


# --- the list of shards


def test_nothing_to_read(place: str) -> None:
    with pytest.raises(CorpusError, match=r"matches no files\. Correct the path"):
        list_shards(CorpusSettings(path=place))
    put(place, "notes.md", b"hello")
    with pytest.raises(
        CorpusError, match=r"has no readable files among its 1 file, e\.g\. .*notes\.md\. Supported: .*corpus\.format"
    ):
        list_shards(CorpusSettings(path=place))


def test_shards_are_sorted_and_listed_once(tmp_path: Path) -> None:
    root = str(tmp_path)
    for name in ("b.parquet", "a.jsonl", "sub/c.parquet", "x.md", ".hidden.parquet", "_tmp/d.parquet"):
        put(root, name, b"x")
    shards = list_shards(CorpusSettings(path=[f"{root}/b.parquet", root, f"{root}/*.jsonl"]))
    assert [(Path(s.uri).name, s.format) for s in shards] == [
        ("a.jsonl", "jsonl"),
        ("b.parquet", "parquet"),
        ("c.parquet", "parquet"),
    ]


@pytest.mark.parametrize("name", ["more.jsonl.bz2", "more.jsonl.snappy", "more.tar.gz", "more.xlsx"])
def test_data_that_cannot_be_read_is_not_passed_over(tmp_path: Path, name: str) -> None:
    put(str(tmp_path), "a.jsonl", b"{}")
    put(str(tmp_path), name, b"x")
    with pytest.raises(CorpusError, match=rf"1 data file in unsupported formats, e.g. .*{name}"):
        list_shards(CorpusSettings(path=str(tmp_path)))
    assert len(list_shards(CorpusSettings(path=f"{tmp_path}/*.jsonl"))) == 1


def test_format_may_be_given(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "data.txt", jsonl([{"id": "a", "text": "x"}]))
    assert [s.format for s in list_shards(CorpusSettings(path=uri, format="jsonl"))] == ["jsonl"]
    put(str(tmp_path), "b.parquet", parquet(documents(1)))
    shards = list_shards(CorpusSettings(path=str(tmp_path), format="parquet"))
    assert [Path(shard.uri).name for shard in shards] == ["b.parquet"], "others are passed over"


# --- cutting

shapes = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 5000)).map(lambda g: (g[0], g[1] if g[0] else 0)), max_size=12
)


def survey_of(groups: Sequence[tuple[int, int]], version: str = "1") -> ShardStatistics:
    return ShardStatistics(
        Shard("/c/a.parquet", version, 1000, "parquet"),
        pa.schema([]),
        tuple(RowGroup(rows, size, size) for rows, size in groups),
    )


@settings(max_examples=300)
@given(shapes, st.integers(1, 60), st.integers(1, 6000))
def test_splits_partition_the_rows(groups: list[tuple[int, int]], max_rows: int, max_bytes: int) -> None:
    units = cut(survey_of(groups), max_rows, max_bytes, IDENTITY, frozenset())
    splits = [split for unit in units for split in unit.splits]
    at = 0
    for split in splits:
        assert split.start == at
        assert split.end == split.start + split.rows > split.start
        assert split.rows <= max_rows
        at = split.end
    assert at == sum(rows for rows, _ in groups)
    assert len({split.split_id for split in splits}) == len(splits)
    for unit in units:
        assert unit.first_row == unit.splits[0].start == sum(rows for rows, _ in groups[: unit.row_groups[0]])
        assert sum(groups[number][0] for number in unit.row_groups) == sum(split.rows for split in unit.splits)
        size = sum(groups[number][1] for number in unit.row_groups)
        assert size <= max_bytes or len(unit.row_groups) == 1
        if len(unit.row_groups) == 1:
            rows = groups[unit.row_groups[0]][0]
            assert len(unit.splits) >= min(rows, -(-size // max_bytes))
    read = [number for unit in units for number in unit.row_groups]
    assert read == [number for number, (rows, _) in enumerate(groups) if rows], "each group is decoded once, in order"


@settings(max_examples=100)
@given(st.integers(0, 5000), st.integers(0, 300), st.integers(1, 50), st.integers(1024, 4096))
def test_byte_ranges_partition_the_file(size: int, rows: int, max_rows: int, max_bytes: int) -> None:
    rows = min(rows, size)
    survey = ShardStatistics(Shard("/c/a.jsonl", "1", size, "jsonl"), pa.schema([]), (RowGroup(rows, size, size),))
    splits = [split for unit in cut(survey, max_rows, max_bytes, IDENTITY, frozenset()) for split in unit.splits]
    assert [split.start for split in splits] == [0, *(split.end for split in splits[:-1])][: len(splits)]
    assert not rows or splits[-1].end == size
    assert all(0 < split.end - split.start <= max_bytes for split in splits)
    assert len({split.split_id for split in splits}) == len(splits)


def test_ids_of_splits_are_stable_and_name_their_content() -> None:
    def ids(version: str = "1", identity: Sequence[str] = IDENTITY, max_rows: int = 10) -> list[str]:
        units = cut(survey_of([(30, 300)], version), max_rows, MANY, identity, frozenset())
        return [split.split_id for unit in units for split in unit.splits]

    assert ids() == ids()
    assert ids()[0] == "f5ae0b0d0629424ba9970325d4f57491", "another name would orphan what is committed"
    assert names.split_of_data_key(names.data_key(ids()[0])) == ids()[0]
    for other in (ids("2"), ids(identity=["recipe", "fingerprint", "again"]), ids(identity=["r", "fingerprint", ""])):
        assert not set(ids()) & set(other)
    assert ids(max_rows=15)[0] != ids()[0]


def test_condemned_names_are_never_used_again() -> None:
    condemned: set[str] = set()
    seen: list[str] = []
    for _ in range(4):
        (unit,) = cut(survey_of([(5, 50)]), 10, MANY, IDENTITY, frozenset(condemned))
        seen.append(unit.splits[0].split_id)
        condemned.add(seen[-1])
    assert len(set(seen)) == 4
    (unit,) = cut(survey_of([(5, 50)]), 10, MANY, IDENTITY, frozenset(seen[1:]))
    assert unit.splits[0].split_id == seen[0], "only the condemned one is passed over"


@given(st.integers(0, 10**7), st.integers(1, 20_000), st.integers(1, 500))
def test_rows_per_split_halves(total: int, rows: int, min_splits: int) -> None:
    chosen = rows_per_split(total, rows, min_splits)
    assert min(rows, SMALLEST_SPLIT) <= chosen <= rows
    assert chosen <= SMALLEST_SPLIT or chosen * min_splits <= total
    assert chosen == rows or rows_per_split(total, chosen * 2, min_splits) <= chosen * 2
    if chosen > SMALLEST_SPLIT:
        assert rows_per_split(total + total // 100, rows, min_splits) in (chosen, min(rows, chosen * 2), chosen * 2 + 1)


def test_short_texts_have_more_rows_in_a_split() -> None:
    """As many as four mebibytes of text are, unless the config says how many."""
    means = (1000, 257, 256, 129, 128, 1, 0)
    assert [rows_by_text(None, 10, 10 * mean) for mean in means] == [8192, 8192, 16384, 16384, *[32768] * 3]
    assert [rows_by_text(100, 10, 10 * mean) for mean in means] == [100] * len(means)


def test_rows_per_split_by_example() -> None:
    assert [rows_per_split(total, 8192, 64) for total in (0, 10_000, 100_000, 600_000)] == [256, 256, 1024, 8192]
    assert rows_per_split(100_000, 100, 64) == 100
    assert rows_per_split(10, 8192, 1) == 256


# --- reading any part of a Parquet shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@quick
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(1, 30),
    st.data(),
)
def test_any_choice_of_splits_gives_exactly_its_rows(
    folder: Path, groups: list[int], max_rows: int, data: st.DataObject
) -> None:
    table = documents(sum(groups))
    carried = pa.array([{"n": i, "tags": [str(i)] * (i % 3)} for i in range(sum(groups))], _NESTED)
    uri = put(str(folder), "any.parquet", parquet(table.append_column("meta", carried), groups))
    if not table.num_rows:
        return
    units, read = units_of(uri, max_rows, carry=["meta"])
    for unit in units:
        wanted = [split for split in unit.splits if data.draw(st.booleans())]
        if not wanted:
            continue
        found = read(dataclasses.replace(unit, splits=tuple(wanted)))
        assert [split for split, _ in found] == wanted
        for split, rows in found:
            assert rows.ids.to_pylist() == [f"d{i}" for i in range(split.start, split.end)]
            assert rows.texts == [f"text {i}" for i in range(split.start, split.end)]
            assert rows.carry.column("meta").to_pylist() == carried[split.start : split.end].to_pylist()


_NESTED = pa.struct([("n", pa.int64()), ("tags", pa.list_(pa.string()))])


def test_splits_across_batches_of_the_reader(tmp_path: Path) -> None:
    """A row group of 10,000 rows is decoded in batches of 4,096, which no split boundary needs to meet."""
    put(str(tmp_path), "a.parquet", parquet(documents(10_000)))
    units, read = units_of(str(tmp_path), 3_000)
    (unit,) = units
    assert ids_of(read(unit)) == [f"d{i}" for i in range(10_000)]
    second, fourth = unit.splits[1], unit.splits[3]
    found = read(dataclasses.replace(unit, splits=(second, fourth)))
    assert ids_of(found) == [f"d{i}" for i in [*range(2500, 5000), *range(7500, 10_000)]]


# --- reading byte ranges of JSONL

lines = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(lambda text: {"text": f"größe 日本 {text}"}),
    st.just({"text": "long " * 80}),
    st.sampled_from(["", "   ", "\t"]),
)


@quick
@given(
    st.lists(lines, min_size=1, max_size=25),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.integers(1, 8),
    st.booleans(),
)
@example([{"text": "x" * 3000}, {"text": "y"}], "\n", False, 1, True)
@example([{"text": "lines of one length, so that ranges begin where lines do"}] * 8, "\n", True, 1, True)
def test_byte_ranges_give_every_line_once(
    folder: Path, content: list[Any], end: str, final: bool, max_rows: int, ascii_only: bool
) -> None:
    rows = [row if isinstance(row, str) else {"id": f"r{n}", **row} for n, row in enumerate(content)]
    data = "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=ascii_only)) + end for r in rows).encode()
    data = data if final else data.removesuffix(end.encode())
    uri = put(str(folder), "any.jsonl", data)
    expected = [row for row in rows if isinstance(row, dict)]
    if not expected:
        return
    found = read_all(uri, max_rows, 1024)
    assert ids_of(found) == [row["id"] for row in expected]
    assert [text for _, part in found for text in part.texts] == [row["text"] for row in expected]
    assert rejects_of(found) == []


def test_position_of_a_rejected_line_is_its_byte_offset(tmp_path: Path) -> None:
    good = json.dumps({"id": "ä", "text": "größe"}, ensure_ascii=False) + "\n"
    put(str(tmp_path), "a.jsonl", (good * 3 + "\n" + "oops\n" + good).encode())
    assert [position for _, position, _, _ in rejects_of(read_all(str(tmp_path), 1))] == [3 * len(good.encode()) + 1]


def test_first_line_may_be_longer_than_the_sample(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "long " * 100_000}, {"id": "b", "text": "b"}]))
    assert ids_of(read_all(str(tmp_path), max_bytes=100_000)) == ["a", "b"]


def test_file_of_something_else_is_refused(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "a.jsonl", b"id,text\n1,hello\n2,world\n")
    with pytest.raises(CorpusError, match=rf"{uri} is not JSON Lines: no JSON object in its first 3 lines\."):
        units_of(uri)


# --- texts


@pytest.mark.parametrize(
    ("template", "columns", "values", "expected"),
    [
        ("text", ["text"], ["  as it is \n"], "  as it is \n"),
        ("text", ["text"], [None], None),
        ("text", ["text"], [""], ""),
        ("{title} {text}", ["title", "text"], ["T", "x"], "T x"),
        ("{title} {text}", ["title", "text"], [None, " x "], "x"),
        ("{title} {text}", ["title", "text"], ["T", None], "T"),
        ("{title} {text}", ["title", "text"], [None, None], None),
        ("{title} {text}", ["title", "text"], ["", ""], ""),
        ("{text}", ["text"], [" x "], "x"),
        ("{a}: {a} ({n})", ["a", "n"], ["x", 7], "x: x (7)"),
        ("{{{a}}} {{b}}", ["a"], ["x"], "{x} {b}"),
        ("{my title}", ["my title"], ["x"], "x"),
        ("{a.b}", ["a.b"], ["x"], "x"),
        ("a column with spaces", ["a column with spaces"], [" x"], " x"),
    ],
)
def test_template(template: str, columns: list[str], values: list[Any], expected: str | None) -> None:
    made = TextTemplate(template)
    assert made.columns == columns
    assert made.render(values) == expected


@pytest.mark.parametrize("template", ["{title} {", "{}", "{a!r}", "{a:>10}", "{a} {}", "}"])
def test_template_that_is_none(template: str) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.text .* (is not a template|write plain column names in braces)"):
        TextTemplate(template)


def test_template_over_columns_of_a_shard(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2, 3], "title": ["A", None, None], "text": ["x ", "y", None], "n": [1.5, 2.0, None]})
    put(str(tmp_path), "a.parquet", parquet(table))
    found = read_all(str(tmp_path), text="{title} {text}")
    assert found[0][1].texts == ["A x", "y"]
    assert rejects_of(found) == [("3", 2, "null_text", "the text is null")]
    assert read_all(str(tmp_path), text="{title} {n}")[0][1].texts == ["A 1.5", "2"]


# --- rejects


def test_rejects_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"id": "good", "text": "x", "n": 1},
        {"text": "x", "n": 1},
        {"id": 5, "text": "x", "n": 1},
        {"id": True, "text": "x", "n": 1},
        {"id": "null", "text": None, "n": 1},
        {"id": "missing", "n": 1},
        {"id": "empty", "text": " \n\t", "n": 1},
        '{"id": "surrogate", "text": "a\\ud800", "n": 1}',
        '{"id": "\\udfff", "text": "x", "n": 1}',
        {"id": "number", "text": 5, "n": 1},
        {"id": "list", "text": ["x"], "n": 1},
        {"id": "column", "text": "x", "n": "many"},
        "not json",
        "[1, 2]",
        "[" * 50_000,
        {"id": "null column", "text": "x", "n": None},
    ]
    # Half a megabyte of good rows first: a sample of the beginning decides what the columns are.
    filler = [{"id": f"f{i}", "text": "filler " * 40, "n": i} for i in range(1500)]
    put(str(tmp_path), "a.jsonl", jsonl(filler + rows))
    found = read_all(str(tmp_path), carry=["n"])
    assert ids_of(found)[1500:] == ["good", "null column"]
    assert found[0][1].carry.column("n").to_pylist()[1500:] == [1, None]
    rejects = rejects_of(found)
    assert [(id_, reason, message) for id_, _, reason, message in rejects[:8]] == [
        (None, "null_id", "the id is null"),
        ("5", "bad_id", "the id is of type int, the table's ids are str"),
        ("True", "bad_id", "the id is of type bool, the table's ids are str"),
        ("null", "null_text", "the text is null"),
        ("missing", "null_text", "the text is null"),
        ("empty", "empty_text", "the text is empty or only white space"),
        (
            "surrogate",
            "bad_text",
            f"the text is not valid Unicode at character 1: {NOT_UTF8}",
        ),
        ("?", "bad_id", f"the id is not valid Unicode at character 0: {NOT_UTF8}"),
    ]
    assert [(id_, reason, message) for id_, _, reason, message in rejects[8:]] == [
        ("number", "bad_text", "text is a JSON number, not a string"),
        ("list", "bad_text", "text is a JSON array, not a string"),
        ("column", "bad_column", "n is not int64: 'many'"),
        (None, "bad_json", "the line is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (None, "bad_json", "the line is a JSON array, not an object"),
        (None, "bad_json", f"the line is not JSON: {_recursion_error()}"),
    ]
    positions = [position for _, position, _, _ in rejects]
    assert positions == sorted(positions), "in the order of the shard"


def _recursion_error() -> str:
    with pytest.raises(RecursionError) as caught:
        json.loads("[" * 50_000)
    return str(caught.value)


def test_bad_values_at_the_very_beginning_do_not_decide_what_a_column_is(tmp_path: Path) -> None:
    rows = [
        '{"id": 1, "text": "a\\ud800"}',
        {"id": 2, "text": 5},
        {"id": 2**64, "text": "too large"},
        "oops",
        {"id": 3, "text": "good", "\ud800": 1},
    ]
    put(str(tmp_path), "a.jsonl", jsonl(rows))
    found = read_all(str(tmp_path))
    assert ids_of(found) == [3]
    assert [(id_, reason) for id_, _, reason, _ in rejects_of(found)] == [
        ("1", "bad_text"),
        ("2", "bad_text"),
        (str(2**64), "bad_id"),
        (None, "bad_json"),
    ]


def test_bool_in_a_template_is_no_text(tmp_path: Path) -> None:
    rows = [{"id": "a", "t": "x", "n": 1}, {"id": "b", "t": "x", "n": True}, {"id": "c", "t": "x"}]
    put(str(tmp_path), "a.jsonl", jsonl(rows))
    found = read_all(str(tmp_path), text="{t} {n}")
    assert found[0][1].texts == ["x 1", "x"]
    assert rejects_of(found)[0][2:] == ("bad_text", "n is a JSON boolean, not a string")


def undecodable(values: list[bytes], kind: pa.DataType) -> pa.Array:
    """A string column whose bytes nobody checked, as some writers make them."""
    return pa.Array.from_buffers(kind, len(values), pa.array(values, pa.binary() if kind == pa.string() else
                                 pa.large_binary()).buffers())  # fmt: skip


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_bytes_that_are_not_utf8(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table(
        {
            "id": undecodable([b"a", b"b", b"\xff", b"d"], kind),
            "text": undecodable([b"good", b"bad \xff", b"x", b"y"], kind),
            "note": undecodable([b"n", b"n", b"n", b"\xc3("], kind),
        }
    )
    put(str(tmp_path), "a.parquet", parquet(table))
    found = read_all(str(tmp_path), carry=["note"])
    assert ids_of(found) == ["a"]
    why = "bytes that are not UTF-8: 'utf-8' codec can't decode byte 0xff in position"
    assert rejects_of(found) == [
        ("b", 1, "bad_text", f"{why} 4: invalid start byte"),
        (None, 2, "bad_id", f"the id is {why} 0: invalid start byte"),
        ("d", 3, "bad_column", "note holds bytes that are not UTF-8"),
    ]
    assert ids_of(read_all(str(tmp_path))) == ["a", "d"], "a column that is not carried does not matter"


def test_rejects_of_parquet(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", None, "c", "d"], "text": ["x", "x", None, ""]})
    put(str(tmp_path), "a.parquet", parquet(table))
    found = read_all(str(tmp_path))
    assert [(split.start, rows.read) for split, rows in found] == [(0, 4)]
    assert rejects_of(found) == [
        (None, 1, "null_id", "the id is null"),
        ("c", 2, "null_text", "the text is null"),
        ("d", 3, "empty_text", "the text is empty or only white space"),
    ]


# --- columns


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64()], ids=str)
def test_integer_ids(tmp_path: Path, kind: pa.DataType) -> None:
    top = 2**63 if kind == pa.uint64() else 100
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": pa.array([0, 7, top], kind), "text": ["x"] * 3})))
    found = read_all(str(tmp_path))
    assert found[0][1].ids.type == pa.int64()
    if kind == pa.uint64():
        assert rejects_of(found) == [(str(2**63), 2, "bad_id", "the id does not fit into 64 bits")]
    else:
        assert ids_of(found) == [0, 7, 100]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_kinds_of_strings(tmp_path: Path, kind: pa.DataType) -> None:
    strings = pa.array(["a", "b", "c", None]).cast(kind)
    table = pa.table({"id": strings, "text": strings, "note": strings})
    put(str(tmp_path), "a.parquet", parquet(table, [2, 2]))
    found = read_all(str(tmp_path), max_rows=2, carry=["note"])
    assert ids_of(found) == ["a", "b", "c"]
    assert [rows.ids.type for _, rows in found] == [pa.string()] * 2
    assert [value for _, rows in found for value in rows.carry.column("note").to_pylist()] == ["a", "b", "c"]
    assert found[0][1].carry.schema.field("note").type == pa.string(), "the layout is no type of its own"


def test_text_column_with_a_dot_in_its_name_counts_its_bytes(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": [1, 2], "doc.text": ["x" * 5000, "y" * 5000]})))
    found = read_all(str(tmp_path), max_bytes=6000, text="doc.text")
    assert [rows.read for _, rows in found] == [1, 1]


def complaint(tmp_path: Path, table: pa.Table, **options: Any) -> str:
    put(str(tmp_path), "a.parquet", parquet(table))
    with pytest.raises((CorpusError, ConfigError)) as caught:
        units_of(str(tmp_path), **options)
    return str(caught.value).removeprefix(f"{tmp_path}/")


def test_missing_column_suggests_the_near_one(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "texts": ["x"], "url": ["u"]})
    assert complaint(tmp_path, table) == (
        "a.parquet has no column 'text' (corpus.text). Did you mean 'texts'? It has: id, texts, url."
    )
    assert "no column 'title' (corpus.text)" in complaint(tmp_path, table, text="{title} {texts}")
    assert "no column 'urls' (corpus.carry). Did you mean 'url'?" in complaint(
        tmp_path, table, text="texts", carry=["urls"]
    )
    assert complaint(tmp_path, table, text="texts", id="doc") == (
        "a.parquet has no column 'doc' (corpus.id). It has: id, texts, url. If there are no ids, set corpus.id=null to "
        "number the rows."
    )


def test_columns_of_unfit_types_are_refused(tmp_path: Path) -> None:
    table = pa.table({"id": [1.5], "text": [True], "n": [1], "list": [["x"]]})
    assert complaint(tmp_path, table) == (
        "a.parquet: the id column 'id' is double; ids must be strings, integers, whole decimals or "
        "UUIDs. Set corpus.id to another column, or to null to number the rows."
    )
    assert complaint(tmp_path, table, id="n") == (
        "a.parquet: the text column 'text' is bool; it must be a string. Set corpus.text to another column."
    )
    assert "the text column 'n' is int64" in complaint(tmp_path, table, id="n", text="n")
    assert "the text column 'list' is list" in complaint(tmp_path, table, id="n", text="{n} {list}")


def test_carried_names_of_the_table_are_refused(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "text": ["x"], "n_tokens": [1]})
    assert complaint(tmp_path, table, carry=["n_tokens"]) == (
        "corpus.carry: 'n_tokens' is a column name reserved for the table. Give the column another name in the table, "
        "carry: {n_tokens_2: n_tokens}."
    )


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], ["id", "text", "text"])
    assert "several columns 'text' (corpus.text)" in complaint(tmp_path, table)


def test_shards_must_agree(tmp_path: Path) -> None:
    put(str(tmp_path), "0.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "n": [1]})))
    table = pa.table({"id": [1], "text": ["x"], "n": ["1"]})
    assert complaint(tmp_path, table) == (
        "a.parquet: the id column 'id' is int64, but the ids in other shards are string. Convert the ids to one "
        "type, or set corpus.id=null to number the rows."
    )
    assert complaint(tmp_path, table.set_column(0, "id", pa.array(["b"])), carry=["n"]) == (
        "a.parquet: the column 'n' is string, but in other shards it is int64. Convert it to one type, or remove it "
        "from corpus.carry."
    )
    assert len(units_of(str(tmp_path / "0.parquet"))[0]) == 1


def test_a_field_without_values_goes_with_any_type(tmp_path: Path) -> None:
    """Parquet gives it the type null, which is nobody's type: alone it stays open, else others decide."""

    def carried(**shards: Any) -> list[Any]:
        for name, value in shards.items():
            table = pa.table({"id": [name], "text": ["x"], "meta": pa.array([value])})
            put(str(tmp_path), f"{'-'.join(shards)}/{name}.parquet", parquet(table))
        found = read_all(f"{tmp_path}/{'-'.join(shards)}", carry=["meta"])
        assert len({rows.carry.schema for _, rows in found}) == 1
        return [found[0][1].carry.schema.field("meta").type, *(rows.carry["meta"][0].as_py() for _, rows in found)]

    empty, full = {"n": None, "of": [{"k": None}]}, {"n": 1, "of": [{"k": 0.5}]}
    nothing = pa.struct({"n": pa.null(), "of": pa.list_(pa.field("element", pa.struct({"k": pa.null()})))})
    numbers = pa.struct({"n": pa.int64(), "of": pa.list_(pa.field("element", pa.struct({"k": pa.float64()})))})
    assert carried(a=empty) == [nothing, empty]
    assert carried(a=empty, b=full) == [numbers, empty, full]
    assert carried(b=full, c=empty) == [numbers, full, empty]


def test_ids_of_several_types_in_json_are_refused(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "x"}, {"id": 1, "text": "y"}]))
    with pytest.raises(CorpusError, match=rf"{uri}: the values of 'id' have several types"):
        units_of(uri)


def test_parquet_and_json_in_one_corpus(tmp_path: Path) -> None:
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "n": pa.array([1], pa.int16())})))
    put(str(tmp_path), "b.jsonl", jsonl([{"id": "b", "text": "y", "n": 2}, {"id": "c", "text": "z", "n": 2**20}]))
    found = read_all(str(tmp_path), carry=["n"])
    assert ids_of(found) == ["a", "b"]
    assert [rows.carry.column("n").type for _, rows in found] == [pa.int16()] * 2
    assert rejects_of(found)[0][:1] + rejects_of(found)[0][2:3] == ("c", "bad_column")


def test_carried_columns_of_json(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "x", "tags": ["p", "q"], "meta": {"n": 1, "s": "é"}, "f": 1, "none": None},
        {"id": "b", "text": "", "tags": None, "meta": None, "f": 2.5},
        {"id": "c", "text": "z", "tags": [], "meta": {"n": 3}, "f": None, "none": "now a string"},
    ]
    put(str(tmp_path), "a.jsonl", jsonl(rows))
    (pair,) = read_all(str(tmp_path), carry=["tags", "meta", "f", "none"])
    assert pair[1].carry.to_pylist() == [
        {"tags": ["p", "q"], "meta": {"n": 1, "s": "é"}, "f": 1.0, "none": None},
        {"tags": [], "meta": {"n": 3, "s": None}, "f": None, "none": "now a string"},
    ]


def test_a_split_of_rejects_alone_has_typed_columns(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": 1, "text": "x", "tags": ["p"]}, *["oops"] * 40]))
    found = read_all(str(tmp_path), 5, carry=["tags"])
    assert len(found) > 2
    assert found[-1][1].ids.type == pa.int64()
    assert found[-1][1].carry.schema.field("tags").type == pa.list_(pa.string())
    assert found[-1][1].carry.num_rows == 0


def test_unchanged_shard_passes(tmp_path: Path) -> None:
    corpus = CorpusSettings(path=put(str(tmp_path), "a.parquet", parquet(documents(1))))
    (shard,) = list_shards(corpus)
    check_unchanged(shard, corpus)
    assert resolve_columns(survey_shards([shard], corpus), corpus) == Columns(pa.string(), {})


def test_bucket_that_is_not_there_is_told(s3: Any) -> None:
    with pytest.raises((StorageError, CorpusError), match="s3://no-such-bucket-at-all"):
        list_shards(CorpusSettings(path="s3://no-such-bucket-at-all/x"))


def test_carried_columns_count_for_the_size_of_a_split(tmp_path: Path) -> None:
    rows = {"id": [str(n) for n in range(100)], "text": ["x"] * 100, "html": [f"{n:05}" * 2000 for n in range(100)]}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink, compression="none", use_dictionary=False)
    put(str(tmp_path), "a.parquet", sink.getvalue().to_pybytes())
    assert len(read_all(str(tmp_path), max_bytes=2**17)) == 1
    found = read_all(str(tmp_path), max_bytes=2**17, carry=["html"])
    assert len(found) == 8
    assert max(rows.carry.nbytes for _, rows in found) < 2**17 + 10_100
    assert sum(split.text_bytes for split, _ in found) < 10_000, "an estimate of tokens is of the text alone"


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string_view()), pa.large_list(pa.string_view()), pa.struct([("v", pa.binary_view())])]
)
def test_views_inside_carried_columns(kind: pa.DataType, tmp_path: Path) -> None:
    value = {"v": b"p"} if pa.types.is_struct(kind) else ["p", "q"]
    table = pa.table({"id": ["a", "b"], "text": ["x", ""], "c": pa.array([value, None], kind)})
    put(str(tmp_path), "a.parquet", parquet(table))
    ((_, rows),) = read_all(str(tmp_path), carry=["c"])
    assert rows.carry.to_pylist() == [{"c": value}]


def test_a_column_that_is_null_in_one_file(tmp_path: Path) -> None:
    """As pandas writes it where a whole file has no value."""
    put(str(tmp_path), "a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"], "n": pa.nulls(1)})))
    put(str(tmp_path), "b.parquet", parquet(pa.table({"id": ["b"], "text": ["y"], "n": [2]})))
    put(str(tmp_path), "c.parquet", parquet(pa.table({"id": ["c"], "text": pa.nulls(1), "n": [2]})))
    found = read_all(str(tmp_path), carry=["n"])
    assert [rows.carry.to_pylist() for _, rows in found] == [[{"n": None}], [{"n": 2}], []]
    assert {rows.carry.schema.field("n").type for _, rows in found} == {pa.int64()}
    assert [reject[2] for reject in rejects_of(found)] == ["null_text"]


def test_types_come_from_parquet_whatever_the_files_are_called(tmp_path: Path) -> None:
    put(str(tmp_path), "a.jsonl", jsonl([{"id": "a", "text": "x", "year": 1}]))
    put(str(tmp_path), "b.parquet", parquet(pa.table({"id": ["b"], "text": ["x"], "year": pa.array([2], pa.int32())})))
    found = read_all(str(tmp_path), carry=["year"])
    assert [rows.carry.schema.field("year").type for _, rows in found] == [pa.int32()] * 2


def test_linked_folders_are_read(tmp_path: Path) -> None:
    put(str(tmp_path), "corpus/a.jsonl", jsonl([{"id": "a", "text": "x"}]))
    put(str(tmp_path), "other/b.jsonl", jsonl([{"id": "b", "text": "x"}]))
    (tmp_path / "corpus" / "sub").symlink_to(tmp_path / "other")
    assert ids_of(read_all(str(tmp_path / "corpus"))) == ["a", "b"]
