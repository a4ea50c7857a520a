"""The config: one YAML file, strict, every field documented under itself, as frozen pydantic models.

Loads, overrides (`section.field=value`) and explains what is wrong; opens nothing but the config file and decides
nothing. Secrets are never values here: they are references, `${NAME}`, to environment variables that are read where
a store is opened.
"""

import os
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from sfr_batch.errors import ConfigError

BATCH_TOKENS = {"cuda": 16384, "cpu": 2048}
"""Padded tokens of a batch that suit a device: a GPU must have enough to do, a CPU's caches must hold it."""
CREDENTIALS_IN_ENDPOINT = (
    "An S3 endpoint (storage.endpoint_url, AWS_ENDPOINT_URL) has credentials before its host, which would end up in "
    "logs; remove them: they come from the AWS chain, or from access_key_id and secret_access_key."
)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _must_be_reference(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        raise ValueError("a secret never stands in a config: write ${NAME} and set the environment variable NAME")
    return value


def _must_not_be_reference(value: str) -> str:
    if _REFERENCE.search(value):
        raise ValueError("${NAME} is for secrets only; vary this setting by an override, section.field=value")
    return value


def _must_be_one_character(value: str) -> str:
    if len(value) != 1:
        raise ValueError("must be one character, such as ';'")
    return value


EnvReference = Annotated[str, AfterValidator(_must_be_reference)]
Text = Annotated[str, AfterValidator(_must_not_be_reference)]
Location = Annotated[Text, Field(min_length=1)]
Character = Annotated[str, AfterValidator(_must_be_one_character)]
# Tagged, so that an error is about the one that was meant and not about both; the tags never show.
TAGS = ("<one>", "<several>")
Paths = Annotated[
    Annotated[Location, Tag(TAGS[0])] | Annotated[list[Location], Field(min_length=1), Tag(TAGS[1])],
    Discriminator(lambda value: TAGS[isinstance(value, list)]),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class StorageSettings(Section):
    """How to reach a store. Empty is right for local paths and for S3 with the standard AWS credential chain."""

    endpoint_url: Text | None = None
    """S3 endpoint, e.g. http://127.0.0.1:8333; default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, then AWS itself."""
    region: Text | None = None
    """S3 region; default: the AWS chain (AWS_REGION, the profile)."""
    profile: Text | None = None
    """Profile in the AWS config files; default: AWS_PROFILE."""
    anonymous: bool = False
    """Send unsigned requests: for public buckets."""
    access_key_id: EnvReference | None = None
    """`${NAME}`: the environment variable with the access key id. Rather leave this to the AWS chain."""
    secret_access_key: EnvReference | None = None
    """`${NAME}`: the environment variable with the secret key. Rather leave this to the AWS chain."""
    attempts: int = Field(default=16, ge=1, le=1000)
    """Tries of one request at most, with growing pauses, while S3 throttles, breaks off or is silent."""
    give_up_after_s: float = Field(default=120.0, gt=0)
    """Seconds after the first try of a request after which it is not tried again, whatever `attempts` says."""

    @model_validator(mode="after")
    def _both_keys_or_none(self) -> "StorageSettings":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together: give both or neither")
        return self


class CorpusSettings(Section):
    """What to embed."""

    path: Paths
    """A file, a folder or prefix, a glob, or a list of these; local paths and s3:// URIs."""
    format: Literal["auto", "parquet", "jsonl", "csv", "text"] = "auto"
    """`auto` goes by the file names: .parquet, .pq, .jsonl, .ndjson, .jsonlines, .csv, .tsv, .tab, .txt (one document
    a line), all but Parquet also with .gz, .gzip, .zst or .zstd. Any other value is meant for files whose names say
    nothing."""
    id: Text | None = "id"
    """Column with the document's id, string or integer, unique in the corpus. `null` numbers the rows of each shard:
    `<shard>#<row>`, for lines `<shard>#<byte offset>`. Text files are numbered in any case."""
    text: Text = "text"
    """The column to embed, or a template over several: `{title} {text}`. A template's result is stripped. A column
    inside a struct or a JSON object is named by its path, `meta.title`, here as everywhere."""
    delimiter: Character | None = None
    """What divides the fields of a CSV. Default: a tab in .tsv and .tab files, a comma in others."""
    quote: Character | None = '"'
    """What a field of a CSV is quoted by. `null`: by nothing, quotes are text, as in many .tsv files."""
    carry: list[Text] = []
    """Columns to copy into the table next to the vectors."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of the corpus."""


class ModelSettings(Section):
    """Which model makes the vectors, and how. What is left out is read from the model repository."""

    path: Location
    """A local folder, an s3:// prefix, a model hub name such as Salesforce/SFR-Embedding-Mistral, or
    `package:name/folder` for a model that an installed Python package carries."""
    revision: Text | None = None
    """Commit of a hub model; pin it, a branch may move."""
    prompts: dict[str, Text] = {}
    """Text put before a `query` and before a `document`. Default: the repository's prompts, else nothing."""
    pooling: Literal["last_token", "mean", "cls"] | None = None
    """Default: from the repository's 1_Pooling; a contradiction is an error."""
    max_length: int | None = Field(default=None, ge=4)
    """Tokens of a row at most, prompt and special tokens included. Default: the repository's."""
    overflow: Literal["truncate", "chunk", "reject"] = "truncate"
    """A document that is too long: `truncate` embeds its beginning, `chunk` cuts it into several rows with a vector
    each, `reject` puts it among the rejects."""
    chunk_tokens: int | None = Field(default=None, ge=8)
    """Tokens of a chunk at most, prompt and special tokens included. Default, and at most: max_length."""
    chunk_overlap: int = Field(default=0, ge=0)
    """Tokens that a chunk shares with the one before it, at most: it begins at a word. Must be less than a chunk has
    room for beside the prompt; every shared token is computed twice."""
    special_tokens_in_text: Literal["parse", "plain"] = "parse"
    """A literal `</s>` in a document: `parse` makes it the special token as the reference code does, `plain` keeps it
    ordinary text."""
    deterministic: bool = False
    """Compute each text by itself: its vector is then the same, bit for bit, whatever texts stand beside it, on the
    same hardware and libraries. Several times slower on short texts. Otherwise a text's vectors differ by rounding."""
    dtype: Literal["bfloat16", "float16", "float32", "fp8"] | None = None
    """Dtype of weights and compute. Default: bfloat16 for device cuda, float32 for cpu. `fp8` keeps bfloat16 but for
    matrix products, which take 8-bit numbers; GPUs from Ada and Hopper on are twice as fast at these."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where the model runs."""
    cache_dir: Text | None = None
    """Where fetched models are kept on each node: a disk with room for the weights. Default: the hub's own cache for
    hub models, ~/.cache/sfr-batch/models for s3://. Old versions of a model stay there until they are removed."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of a model on s3://."""

    @model_validator(mode="after")
    def _chunks_are_asked_for(self) -> "ModelSettings":
        if self.overflow != "chunk" and (self.chunk_tokens is not None or self.chunk_overlap):
            raise ValueError(
                f"chunk_tokens and chunk_overlap mean nothing with overflow {self.overflow}: set overflow to chunk, or "
                "remove them"
            )
        return self

    @property
    def compute_dtype(self) -> str:
        """`dtype`, or what suits the device."""
        return self.dtype or ("bfloat16" if self.device == "cuda" else "float32")


class TableSettings(Section):
    """Where the vectors go."""

    path: Location
    """Folder or s3:// prefix of the table; created on the first run."""
    vector_dtype: Literal["float32", "float16"] = "float32"
    """Dtype of the stored vectors."""
    generation: Text = ""
    """A label under which documents are embedded again: all that were not embedded under this label. The same label
    continues where it stopped. Empty: no matter under which label a vector was made. For backfills, on the command
    line; a nightly run needs none."""
    duplicate_ids: Literal["reject", "error"] = "reject"
    """`reject` keeps the first row of an id and rejects the others; `error` refuses to publish."""
    delete: Literal["mirror", "keep", "refuse-above-share"] = "refuse-above-share"
    """Documents of the table that are not in the corpus any more: `mirror` drops them, `keep` keeps them,
    `refuse-above-share` drops them unless they are more than `max_delete_share` of the table; then the run stops."""
    max_delete_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the table's documents that one run may drop under `delete: refuse-above-share`; 100 it always may."""
    shared_path: bool = False
    """Say true if a local path is the same file system on all nodes of the cluster; otherwise that is refused."""
    storage: StorageSettings = StorageSettings()
    """Credentials and endpoint of the table."""


class SelectSettings(Section):
    """The part of the corpus that a backfill is about; empty is all of it. A row must meet each condition. What is
    outside is not deleted, nor read where the name of its shard tells."""

    shards: list[Text] = []
    """Globs: of file names, or with a slash of the end of a shard's path, such as `2026/*.parquet`."""
    partitions: dict[str, Text] = {}
    """Folders `key=value` on the way to a shard: a value, a glob, or a range `2026-11-01..2026-11-24`, both ends
    included and either left out at will; compared as text."""
    ids: list[str | int] = []
    """Ids of documents."""
    where: Text | None = None
    """A filter on the id and the carried columns, such as `lang = 'en' and year >= 2024`."""
    rejects: bool = False
    """Documents that were rejected after they had been read (too_long, encoder_failed, bad_vector), to try them again
    once under each `table.generation`."""
    limit: int | None = Field(default=None, ge=1)
    """A trial: embed so many rows, rounded up to whole splits, and publish nothing."""

    @property
    def by_rows(self) -> bool:
        """Whether some rows of a shard may be meant and others not."""
        return bool(self.ids or self.where or self.rejects)

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.shards or self.partitions or self.by_rows)


class ActorSettings(Section):
    """The pool of actors that each hold the model."""

    min: int = Field(default=1, ge=1)
    """Actors to start with and to keep."""
    max: int | None = Field(default=None, ge=1)
    """Actors at most. Default: on GPUs as many as the cluster gets while the run lasts, though not more than splits; an
    autoscaler is asked for more, so its own limit is what bounds the cost. On CPUs `min`."""
    gpus: float = Field(default=1, ge=0, le=8)
    """GPUs of an actor; 0 on CPUs."""
    cpus: float = Field(default=1, gt=0)
    """CPUs that an actor reserves. Leave some for reading and writing."""
    torch_threads: int | None = Field(default=None, ge=1)
    """Threads of PyTorch in an actor. Default: all cores of the machine for device cpu, 1 for cuda."""

    @model_validator(mode="after")
    def _ordered(self) -> "ActorSettings":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) must be at least min ({self.min})")
        return self


