"""The settings of a job, as frozen pydantic models. Every field is documented below itself: this is the reference.

Pure values with their validation: opens nothing and decides nothing; `loading` reads the file. Secrets are never values
here: they are references, `${NAME}`, to environment variables that are read when a store is opened.
"""

import os
from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from sfr_batch.config.evaluation_settings import EvaluationSettings
from sfr_batch.config.run_settings import ActorSettings as ActorSettings
from sfr_batch.config.run_settings import RunSettings as RunSettings
from sfr_batch.config.section import Section
from sfr_batch.config.setting_types import (
    CREDENTIALS_IN_HOOK,
    Character,
    Device,
    Encoding,
    EnvReference,
    FromColumns,
    Header,
    Location,
    Nulls,
    Paths,
    Text,
    has_credentials,
)
from sfr_batch.errors import ConfigError

CPU_BATCH_TOKENS = 2048
"""Default size of a batch in padded tokens on a CPU, whose caches it must fit."""
GPU_BATCH_TOKENS = ((500_000_000, 131_072), (2_000_000_000, 32_768))
"""The same on a GPU for models of fewer parameters than the first number; for larger ones, `LARGE_MODEL_TOKENS`. A
batch must take the GPU longer than it takes the CPU to launch its kernels, a few milliseconds, and a 7B model is
saturated by 4,000 to 16,000 tokens. On paper: not measured on a GPU."""
LARGE_MODEL_TOKENS = 16_384


def batch_tokens(device: str, parameters: int) -> int:
    """The default of `run.max_batch_tokens` for a model of so many parameters."""
    if device == "cpu":
        return CPU_BATCH_TOKENS
    return next((tokens for most, tokens in GPU_BATCH_TOKENS if parameters < most), LARGE_MODEL_TOKENS)


CREDENTIALS_IN_ENDPOINT = (
    "An S3 endpoint (storage.endpoint_url, AWS_ENDPOINT_URL) contains credentials before its host. They would end up "
    "in logs. Remove them, and use the AWS credential chain, or access_key_id and secret_access_key."
)


def are_packed(batches: str | None, device: str, *, deterministic: bool) -> bool | None:
    """Whether `run.batches` is packed; None for the default on a GPU, where the model and the GPU decide."""
    return on_gpus(None if batches is None else batches == "packed", device, deterministic=deterministic)


def on_gpus(wanted: bool | None, device: str, *, deterministic: bool) -> bool | None:
    """A setting whose default is true on GPUs where the model and the GPU allow it: None there. Rows that are computed
    alone keep the bits that they had before there were such settings."""
    if wanted is None:
        return False if device == "cpu" or deterministic else None
    return wanted


class StorageSettings(Section):
    """How to reach a store. Leave it empty for local paths, and for S3 with the standard AWS credential chain."""

    endpoint_url: Text | None = None
    """S3 endpoint, e.g. http://127.0.0.1:8333. Default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then AWS itself."""
    region: Text | None = None
    """S3 region. Default: the AWS chain (AWS_REGION, the profile)."""
    profile: Text | None = None
    """Profile in the AWS config files. Default: AWS_PROFILE."""
    anonymous: bool = False
    """Whether to send unsigned requests, for public buckets."""
    requester_pays: bool = False
    """Whether to accept that S3 bills the requests and the transfer to your account: buckets with Requester Pays refuse
    anybody who does not."""
    access_key_id: EnvReference | None = None
    """`${NAME}`, the environment variable that holds the access key id. Prefer the AWS chain."""
    secret_access_key: EnvReference | None = None
    """`${NAME}`, the environment variable that holds the secret key. Prefer the AWS chain."""
    multipart: bool = True
    """Whether S3 objects of 100 MiB and more are uploaded in parts. `false`, for stores that let two writers complete
    the same name: up to 5 GiB in one request."""
    attempts: int = Field(default=16, ge=1, le=1000)
    """Maximum tries of one request, with growing pauses, if S3 throttles, closes the connection or does not answer."""
    give_up_after_s: float = Field(default=120.0, gt=0)
    """Seconds after the first try of a request after which it is not tried again, even if `attempts` allows it."""

    @model_validator(mode="after")
    def _both_keys_or_none(self) -> "StorageSettings":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together: give both or neither")
        return self


