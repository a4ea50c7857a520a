"""The section `run` of a config. Pure values with their validation, as in `settings`."""

from typing import Literal

from pydantic import Field, model_validator

from sfr_batch.config.section import Section
from sfr_batch.config.setting_types import Hook, Text


class ActorSettings(Section):
    """The pool of encode actors. Each holds the model."""

    min: int = Field(default=1, ge=1)
    """Number of actors at the start, and the minimum later."""
    max: int | None = Field(default=None, ge=1)
    """Maximum number of actors. Default on GPUs: as many as the cluster has room for, up to one per split. That asks an
    autoscaler for more nodes, so its own limit bounds the cost. Default on CPUs: `min`."""
    gpus: float = Field(default=1, ge=0, le=1)
    """Share of a GPU that each actor has: 1 for one of its own, 0.5 for two actors on each, with half of its memory. An
    actor uses one GPU, so there is no more than 1. 0 for device cpu."""
    cpus: float = Field(default=1, gt=0)
    """CPUs that each actor reserves. Leave some for reading and writing."""
    torch_threads: int | None = Field(default=None, ge=1)
    """PyTorch threads per actor while it encodes. Default: all cores of the machine for device cpu, 1 for cuda; without
    Ray, OMP_NUM_THREADS if it is set."""

    @model_validator(mode="after")
    def _ordered(self) -> "ActorSettings":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) must be at least min ({self.min})")
        return self


class RunSettings(Section):
    """How the work is divided and distributed. Nothing here changes a vector."""

    rows_per_split: int | None = Field(default=None, ge=1)
    """Maximum rows of a split, the unit of encoding, retry and commit. A split should take seconds to a minute of
    device time. Default: 8,192; 16,384 in a shard whose texts average at most 256 bytes, 32,768 at most 128 bytes."""
    bytes_per_split: int = Field(default=32 * 2**20, ge=1024)
    """Maximum bytes of text in a split."""
    vector_bytes_per_split: int = Field(default=256 * 2**20, ge=4096)
    """Maximum bytes of vectors in a split. With `model.overflow: chunk` this is estimated from the bytes of text. A
    document is never divided between splits, however many chunks it has."""
    min_splits: int = Field(default=64, ge=1)
    """Wanted number of splits: a small corpus gets smaller splits, by powers of two, down to 256 rows."""
    max_batch_tokens: int | None = Field(default=None, ge=16)
    """Maximum tokens of a batch on the device, including padding. Default: 2,048 on a CPU; on a GPU 131,072 for models
    below 0.5 billion parameters, 32,768 below 2 billion, 16,384 for larger ones."""
    batches: Literal["padded", "packed"] | None = None
    """How rows of different lengths share a batch: `padded` fills up the shorter ones, `packed` puts the rows one after
    the other. `packed` needs a model of the Mistral, Llama, Qwen or BERT family; `sfr-batch verify` measures which is
    faster. Default: `packed` on a GPU with flash attention (from Ampere on) for such a model in 16 bits or fp8, else
    `padded`; `padded` with `model.deterministic`."""
    fuse: bool | None = None
    """Whether to compile the small operations of Mistral, Llama and Qwen layers into fewer GPU kernels. The first
    actor on a node takes a minute longer to start, which only a short run notices: `false` for those. Default: `true`
    on a GPU for such a model, and layers stay as they are where they cannot be compiled; `false` with
    `model.deterministic`."""
    actors: ActorSettings = ActorSettings()
    """The pool of encode actors."""
    ray_address: Text | None = None
    """Address of the cluster to join, HOST:PORT as `ray start` prints it; this machine must be one of its nodes. From
    elsewhere `sfr-batch submit` has the cluster run it. `auto` looks for a Ray that runs on this machine, `local`
    starts one for this run, `none` runs in this process without Ray. Default: RAY_ADDRESS, else a Ray that runs on this
    machine, else `none` if one actor is enough for this machine, else `local`."""
    max_failed_splits: int = Field(default=3, ge=0)
    """Number of failed splits that a run tolerates before it stops early. A run with any failed split fails at the end
    and publishes nothing."""
    max_reject_share: float = Field(default=0.1, ge=0, le=1)
    """Maximum share of rejected rows. A run publishes nothing if the rejects exceed this share of all rows of the
    table, or of the rows of this run and are more than 100."""
    lease_s: float = Field(default=60.0, ge=1, le=3600)
    """Seconds without a heartbeat after which a run on another machine counts as dead, and a new run may take over the
    table. On the same machine a dead run is replaced at once. A short time is safe, it only risks duplicate work:
    concurrent runs never corrupt a table."""
    progress_every_s: float = Field(default=5.0, gt=0)
    """Seconds between progress lines in a log."""
    on_end: Hook | None = None
    """Whom to tell that a run has ended, however it did: a command, which the shell runs, or an http:// or https://
    URL, which gets a POST. It gets the account of the run as JSON, on stdin or as the body, once. It changes neither
    the result nor the exit code; if it fails, that is a warning. Of a URL, secret parts are references, such as
    `${ALERTS_URL}`, to environment variables of the driver; in a command, the shell reads them."""
    on_end_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that `on_end` may take, for which a run that has ended waits. A run that is stopped by a signal leaves
    within two seconds; the hook goes on without it."""
    gpu: Text | None = None
    """Type of GPU of each actor, such as `H100`, for the hours and the price of a plan, as long as nothing has been
    measured. An unknown name is an error that shows the known ones."""
    price_per_hour: float | None = Field(default=None, gt=0)
    """Price of one actor for an hour, in the currency of your bill: of its GPUs with their share of the node. With it
    `sfr-batch plan` states money, and a run says what it came to, beside what was planned."""
    max_hours: float | None = Field(default=None, gt=0)
    """Hours that a run may be expected to take, with the actors at the start (`actors.min`). One that would take longer
    stops before it embeds. It estimates as `sfr-batch plan` does, from the rows that need the model. Default: no
    limit."""
    max_price: float | None = Field(default=None, gt=0)
    """Price that a run may be expected to have, in the currency of `price_per_hour`, which it needs. One that would
    cost more stops before it embeds, as with `max_hours`. Default: no limit."""

    @model_validator(mode="after")
    def _max_price_has_a_price(self) -> "RunSettings":
        if self.max_price is not None and self.price_per_hour is None:
            raise ValueError("max_price has no effect without price_per_hour: set price_per_hour, or remove max_price")
        return self
