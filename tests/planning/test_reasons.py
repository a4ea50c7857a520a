"""Settings that change between nights: what a plan and a refusal say, and that nothing is paid before it is said."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfr_batch.errors import TooManyChanges, TooManyDeletes
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.reasons import changed_settings
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.nights import Doc, Place, Writer, docs_of, night

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]
TEXT = "corpus.text was text and is {lang} {text}: all shards are read again, and rows whose text is another one are "
IDS = "corpus.id was id and is lang: all shards are read again, and documents are known by their ids, so those with "


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(['corpus.text="{lang} {text}"'], TEXT + "embedded again"), (["corpus.id=lang"], IDS + "other ids are new ones")],
)
def test_a_changed_setting_is_named_by_the_plan(nights: Nights, overrides: list[str], said: str) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 4)})
    night(place)
    assert make_plan(place.config()).describe().count("corpus.text was") == 0
    plan = make_plan(place.config(*overrides))
    assert plan.describe().splitlines().count(said) == 1
    assert said in plan._repr_html_()


def test_another_path_is_named(nights: Nights, tmp_path: Path) -> None:
    place, writer = nights
    shards = {"a.parquet": docs_of("a", 4), "b.parquet": docs_of("b", 4)}
    writer.write(shards)
    night(place)
    other = str(tmp_path / "other")
    Writer(other).write(shards)
    plan = make_plan(place.config(f"corpus.path={other}"))
    assert (
        f"none of the 2 shards of the table is in the corpus any more: corpus.path was {place.corpus} and is {other}; "
        "all shards are read again, and rows with the same id and text keep their vectors" in plan.describe()
    )
    _, texts = night(place, f"corpus.path={other}")
    assert texts == []
    Writer(other + "/more").write({"c.parquet": docs_of("c", 4)})
    assert not make_plan(place.config(f"corpus.path={other}")).reasons, "the same shards and one more"


def test_settings_of_files_are_named() -> None:
    before = {"id": "id", "text": "text", "carry": ["lang"]}
    assert changed_settings(before, {**before, "carry": []}) == []
    assert changed_settings({**before, "delimiter": "\t"}, {**before, "nulls": ["-"]}) == [
        'corpus.delimiter was "\\t" and is null: all shards are read again, and rows that are read otherwise are '
        "embedded again",
        'corpus.nulls was null and is ["-"]: all shards are read again, and rows that are read otherwise are embedded '
        "again",
    ]


def texts(docs: list[Doc], changed: int) -> list[Doc]:
    return [Doc(doc.id, f"other {doc.text}", doc.lang) for doc in docs[:changed]] + docs[changed:]


def refused(error: type[Exception], run: Callable[[], object], place: Place) -> str:
    """The message. Nothing is written, nothing is encoded."""
    store = Table.open(open_store(place.table)).store
    before = {info.key for info in store.list("")}
    with pytest.raises(error) as found:
        run()
    assert {info.key for info in store.list("")} == before
    return str(found.value)


def test_a_run_that_would_embed_too_much_again_is_stopped(nights: Nights) -> None:
    place, writer = nights
    a, limit = docs_of("a", 300), "table.max_changed_share=0.2"
    writer.write({"a.parquet": a})
    night(place)
    template = ('corpus.text="{lang} {text}"', limit)
    assert refused(TooManyChanges, lambda: night(place, *template), place) == (
        f"300 of the 300 documents of {place.table} (100.0%) would be embedded again, and table.max_changed_share "
        f"allows 20%. The reason may be a setting: {TEXT}embedded again. Nothing was embedded or published. Correct "
        "the corpus or its settings. If the change is meant: table.max_changed_share=1 embeds them in this run; a "
        "label in table.generation embeds all documents again."
    )
    writer.write({"a.parquet": texts(a, 101)})
    assert "20%. Their texts have changed. Nothing" in refused(TooManyChanges, lambda: night(place, limit), place)
    writer.write({"a.parquet": texts(a, 100)})
    assert len(night(place, limit)[1]) == 100, "always allowed"
    assert len(night(place, *template, "table.max_changed_share=1")[1]) == 300
    assert len(night(place, limit, "table.generation=again")[1]) == 300, "announced"
    writer.write({"a.parquet": texts(texts(a, 300), 300)})
    assert len(night(place)[1]) == 300, "no limit by default"


def test_an_id_column_that_has_changed_is_the_reason(nights: Nights) -> None:
    place, writer = nights
    docs = [Doc(f"a{n}", f"text {n}", f"l{n}") for n in range(200)]
    writer.write({"a.parquet": docs})
    night(place)
    other = ("corpus.id=lang", "table.max_changed_share=0.2")
    message = refused(TooManyChanges, lambda: night(place, *other, "table.delete=keep"), place)
    assert message.startswith("200 of the 200 documents")
    message = refused(TooManyDeletes, lambda: night(place, *other, "table.delete=refuse-above-share"), place)
    assert f"allows 20%. The reason may be a setting: {IDS}other ids are new ones. Nothing was embedded" in message
    writer.write({"a.parquet": [Doc(f"b{n}", f"text {n}", f"l{n}") for n in range(200)]})
    assert len(night(place, "table.max_changed_share=0.2")[1]) == 200, "new documents are not embedded again"
