"""The dialect of a CSV: what divides its fields, quotes and escapes them, and which lines are no rows.

Pure values, made of the settings; knows no files.
"""

from dataclasses import dataclass

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.encodings import UTF_8
from sfr_batch.corpus.shards import Shard, delimiter_of, settings_for
from sfr_batch.corpus.text_template import TextTemplate

NULL = r"\N"
"""How MySQL, PostgreSQL and Hive write a missing value."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV is written. The fields are as the settings of the same names."""

    encoding: str = UTF_8
    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    escape_unquoted: bool = False
    trim: bool = False
    comment: str | None = None
    header: bool | tuple[str, ...] = True
    """True: the first record names the columns; False: none does; else their names, and no record is a header."""
    nulls: tuple[str, ...] | None = None
    r"""None: nothing was said, and a field that is `\N` is asked about."""

    @property
    def by_csv_module(self) -> bool:
        """Whether Python's csv module reads this dialect. It knows no escapes as Spark and databases write them."""
        return self.escape is None and not self.trim


def dialect_of(shard: Shard, settings: CorpusSettings) -> Dialect:
    """The dialect that the settings say for this shard."""
    header = settings.header
    return Dialect(
        encoding=settings.encoding,
        delimiter=delimiter_of(shard, settings),
        quote=settings.quote,
        escape=None if settings.escape == settings.quote else settings.escape,
        escape_unquoted=settings.escape_unquoted,
        trim=settings.trim,
        comment=settings.comment,
        header=header if isinstance(header, bool) else tuple(header),
        nulls=None if settings.nulls is None else tuple(settings.nulls),
    )


def used_columns(shard: Shard, settings: CorpusSettings) -> tuple[str, ...]:
    """The columns that a CSV itself has to have: of the id, the text and the carried ones, each once, in this order."""
    id_, of_path = settings_for(shard, settings).id, shard.columns_of_path(settings)
    found = [*filter(None, [id_]), *TextTemplate(settings.text).columns, *settings.carried.values()]
    return tuple(name for name in dict.fromkeys(found) if name not in of_path)
