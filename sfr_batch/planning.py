"""The plan: what a run would do, as a value you can print. Touches nothing, needs no GPU, no Ray and no torch.

Corpus today against the table's last snapshot: shards in the same version under the same row recipe and generation
are carried over unread; the others are cut into splits; splits whose data file exists are done. What remains is work.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from sfr_batch import model
from sfr_batch import schema as names
from sfr_batch.columns import Columns, TextTemplate
from sfr_batch.commit import Draft, check_same_table
from sfr_batch.config import Config, CorpusSettings, ModelSettings, RunSettings, TableSettings
from sfr_batch.corpus import Shard, list_shards, resolve_columns, survey_shards
from sfr_batch.errors import ConfigError, CorpusError, TableError, TableNotFound
from sfr_batch.fingerprint import digest
from sfr_batch.manifest import Receipt, ShardRecord, TableCard
from sfr_batch.prompts import DOCUMENT, QUERY, resolve
from sfr_batch.splits import ReadUnit, Split, Stream, cut, missing_in_stream, rows_per_split, stream_of
from sfr_batch.storage import ObjectInfo, Store, absolute_uri, is_s3, open_store, would_list
from sfr_batch.table import Snapshot, Table
from sfr_batch.tokenizer import Tokenizer

_BYTES_PER_TOKEN = 4.0
"""English prose under a 32,000-piece vocabulary; code and other languages have fewer. Estimates carry a ``~``."""


@dataclass(frozen=True)
class EmbedPlan:
    """What is missing between the corpus and the table, and what is not."""

    config: Config
    card: TableCard
    store: Store
    columns: Columns
    row_recipe: dict[str, Any]
    base: Snapshot | None
    carried: tuple[ShardRecord, ...]
    """Shards that the base snapshot covers as they are."""
    changed: tuple[tuple[Shard, int | None], ...]
    """The other shards, with their rows where those are known without reading."""
    units: tuple[ReadUnit, ...]
    """All splits of the changed shards."""
    committed: dict[str, ObjectInfo]
    """Data files on storage when the plan was made."""

    @cached_property
    def splits(self) -> list[Split]:
        """All splits of the changed shards; of a stream, which is cut as it is read, as many as are to be expected."""
        return [split for unit in self.units for split in _splits_of(unit)]

    @cached_property
    def todo(self) -> list[ReadUnit]:
        """Read units with only the splits that have no data file yet."""
        units = []
        for unit in self.units:
            if unit.stream:
                done = self._done_of(unit.stream)
                if missing_in_stream(done.items()):
                    stream = dataclasses.replace(unit.stream, done=tuple(sorted(done)))
                    units.append(dataclasses.replace(unit, stream=stream))
                continue
            missing = tuple(split for split in unit.splits if split.split_id not in self.committed)
            if missing:
                units.append(dataclasses.replace(unit, splits=missing))
        return units

    @cached_property
    def todo_splits(self) -> list[Split]:
        """Splits without a data file; of a stream, as many as are to be expected."""
        return [split for unit in self.todo for split in _splits_of(unit)]

    @cached_property
    def done(self) -> dict[str, ObjectInfo]:
        """The data files of this plan's splits, by split id."""
        of_streams = {
            unit.stream.split_id(number, last)
            for unit in self.units
            if unit.stream
            for number, last in self._done_of(unit.stream).items()
        }
        ids = of_streams.union(split.split_id for unit in self.units for split in unit.splits)
        return {split_id: info for split_id, info in self.committed.items() if split_id in ids}

    def missing(self, finished: Iterable[str]) -> int:
        """How many splits are still to be done once those with the ids ``finished`` are; of streams at least."""
        ids = {*self.done, *finished}
        streams: dict[str, list[tuple[int, bool]]] = {unit.stream.prefix: [] for unit in self.todo if unit.stream}
        for split_id in ids if streams else ():
            prefix, number, last = stream_of(split_id)
            if prefix in streams:
                streams[prefix].append((number, last))
        missing = sum(split.split_id not in ids for unit in self.todo for split in unit.splits)
        return missing + sum(map(missing_in_stream, streams.values()))

    @cached_property
    def _by_prefix(self) -> dict[str, dict[int, bool]]:
        """Which splits of which streams have their data file, and whether it is the last: by prefix and number."""
        found: dict[str, dict[int, bool]] = {unit.stream.prefix: {} for unit in self.units if unit.stream}
        for split_id in self.committed if found else ():
            prefix, number, last = stream_of(split_id)
            if prefix in found:
                found[prefix][number] = last
        return found

    def _done_of(self, stream: Stream) -> dict[int, bool]:
        return self._by_prefix[stream.prefix]

    @property
    def up_to_date(self) -> bool:
        """Whether the last snapshot already is what this run would publish."""
        return is_up_to_date(self.base, self.carried, self.changed)

    @property
    def rows(self) -> int:
        """Rows to embed, estimated where a shard is not Parquet."""
        return sum(split.rows for split in self.todo_splits)

    @property
    def text_bytes(self) -> int:
        """Bytes of text to embed."""
        return sum(split.text_bytes for split in self.todo_splits)

    @property
    def estimated_tokens(self) -> int:
        """Tokens to compute: of longer rows only what is not cut off, of chunks also what they share."""
        inputs = self.card.fingerprint_inputs
        if inputs["overflow"] == "chunk":
            shared = float(inputs["chunk_overlap"] / inputs["chunk_tokens"])
            return round(self.text_bytes / _BYTES_PER_TOKEN / (1 - shared))
        limit = int(inputs["max_length"])
        per_split = (min(split.text_bytes / _BYTES_PER_TOKEN, split.rows * limit) for split in self.todo_splits)
        return round(sum(per_split))

    def carried_receipts(self) -> list[Receipt]:
        """Receipts of the data files that stay live."""
        if self.base is None:
            return []
        kept = {record.uri for record in self.carried}
        return [receipt for receipt in self.base.receipts if receipt.shard in kept]

    def draft(self, run_id: str, receipts: Iterable[Receipt]) -> Draft:
        """What to publish once every split has a receipt."""
        new = sorted(receipts, key=lambda r: (r.shard, r.start))
        done = _totals(new)
        records = [
            ShardRecord(
                uri=shard.uri,
                version=shard.version,
                size=shard.size,
                recipe=digest(self.row_recipe),
                generation=self.config.table.generation,
                read=done.get(shard.uri, (0, 0))[0] if rows is None else rows,
                splits=done.get(shard.uri, (0, 0))[1],
            )
            for shard, rows in self.changed
        ]
        live = sorted([*self.carried_receipts(), *new], key=lambda r: (r.shard, r.start))
        return Draft(
            run_id=run_id,
            generation=self.config.table.generation,
            row_recipe=self.row_recipe,
            receipts=live,
            shards=sorted([*self.carried, *records], key=lambda s: s.uri),
            new=frozenset(receipt.split_id for receipt in new),
            duplicate_ids=self.config.table.duplicate_ids,
            max_reject_share=self.config.run.max_reject_share,
        )

    def __repr__(self) -> str:
        if self.up_to_date:
            return f"<EmbedPlan {self.store.root}: up to date, nothing to do>"
        return (
            f"<EmbedPlan {self.store.root}: {len(self.splits):,} splits, {len(self.todo_splits):,} to embed, "
            f"~{self.rows:,} rows, ~{self.estimated_tokens:,} tokens>"
        )

    def describe(self) -> str:
        """Several lines for a person."""
        about = "" if all(rows is not None for _, rows in self.changed) else "~"
        more = "~" if any(unit.stream for unit in self.units) else ""
        lines = [
            f"table     {self.store.root}" + (f" ({self.base.brief()})" if self.base else " (no snapshot yet)"),
            f"corpus    {len(self.carried) + len(self.changed):,} shards, {len(self.carried):,} of them unchanged",
            f"splits    {more}{len(self.splits):,} in the changed shards, {len(self.done):,} done, "
            f"{more}{len(self.todo_splits):,} to embed",
            f"to embed  {about}{self.rows:,} rows, {self.text_bytes / 1e6:,.1f} MB of text, "
            f"~{self.estimated_tokens:,} tokens",
            f"model     {self.config.model.path}, {self.config.model.compute_dtype} on {self.config.model.device}, "
            f"fingerprint {self.card.fingerprint[:12]}",
        ]
        if self.up_to_date:
            lines.append("up to date: nothing to do")
        elif not self.todo_splits:
            lines.append("every split is done; the run would only publish a snapshot")
        return "\n".join(lines)

    def to_arrow(self) -> pa.Table:
        """The splits as a table, one row each: what is frozen in plan.parquet."""
        columns = [field.name for field in dataclasses.fields(Split)]
        done = [split.split_id in self.done for split in self.splits]
        table = pa.table({name: [getattr(split, name) for split in self.splits] for name in columns})
        return table.append_column("committed", pa.array(done, pa.bool_()))