class CorpusSettings(Section):
    """The documents to embed."""

    path: Paths
    """A file, a folder or prefix, a pattern, or a list of these; local paths and s3:// URIs. In a pattern `*`, `?` and
    `[abc]` stand for characters of a name and `**` for any number of folders; a name that exists is no pattern."""
    format: Literal["auto", "parquet", "jsonl", "csv", "text", "delta", "iceberg"] = "auto"
    """`auto` uses the file names: .parquet, .pq, .parq, .jsonl, .ndjson, .jsonlines, .ldjson, .jl, .json, .csv, .tsv,
    .tab, .psv, .txt and .text (one document per line), all but Parquet also with .gz, .gzip, .zst or .zstd. `parquet`
    to `text` are for files whose names do not tell the format; files whose names tell another are not read. `delta` and
    `iceberg` read a whole table, whose folder is the path, with the extras of these names; an Iceberg table may also be
    named by its metadata file, as its catalog knows it."""
    version: int | None = Field(default=None, ge=0)
    """Version of a Delta table, or id of an Iceberg table's snapshot. Default: the newest when a run is planned."""
    id: Text | None = "id"
    """Column with the id of the document: string or integer, unique in the corpus. `null` makes ids from file and
    position: `<shard>#<row>`, for formats of lines `<shard>#<byte offset>`. Text files always get such ids."""
    text: Text = "text"
    """The column to embed, or a template over several columns: `{title} {text}`. White space around the result of a
    template is removed. A path, `meta.title`, names a column inside a struct or a JSON object; this works in all
    settings that name columns."""
    encoding: Encoding = "utf-8"
    """Encoding of JSON Lines, CSV and text files, if it is not UTF-8: `latin-1`, `windows-1252`, `shift_jis`, `gbk` or
    another that extends ASCII. Rows with bytes that it does not have are rejected. UTF-16 has to be converted."""
    delimiter: Character | None = None
    r"""Field separator of a CSV, such as ';' or '\x01'. Default: a tab in .tsv and .tab files, a bar in .psv files, a
    comma in others. A
    first line `sep=;` in a file goes before it."""
    quote: Character | None = '"'
    """Quote character of a CSV. `null`: quotes are ordinary text, as in many .tsv files."""
    escape: Character | None = None
    r"""Escape character of a CSV: '\' for what Spark, MySQL, PostgreSQL, Redshift or Hive have written. In quotes it
    takes away the meaning of a quote, a delimiter, a line break or itself, and is text before anything else. Outside
    of quotes see `escape_unquoted`. Default: none, a quote within quotes is doubled."""
    escape_unquoted: bool = False
    r"""Whether `escape` also holds outside of quotes, as pandas and Arrow write it; Spark does not. With `quote: null`
    it always does. There \n, \t, \r, \b, \f, \v, \0 and \Z are control characters, as in dumps of databases, and the
    escape before any other character is left out."""
    trim: bool = False
    """Whether blanks on both sides of the delimiters of a CSV are left out, unless they are in quotes."""
    header: Header = True
    """Whether the first record of a CSV names its columns. A list names them instead: [id, text]; then a record that
    repeats the names is rejected. `false`: there are no names, and the columns are "0", "1" and so on."""
    comment: Location | None = None
    """What begins a line of a CSV that is a comment, such as '#'. Default: there are no comments."""
    nulls: Nulls | None = None
    r"""Fields of a CSV that stand for a missing value, in quotes or not, such as ['\N', 'NULL', '']. Default: none, but
    a file that has \N in a column in use is refused, and later rows that have it are rejected; [] makes \N a text."""
    carry: FromColumns = []
    """Columns to copy into the table, beside the vectors: a list, or a mapping from the name in the table to the column
    of the corpus, `{lang: meta.lang}`. In a list, a path is the name as well; many engines take no dots in names. A
    folder `lang=de` in the path of a file is a column of it, too. The columns may change from run to run: the vectors
    stay. For another type see `table.retype`."""
    ctime: bool = True
    """Whether a local file is read and compared again if its size and mtime are those of the table and its ctime is
    not: rsync -t, cp -p and tar put the mtime back. `false` where the files are copied or unpacked for each run."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of the corpus."""

    @model_validator(mode="after")
    def _one_table(self) -> "CorpusSettings":
        if self.version is not None and not self.is_table:
            raise ValueError(f"version has no effect with format {self.format}: set format to delta or iceberg")
        if self.is_table and not isinstance(self.path, str):
            raise ValueError(f"format {self.format} reads one table: set path to its folder, not to a list")
        return self

    @property
    def paths(self) -> list[str]:
        """``path`` as a list."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def is_table(self) -> bool:
        """Whether the corpus is a table of another engine, read through that table's log."""
        return self.format in ("delta", "iceberg")

    @model_validator(mode="after")
    def _escape_is_another_character(self) -> "CorpusSettings":
        if self.escape_unquoted and self.escape is None:
            raise ValueError("escape_unquoted has no effect without escape: set escape, or remove escape_unquoted")
        if self.delimiter is not None and self.delimiter in (self.quote, self.escape):
            raise ValueError("delimiter must be another character than quote and escape")
        if isinstance(self.header, list) and len(set(self.header)) < len(self.header):
            raise ValueError("header names a column twice")
        return self

    @property
    def carried(self) -> dict[str, str]:
        """Name of each carried column in the table -> its path in the corpus."""
        return self.carry if isinstance(self.carry, dict) else dict(zip(self.carry, self.carry, strict=True))


