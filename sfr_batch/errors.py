"""Every exception that sfr-batch raises on purpose, one class for each thing a caller can do about it.

    SfrBatchError                 catch this one to catch them all
    ├── ConfigError               a setting is wrong: correct the config and run again
    ├── CorpusError               the corpus is not what the config says: correct one of them
    ├── ModelError                the model folder is incomplete, or contradicts the config
    │   └── TokenizerError        the tokenizer does not produce what the model was trained on
    ├── TextError                 what was given to an encoder is no text: correct the row that the message names
    ├── DeviceError               the GPU failed: no row is to blame; run again, elsewhere if it happens again
    ├── StorageError              the store refused or failed: check credentials, endpoint, space
    │   └── ObjectNotFound        the object or file does not exist
    ├── TableError                the table on storage is damaged or incomplete
    │   ├── TableNotFound         there is no table at that path (yet)
    │   ├── TableDamaged          files of a snapshot are lost: `sfr-batch repair` brings their rows back
    │   ├── TableMismatch         the table was made with other settings: the message says what to do
    │   ├── TableInUse            another run is writing the table: wait for it, or stop it
    │   ├── PointerMoved          a pointer points elsewhere than expected: look where, then decide again
    │   ├── CountsDoNotClose      rows would be lost or doubled: nothing was published
    │   └── SnapshotConflict      another writer published first: plan again on the newer snapshot
    ├── TooManyRejects            more rows than the config allows cannot be embedded: nothing was published
    ├── TooManyDeletes            more documents left the corpus than the config allows: nothing was embedded
    ├── TooManyChanges            more documents would be embedded again than the config allows: nothing was embedded
    ├── TooExpensive              the run would take longer or cost more than the config allows: nothing was embedded
    ├── ClusterError              the Ray cluster that jobs were submitted to fails: try again, or look at its head
    ├── JobFailed                 a submitted job did not succeed: its own last words are in the message
    └── RunFailed                 some splits failed; what succeeded is committed, running again continues

Messages name the file, row or setting, and what to do; `counted` spells their numbers. Imports nothing of the package.
In IPython and Jupyter they show without a traceback: what is to be done stands in the message.
"""

import os


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and its noun: ``1 row``, ``2,000 rows``. plural: unless it is the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


_PACKAGE = os.path.dirname(__file__) + os.sep
_LINE_WIDTH = 2000
"""Characters of a line of a message in a notebook; ids in it may have millions."""
_SOURCE_WIDTH = 120


def _printable(text: str) -> str:
    """The text with escapes for what a terminal would obey, and without the middle of an endless line."""
    half = _LINE_WIDTH // 2
    lines = [x if len(x) <= _LINE_WIDTH else f"{x[:half]}…{x[-half:]}" for x in text.split("\n")]
    return "\n".join("".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line) for line in lines)


def _line_of_user(error: BaseException) -> list[str]:
    """The line that called this package, if there is its text: of a cell its number, else also the file."""
    import traceback  # for this alone, and linecache with it

    caller = None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(_PACKAGE):
            break
        caller = frame
    if not (caller and caller.line):
        return []
    file = f"{caller.filename}, " if os.path.exists(caller.filename) else ""  # a cell is in no file
    return [f"In {file}line {caller.lineno}: {_printable(caller.line[:_SOURCE_WIDTH])}"]


class SfrBatchError(Exception):
    """Base of all errors of this package."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback: the message, and the line of the user that led to it.

        Nobody else calls it, and ``%debug`` finds the traceback where it was.
        """
        shown = [f"{type(self).__name__}: {_printable(str(self))}"]
        return shown + _line_of_user(self)


class ConfigError(SfrBatchError):
    """A setting is missing, unknown or impossible."""


class CorpusError(SfrBatchError):
    """The corpus cannot be read as the config says."""


class ModelError(SfrBatchError):
    """The model cannot be used: files missing, or its recipe contradicts the settings."""


class TokenizerError(ModelError):
    """The tokenizer does not produce the special tokens that the recipe requires."""


class TextError(SfrBatchError, ValueError):
    """A row that was given to an encoder is no text, or none of which a token is left."""


class DeviceError(SfrBatchError):
    """The device failed during a computation; its process must be restarted."""


class StorageError(SfrBatchError):
    """The object store or file system refused an operation."""


class ObjectNotFound(StorageError):
    """An object or file that was asked for does not exist."""


class TableError(SfrBatchError):
    """The table on storage is damaged or incomplete."""


class TableNotFound(TableError):
    """There is no table, or no snapshot of it, at this path."""


class TableDamaged(TableError):
    """Files that a snapshot needs are missing or damaged; `sfr-batch repair` brings the rows of the newest one back."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(what, way_out)
        self.what = what
        """The message without its way out: what is lost or damaged."""

    def __str__(self) -> str:
        return f"{self.what}. {self.args[1]}"


class TableMismatch(TableError):
    """The table was created with settings that give other vectors or other columns."""


class TableInUse(TableError):
    """Another run holds the lease of the table, or has taken it over."""


class PointerMoved(TableError):
    """A pointer points elsewhere than its mover expected."""


class CountsDoNotClose(TableError):
    """Rows read are not equal to rows embedded plus rows rejected; publishing is refused."""


class SnapshotConflict(TableError):
    """Another writer published the snapshot number that this one was about to take."""


class TooManyRejects(SfrBatchError):
    """More rows were rejected than run.max_reject_share allows; nothing was published."""


class TooManyDeletes(SfrBatchError):
    """More documents left the corpus than table.max_delete_share allows; nothing was embedded or published."""


class TooManyChanges(SfrBatchError):
    """More documents would be embedded again than table.max_changed_share allows; nothing was embedded or published."""


class TooExpensive(SfrBatchError):
    """The run would go beyond run.max_hours or run.max_price; nothing was embedded or published."""


class ClusterError(SfrBatchError):
    """The job server of a Ray cluster, which has answered before, does not answer or refuses."""


class JobFailed(SfrBatchError):
    """A submitted job failed or was stopped."""

    def __init__(self, message: str, account: object = None) -> None:
        super().__init__(message)
        self.account = account
        """The `RunAccount` of its attempt; as far as the job itself tells it if the table has none."""


class RunFailed(SfrBatchError):
    """At least one split failed permanently; all others are committed."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace
        """Stack traces of errors in it that nobody foresaw, for a log; empty if there are none."""