class RunSettings(Section):
    """How the work is cut and spread. Nothing here changes a vector."""

    rows_per_split: int = Field(default=8192, ge=1)
    """Rows of a split: the unit of encoding, of retry and of commit. A split should be seconds of device time."""
    bytes_per_split: int = Field(default=32 * 2**20, ge=1024)
    """Bytes of text that a split holds at most."""
    vector_bytes_per_split: int = Field(default=256 * 2**20, ge=4096)
    """Bytes of vectors that a split holds at most. With `model.overflow: chunk` an estimate from its bytes of text; a
    single document is never divided, however many chunks it has."""
    min_splits: int = Field(default=64, ge=1)
    """Small corpora are cut finer, by powers of two, until there are so many splits or they have 256 rows."""
    max_batch_tokens: int | None = Field(default=None, ge=16)
    """Tokens of a batch on the device at most, padding included. Default: 16384 for device cuda, 2048 for cpu. Padding
    grows with it."""
    batches: Literal["padded", "packed"] = "padded"
    """How rows of different lengths share a batch: `padded` fills the shorter ones up, `packed` puts them one after the
    other. For Mistral, Llama, Qwen and BERT families; `sfr-batch verify` measures which is faster."""
    fuse: bool = False
    """Compile the small operations of Mistral, Llama and Qwen layers into fewer GPU kernels. Each actor takes a minute
    longer to start. Measure first: `python -m jobs.benchmark encoder --fuse`."""
    actors: ActorSettings = ActorSettings()
    """The pool of encode actors."""
    ray_address: Text | None = None
    """Cluster to join; `local` starts a Ray of its own, `none` runs in this process without Ray. Default: RAY_ADDRESS,
    else a Ray that runs on this machine, else `none` if one actor is enough for this machine, else `local`."""
    max_failed_splits: int = Field(default=3, ge=0)
    """Stop early after so many failed splits; the run fails in any case as soon as one fails for good."""
    max_reject_share: float = Field(default=0.1, ge=0, le=1)
    """Rejects above this share of all rows stop the run before anything is published; so does a run whose own rows
    exceed it, if these are more than 100 rejects."""
    lease_s: float = Field(default=60.0, ge=1, le=3600)
    """Seconds without a sign of life after which a run on another machine counts as dead and another may take over its
    table. One whose process is dead on the same machine is replaced at once. Less politeness, not less safety, when
    short: two runs never spoil a table."""
    progress_every_s: float = Field(default=5.0, gt=0)
    """Seconds between progress lines in a log."""