class ModelSettings(Section):
    """The model that computes the vectors. Settings that are left out are read from the model repository."""

    path: Location
    """A local folder, an s3:// prefix, a model hub name such as Salesforce/SFR-Embedding-Mistral, or
    `package:name/folder` for a model inside an installed Python package."""
    revision: Text | None = None
    """Commit of a hub model. Pin it: a branch may move."""
    prompts: dict[str, Text] = {}
    """Text to put before a `query` and before a `document`. Default: the prompts of the repository, else none."""
    pooling: Literal["last_token", "mean", "cls", "max", "mean_sqrt_len", "weighted_mean"] | None = None
    """How the vector of a text is made from those of its tokens. Default: the repository's 1_Pooling; a contradiction
    is an error."""
    dimensions: int | None = Field(default=None, ge=1)
    """Number of first values to which a vector is cut before it is normalized, for models that were trained for it
    (Matryoshka). Default: `truncate_dim` of the repository, else all values. An error where the repository does not
    say that the model was trained for it, unless `matryoshka` is true."""
    matryoshka: bool = False
    """Whether the model was trained for shorter vectors although its repository does not say so, for `dimensions`."""
    max_length: int | None = Field(default=None, ge=4)
    """Maximum tokens of a text, including prompt and special tokens. Default: the limit of the repository."""
    overflow: Literal["truncate", "chunk", "reject"] = "truncate"
    """What to do with a longer document: `truncate` embeds its beginning, `chunk` cuts it into several rows with a
    vector each, `reject` puts it among the rejects."""
    chunk_tokens: int | None = Field(default=None, ge=8)
    """Maximum tokens of a chunk, including prompt and special tokens. Default and upper limit: max_length."""
    chunk_overlap: int = Field(default=0, ge=0)
    """Maximum tokens that a chunk shares with the one before it; fewer if that lets it begin at a word. Must be less
    than the room that the prompt leaves in a chunk. Every shared token is computed twice."""
    special_tokens_in_text: Literal["parse", "plain"] = "parse"
    """What a literal `</s>` in a document becomes: `parse` makes it the special token, as the reference code does,
    `plain` keeps it as ordinary text."""
    deterministic: bool = False
    """Whether to compute each text alone. Its vector is then the same, bit for bit, whatever texts are beside it, on
    the same hardware and libraries. Several times slower for short texts. Otherwise the vectors differ by rounding."""
    dtype: Literal["bfloat16", "float16", "float32", "fp8"] | None = None
    """Dtype of weights and computation. Default: bfloat16 for device cuda, float32 for cpu. `fp8` is bfloat16 with
    8-bit matrix products, at which GPUs from Ada and Hopper on are twice as fast."""
    device: Device = "cuda"
    """Where the model runs."""
    cache_dir: Text | None = None
    """Folder for fetched models on each node; its disk needs room for the weights. Default: the cache of the hub for
    hub models, ~/.cache/sfr-batch/models for s3://. Old versions of a model stay there until you remove them."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of a model on s3://."""

    @model_validator(mode="after")
    def _chunks_are_asked_for(self) -> "ModelSettings":
        if self.overflow != "chunk" and (self.chunk_tokens is not None or self.chunk_overlap):
            raise ValueError(
                f"chunk_tokens and chunk_overlap have no effect with overflow {self.overflow}: set overflow to chunk, "
                "or remove them"
            )
        return self

    @model_validator(mode="after")
    def _matryoshka_has_dimensions(self) -> "ModelSettings":
        if self.matryoshka and self.dimensions is None:
            raise ValueError("matryoshka has no effect without dimensions: set dimensions, or remove matryoshka")
        return self

    @property
    def compute_dtype(self) -> str:
        """`dtype`, or the default of the device."""
        return self.dtype or ("bfloat16" if self.device == "cuda" else "float32")


