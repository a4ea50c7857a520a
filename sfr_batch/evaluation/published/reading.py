"""Published scores, from the places where they stand: a model card (`model_card`) or result files of mteb
(`mteb_results`), on disk or on S3. Both give the same values.

Knows no score of ours: `comparison` lays them side by side.
"""

from collections.abc import Mapping, Sequence

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.model_card import parse_card
from sfr_batch.evaluation.published.mteb_results import MODEL_META, is_result, parse_json, parse_results
from sfr_batch.evaluation.published.values import Published
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import open_input
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.parallel import in_parallel

_AT_ONCE = 16
_SHOWN = 4
_WANTED = "Give a model card (README.md), or a folder of result files of mteb (such as SciFact.json)."
CARD = "README.md"
"""The name of a model card in a model's folder."""


def read_published(path: str, settings: StorageSettings) -> Published:
    """The scores at ``path``: a model card or its YAML, a model's folder, a result file of mteb, or a folder of them.

    Raises ConfigError if there are no scores or those of several models, StorageError if they cannot be read.
    """
    uri = absolute_uri(path)
    files = [file.uri for file in list_inputs(uri, settings)]
    if not files:
        raise ConfigError(f"There is nothing at {uri}. {_WANTED}")
    card = f"{uri.rstrip('/')}/{CARD}"
    if files == [uri] or card in files:
        return _file(uri if files == [uri] else card, settings)
    return _folder([file for file in files if file.lower().endswith(".json")], uri, settings)


def _file(uri: str, settings: StorageSettings) -> Published:
    text = _text(uri, settings)
    if uri.lower().endswith(".json") or text.lstrip().startswith("{"):
        return parse_results({uri: parse_json(text, uri)}, uri)
    return parse_card(text, uri)


def _folder(files: Sequence[str], uri: str, settings: StorageSettings) -> Published:
    """All result files below a folder. Other JSON files, such as predictions, are passed over."""
    texts = dict(zip(files, in_parallel(lambda file: _text(file, settings), files, _AT_ONCE), strict=True))
    given: dict[str, Mapping[str, object]] = {}
    for file, text in texts.items():
        if is_result(value := parse_json(text, file)) or file.rsplit("/", 1)[-1] == MODEL_META:
            given[file] = value
    results = [file for file in given if is_result(given[file])]
    if not results:
        raise ConfigError(f"{uri} holds no published scores. {_WANTED}")
    folders = sorted({file.rsplit("/", 1)[0] for file in results})
    if len(folders) > 1:
        shown = ", ".join(folders[:_SHOWN]) + (", …" if len(folders) > _SHOWN else "")
        raise ConfigError(f"{uri} holds results of several models or revisions. Give one of its folders: {shown}.")
    return parse_results(given, uri)


def _text(uri: str, settings: StorageSettings) -> str:
    with open_input(uri, settings) as file:
        data = file.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri} is not UTF-8: {error.reason} at byte {error.start}.") from None