class Config(Section):
    """A whole job."""

    corpus: CorpusSettings
    model: ModelSettings
    table: TableSettings
    select: SelectSettings = SelectSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _rejects_have_a_label(self) -> "Config":
        if self.select.rejects and not self.table.generation:
            raise ValueError(
                "select.rejects needs a label, so that repeating the command does not try them again and again: set "
                "table.generation, e.g. to today's date"
            )
        return self

    @model_validator(mode="after")
    def _no_credentials_in_endpoints(self) -> "Config":
        # Not in the field itself: a config with such an endpoint must not be repeated in what is said about it.
        if any("@" in (section.storage.endpoint_url or "") for section in (self.corpus, self.model, self.table)):
            raise ValueError(CREDENTIALS_IN_ENDPOINT)
        return self

    @model_validator(mode="after")
    def _device_fits_actors(self) -> "Config":
        if self.model.device == "cuda" and self.run.actors.gpus == 0:
            raise ValueError("model.device is cuda but run.actors.gpus is 0: set one GPU an actor, or device cpu")
        if self.model.device == "cpu" and self.run.actors.gpus > 0:
            raise ValueError(f"model.device is cpu but run.actors.gpus is {self.run.actors.gpus:g}: set it to 0")
        return self

    @property
    def max_batch_tokens(self) -> int:
        """`run.max_batch_tokens`, or what suits the device."""
        return self.run.max_batch_tokens or BATCH_TOKENS[self.model.device]

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