class TableSettings(Section):
    """The table to write."""

    path: Location
    """Folder or s3:// prefix of the table. The first run creates it."""
    vector_dtype: Literal["float32", "float16"] = "float32"
    """Dtype of the stored vectors."""
    generation: Text = ""
    """Label for embedding again: every document whose vector was not made under this label is embedded. Repeated with
    the same label, a run continues. Empty: vectors of all labels are reused. Meant for backfills, on the command line;
    a nightly run needs no label."""
    reuse_from: Location | None = None
    """Another table of the same model and settings, whose vectors are copied for texts that it has, whatever their ids.
    For a new table with other columns, ids or rules: it costs no tokens. Nothing refers to the other table later. A
    run with a label in `generation` does not copy. The storage settings are those of this table."""
    duplicate_ids: Literal["first", "last", "error", "reject"] = "first"
    """What to do if rows share an id: `first` keeps the first of them in the order of the corpus (by URI of the shard,
    then by position) and rejects the others; `last` keeps the last one, or the one with the largest `order_by`, and
    embeds no other; `error` refuses to publish. `reject` is an older name of `first`."""
    order_by: Text | None = None
    """A carried column, by its name in the table, for `duplicate_ids: last`: of rows that share an id, the one with the
    largest value is kept. Of equal values, the last one in the order of the corpus; null and NaN are the smallest."""
    retype: list[Text] = []
    """Carried columns, by their names in the table, that take the type that the corpus has today. All shards are looked
    at. If the new type holds every value of the old one, as int64 does of int32, nothing is copied; else all rows take
    their values from the corpus, and their vectors are copied. Meant for one run, on the command line: a type that
    changes without it is an error of the corpus."""
    delete: Literal["mirror", "keep", "refuse-above-share"] = "refuse-above-share"
    """What to do with documents that are no longer in the corpus: `mirror` drops them, `keep` keeps them,
    `refuse-above-share` drops them, but stops the run if they are more than `max_delete_share` of the table. A document
    that is in the corpus and has become a reject always loses its old vector."""
    max_delete_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the table's documents that one run may drop with `delete: refuse-above-share`. It may always drop 100
    documents."""
    max_changed_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the table's documents that one run may embed again, because their texts differ from those in the table.
    It may always embed 100 again. If it would be more, as after a changed `corpus.text`, a run stops before it embeds.
    A run with a label in `generation` announces that it embeds again, and is not stopped. Default: no limit."""
    shared_path: bool = False
    """Whether a local path is the same file system on all nodes. Otherwise a cluster of several nodes refuses a local
    path."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of the table."""

    @model_validator(mode="after")
    def _order_is_asked_for(self) -> "TableSettings":
        if self.order_by is not None and self.duplicate_ids != "last":
            raise ValueError(
                f"order_by has no effect with duplicate_ids {self.duplicate_ids}: set duplicate_ids to last, or remove "
                "order_by"
            )
        return self


