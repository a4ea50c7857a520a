"""The metadata of the table that a config makes: schema and fingerprint inputs."""

from typing import Any

from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.records import TableCard
from sfr_batch.model import identity
from sfr_batch.model.prompts import DOCUMENT, QUERY, resolve
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import weight_hashes
from sfr_batch.model.tokenization.tokenizer import Tokenizer


def make_card(config: Config, columns: Columns) -> TableCard:
    """The metadata of the table that the config makes. Reads the model's small files and the hashes of its weights.

    Raises ConfigError, ModelError.
    """
    inputs = model_inputs(config.model, config.table.vector_dtype)
    chunks = config.model.overflow == "chunk"
    schema = names.table_schema(columns.id_type, inputs["dim"], config.table.vector_dtype, columns.types, chunks=chunks)
    return TableCard.make(schema, digest(inputs), inputs, config.model.model_dump(mode="json"))


def with_inputs_of(table: TableCard, today: TableCard) -> TableCard:
    """``today`` with what the ``table`` keeps: its row hashes and its fingerprint, which may be over fewer inputs."""
    return table.keep_in(today)


def model_inputs(settings: ModelSettings, vector_dtype: str) -> dict[str, Any]:
    """The inputs of the fingerprint, read from the model as it is now. Raises ConfigError, ModelError."""
    folder = locate(settings, weights=False)
    recipe = read_recipe(folder, settings)
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
    for side in (DOCUMENT, QUERY):
        try:
            tokenizer.encode([], resolve(recipe.prompts, side))
        except ConfigError as error:
            raise ConfigError(f"model.prompts.{side}: {error}") from None
    if settings.overflow == "chunk":
        tokenizer.chunk([], resolve(recipe.prompts, DOCUMENT), settings.chunk_tokens, settings.chunk_overlap)
    hashes = weight_hashes(settings, folder)
    return identity.fingerprint_inputs(settings, recipe, tokenizer, hashes, vector_dtype)
