"""Prompts: the text put in front of a query or a document before it is tokenized.

Pure strings; knows nothing of tokenizers, models or configs.
"""

from collections.abc import Mapping

from sfr_batch.errors import ConfigError

QUERY = "query"
DOCUMENT = "document"


def instruct(task: str) -> str:
    """The query prompt of SFR-Embedding-Mistral and the E5 family for a one-sentence ``task``.

    Source: `get_detailed_instruct` on the model card. Exactly one space after each colon, a newline between the two
    lines; documents get no prompt at all.
    """
    return f"Instruct: {task}\nQuery: "


def resolve(prompts: Mapping[str, str], name: str | None) -> str:
    """The prompt called ``name``; no name, or a known side (query, document) without a prompt, gives ``""``.

    Raises ConfigError for a name that is neither: a misspelled prompt must not silently embed bare texts.
    """
    if name is None:
        return ""
    if name in prompts:
        return prompts[name]
    if name in (QUERY, DOCUMENT):
        return ""
    known = ", ".join(sorted({*prompts, QUERY, DOCUMENT}))
    raise ConfigError(f"There is no prompt {name!r}. Known prompts: {known}. Add it under model.prompts.")