def _splits_of(unit: ReadUnit) -> Iterable[Split]:
    """The unit's splits; of a stream those that its size lets expect, at least one, but for those that are done."""
    stream, shard = unit.stream, unit.shard
    if stream is None:
        return unit.splits
    expected = stream.expected_splits()
    done = frozenset(stream.done)
    numbers = [number for number in range(expected) if number not in done] or [len(done)]
    return [
        Split(
            split_id=stream.split_id(number, last=False),
            shard=shard.uri,
            version=shard.version,
            start=number,
            end=number + 1,
            rows=-(-stream.rows // expected),
            text_bytes=stream.text_bytes // expected,
        )
        for number in numbers
    ]


def _totals(receipts: Sequence[Receipt]) -> dict[str, tuple[int, int]]:
    totals: dict[str, tuple[int, int]] = {}
    for receipt in receipts:
        read, splits = totals.get(receipt.shard, (0, 0))
        totals[receipt.shard] = (read + receipt.read, splits + 1)
    return totals


def make_plan(config: Config) -> EmbedPlan:
    """Compare the corpus with the table. Reads metadata only; writes nothing.

    Raises ConfigError, CorpusError, ModelError, StorageError, or TableMismatch if the table was made otherwise.
    """
    store = open_store(config.table.path, config.table.storage)
    _check_apart(config.corpus, config.table, store.root)
    table = _open(store)
    if table is None:
        _check_unused(store)
    base = table.latest() if table is not None else None
    shards = list_shards(config.corpus)
    row_recipe = make_row_recipe(config.corpus)
    carried, changed = carry_over(base, shards, digest(row_recipe), config.table.generation)
    surveys = survey_shards(changed or shards[:1], config.corpus)
    known = _columns(table, config.corpus)
    same_recipe = base is not None and base.manifest.row_recipe == row_recipe
    elsewhere = _all_columns(config.corpus) if same_recipe else frozenset[str]()
    columns = resolve_columns(surveys, config.corpus, known, elsewhere)
    if columns is None:
        raise CorpusError(
            f"The corpus {config.corpus.path} has no rows: its {len(shards)} shard(s) are empty, e.g. {shards[0].uri}. "
            "Fill them, or correct corpus.path."
        )
    card = make_card(config, columns)
    if table is not None:
        check_same_table(table, card)
    surveys = surveys if changed else []
    total = sum(record.read for record in carried) + sum(survey.rows for survey in surveys)
    max_rows, max_bytes = _limits_of_a_split(config.run, card)
    identity = (digest(row_recipe), card.fingerprint, config.table.generation)
    condemned = base.condemned if base else frozenset()  # read from storage each time
    units = [
        unit
        for survey in surveys
        for unit in cut(
            survey,
            rows_per_split(total, max_rows, config.run.min_splits),
            max_bytes,
            identity,
            condemned,
        )
    ]
    return EmbedPlan(
        config=config,
        card=card,
        store=store,
        columns=columns,
        row_recipe=row_recipe,
        base=base,
        carried=tuple(carried),
        changed=tuple((survey.shard, survey.rows if survey.exact else None) for survey in surveys),
        units=tuple(units),
        committed=table.committed() if table is not None and units else {},
    )


def _check_apart(corpus: CorpusSettings, table: TableSettings, root: str) -> None:
    """Raises ConfigError if the corpus would come to hold the table's files, or lies among them."""
    for path in [corpus.path] if isinstance(corpus.path, str) else corpus.path:
        uri = absolute_uri(path)
        if is_s3(uri) and corpus.storage != table.storage:
            continue  # the same name may be another bucket
        if would_list(path, f"{root}/{names.data_key('0' * 32)}"):
            raise ConfigError(
                f"corpus.path {path} covers table.path {table.path}: the next run would embed the table's own files. "
                "Set one of them to another place."
            )
        if uri.startswith(f"{root}/"):
            raise ConfigError(
                f"corpus.path {path} lies inside table.path {table.path}, which is the table's alone. Set one of them "
                "to another place."
            )


def _check_unused(store: Store) -> None:
    """Raises TableError if a new table's data folder holds files that readers would take for the table's."""
    others = [info.key for info in store.list(names.DATA) if names.split_of_data_key(info.key) is None]
    if others:
        raise TableError(
            f"There is no table at {store.root} yet, but {len(others)} other file(s) are where its data would be, e.g. "
            f"{others[0]}. Set table.path to an empty place."
        )


def carry_over(
    base: Snapshot | None, shards: Sequence[Shard], recipe: str, generation: str
) -> tuple[list[ShardRecord], list[Shard]]:
    """Which shards the base snapshot covers as they are, and which have to be read."""
    covered = {record.uri: record for record in base.shards} if base else {}
    carried, changed = [], []
    for shard in shards:
        record = covered.get(shard.uri)
        if record and (record.version, record.recipe, record.generation) == (shard.version, recipe, generation):
            carried.append(record)
        else:
            changed.append(shard)
    return carried, changed


def is_up_to_date(base: Snapshot | None, carried: Sequence[ShardRecord], changed: Sequence[Any]) -> bool:
    """Nothing is new, nothing has changed and nothing has vanished."""
    return base is not None and not changed and len(carried) == len(base.shards)


def make_row_recipe(corpus: CorpusSettings) -> dict[str, Any]:
    """What decides which rows and columns come out of a shard."""
    recipe = {"id": corpus.id, "text": corpus.text, "carry": list(corpus.carry)}
    # Only where they are not the default: a setting that is added later must not make all shards count as changed.
    reading = {"format": corpus.format, "delimiter": corpus.delimiter, "quote": corpus.quote}
    usual = CorpusSettings(path="-").model_dump()
    return recipe | {key: value for key, value in reading.items() if value != usual[key]}


def make_card(config: Config, columns: Columns) -> TableCard:
    """The card of the table that this config makes. Reads the model's small files and the hashes of its weights."""
    inputs = model_inputs(config.model, config.table.vector_dtype)
    chunks = config.model.overflow == "chunk"
    schema = names.table_schema(columns.id_type, inputs["dim"], config.table.vector_dtype, columns.carry, chunks=chunks)
    return TableCard.make(schema, digest(inputs), inputs, config.model.model_dump(mode="json"))


def model_inputs(settings: ModelSettings, vector_dtype: str) -> dict[str, Any]:
    """What the fingerprint is made of, read from the model as it is now."""
    folder = model.locate(settings, weights=False)
    recipe = model.read_recipe(folder, settings)
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
    for side in (DOCUMENT, QUERY):
        try:
            tokenizer.encode([], resolve(recipe.prompts, side))
        except ConfigError as error:
            raise ConfigError(f"model.prompts.{side}: {error}") from None
    if settings.overflow == "chunk":
        tokenizer.chunk([], resolve(recipe.prompts, DOCUMENT), settings.chunk_tokens, settings.chunk_overlap)
    hashes = model.weight_hashes(settings, folder)
    return model.fingerprint_inputs(settings, recipe, tokenizer.golden_ids(), hashes, vector_dtype)


def _open(store: Store) -> Table | None:
    try:
        return Table.open(store)
    except TableNotFound:
        return None


def _columns(table: Table | None, corpus: CorpusSettings) -> Columns | None:
    if table is None or any(name not in table.schema.names for name in corpus.carry):
        return None
    schema = table.schema
    return Columns(schema.field(names.ID).type, {name: schema.field(name).type for name in corpus.carry})


def _all_columns(corpus: CorpusSettings) -> frozenset[str]:
    return frozenset((*TextTemplate(corpus.text).columns, *corpus.carry))


def _limits_of_a_split(run: RunSettings, card: TableCard) -> tuple[int, int]:
    """Rows and bytes of text that a split holds at most, so that its vectors stay within what they may take.

    With chunks the bytes of text decide how many vectors there are.
    """
    vectors = max(1, run.vector_bytes_per_split // _vector_bytes(card.schema))
    inputs = card.fingerprint_inputs
    if inputs["overflow"] != "chunk":
        return min(run.rows_per_split, vectors), run.bytes_per_split
    new_tokens = inputs["chunk_tokens"] - inputs["chunk_overlap"]
    return min(run.rows_per_split, vectors), min(run.bytes_per_split, int(vectors * new_tokens * _BYTES_PER_TOKEN))


def _vector_bytes(schema: pa.Schema) -> int:
    vector = schema.field(names.EMBEDDING).type
    return int(vector.list_size * vector.value_type.bit_width // 8)
