"""Which splits of read units have a data file, and which are missing. Knows split ids and a listing, no snapshot."""

import dataclasses
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from sfr_batch.corpus.splits import ReadUnit, Split, Stream
from sfr_batch.format.split_ids import missing_in_stream, stream_of
from sfr_batch.storage.store import ObjectInfo


def as_table(splits: Sequence[Split], done: Container[str]) -> pa.Table:
    """The splits, a row each, and whether they are committed. done: split ids of those that are."""
    table = pa.table(
        {field.name: [getattr(split, field.name) for split in splits] for field in dataclasses.fields(Split)}
    )
    return table.append_column("committed", pa.array([split.split_id in done for split in splits], pa.bool_()))


@dataclass(frozen=True)
class CommittedSplits:
    """The splits of ``units`` against the data files on storage, ``committed``: by split id."""

    units: Sequence[ReadUnit]
    committed: Mapping[str, ObjectInfo]

    @cached_property
    def todo(self) -> list[ReadUnit]:
        """The read units, each with only the splits that have no data file yet."""
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
    def done(self) -> dict[str, ObjectInfo]:
        """The data files of the splits, by split id."""
        of_streams = {
            unit.stream.split_id(number, last)
            for unit in self.units
            if unit.stream
            for number, last in self._done_of(unit.stream).items()
        }
        ids = of_streams.union(split.split_id for unit in self.units for split in unit.splits)
        return {split_id: info for split_id, info in self.committed.items() if split_id in ids}

    @cached_property
    def begun(self) -> Counter[str]:
        """The shards of which some split has a data file: how many splits of each have, by URI."""
        done: Counter[str] = Counter()
        for unit in self.units:
            here = (split for split in unit.splits if split.split_id in self.committed)
            done[unit.shard.uri] += len(self._done_of(unit.stream)) if unit.stream else sum(1 for _ in here)
        return +done

    def missing(self, finished: Iterable[str]) -> int:
        """The splits that are missing once those with the ids ``finished`` are done; of streams a lower bound."""
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
        """The splits of each stream that have a data file: by prefix and number, whether it is the last split."""
        found: dict[str, dict[int, bool]] = {unit.stream.prefix: {} for unit in self.units if unit.stream}
        for split_id in self.committed if found else ():
            prefix, number, last = stream_of(split_id)
            if prefix in found:
                found[prefix][number] = last
        return found

    def _done_of(self, stream: Stream) -> dict[int, bool]:
        return self._by_prefix[stream.prefix]