class SelectSettings(Section):
    """The part of the corpus to embed, for backfills. Empty: all of it. A row must meet every condition. Rows outside
    are not deleted, and not read if the name of their shard is enough to exclude them."""

    shards: list[Text] = []
    """Globs for file names, or, with a slash, for the end of a path: `2026/*.parquet`."""
    partitions: dict[str, Text] = {}
    """Folders `key=value` in the path of a shard, as written or without their %-escapes: a value, a glob, or a range
    `2026-11-01..2026-11-24` that includes both ends. Either end may be omitted. Values are compared as text."""
    ids: list[str | int] = []
    """Ids of the documents to embed."""
    where: Text | None = None
    """Filter on the id and the carried columns, such as `lang = 'en' and year >= 2024`."""
    rejects: bool = False
    """Whether to try rejected documents again: those rejected after they had been read (too_long, encoder_failed,
    bad_vector), once under each `table.generation`."""
    limit: int | None = Field(default=None, ge=1)
    """Trial: embed this many rows, rounded up to whole splits, and publish nothing."""

    @property
    def by_rows(self) -> bool:
        """Whether the selection can divide the rows of a shard."""
        return bool(self.ids or self.where or self.rejects)

    @property
    def everything(self) -> bool:
        """Whether the selection is the whole corpus."""
        return not (self.shards or self.partitions or self.by_rows)


class Config(Section):
    """The settings of a job."""

    corpus: CorpusSettings
    model: ModelSettings
    table: TableSettings
    select: SelectSettings = SelectSettings()
    run: RunSettings = RunSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _rejects_have_a_label(self) -> "Config":
        if self.select.rejects and not self.table.generation:
            raise ValueError(
                "select.rejects needs table.generation, so that a repeated command does not try them again. "
                "Set it, e.g. to today's date"
            )
        return self

    @model_validator(mode="after")
    def _no_credentials_in_endpoints(self) -> "Config":
        # Not on the field itself: an error there would repeat the endpoint.
        if any("@" in (section.storage.endpoint_url or "") for section in (self.corpus, self.model, self.table)):
            raise ValueError(CREDENTIALS_IN_ENDPOINT)
        if has_credentials(self.run.on_end or ""):
            raise ValueError(CREDENTIALS_IN_HOOK)
        return self

    @model_validator(mode="after")
    def _device_fits_actors(self) -> "Config":
        if self.model.device == "cuda" and self.run.actors.gpus == 0:
            raise ValueError("model.device is cuda but run.actors.gpus is 0: set run.actors.gpus=1 or model.device=cpu")
        if self.model.device == "cpu" and self.run.actors.gpus > 0:
            raise ValueError(
                f"model.device is cpu but run.actors.gpus is {self.run.actors.gpus:g}: set run.actors.gpus=0"
            )
        return self

    @property
    def max_batch_tokens(self) -> int | None:
        """`run.max_batch_tokens`, or the default on a CPU; None: the default on a GPU, by the model's size."""
        return self.run.max_batch_tokens or (CPU_BATCH_TOKENS if self.model.device == "cpu" else None)

    @property
    def packed(self) -> bool | None:
        """Whether `run.batches` is packed; None: the default on a GPU, where the model and the GPU decide."""
        return are_packed(self.run.batches, self.model.device, deterministic=self.model.deterministic)

    @property
    def fused(self) -> bool | None:
        """`run.fuse`; None: the default on a GPU, where the model decides."""
        return on_gpus(self.run.fuse, self.model.device, deterministic=self.model.deterministic)

    def to_json(self) -> str:
        """The resolved config as JSON; references to secrets stay references."""
        return self.model_dump_json(indent=2)


def secret(reference: str | None) -> str | None:
    """The value of a ``${NAME}`` reference, read from the environment now.

    Raises ConfigError that names the variable, never its value.
    """
    if reference is None:
        return None
    name = reference[2:-1]
    value = os.environ.get(name)
    if not value:
        raise ConfigError(
            f"The environment variable {name} is not set, but the config refers to it as {reference}. Export it, on a "
            "cluster on every node."
        )
    return value
