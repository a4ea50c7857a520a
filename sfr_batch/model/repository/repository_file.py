"""What config_sentence_transformers.json says: prompts, and the length to which vectors are cut.

Knows no modules and no tokenizer. What it says of the reference is true of sentence-transformers 6.2 (base/model.py).
"""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from sfr_batch.errors import ModelError
from sfr_batch.model.prompts import DOCUMENT, QUERY
from sfr_batch.model.repository import keys
from sfr_batch.model.repository.folder import REPOSITORY_FILE, read_object
from sfr_batch.model.repository.keys import Key, check_keys, shown, wrong_kind

REPOSITORY: keys.Table = {
    "__version__": Key(keys.OBJECT, "the libraries that wrote the file", null=True),
    "model_type": Key(keys.TEXT, "only dense models are embedded", only=("SentenceTransformer",)),
    "prompts": Key(keys.OBJECT, "the text before a text, by name", null=True),
    "default_prompt_name": Key(keys.TEXT, "the prompt of a side that has none", null=True),
    "similarity_fn_name": Key(keys.TEXT, "how vectors are compared", null=True),
    "truncate_dim": Key(keys.SIZE, "the length to which vectors are cut", null=True),
    "requirements": Key(keys.OBJECT, "versions of libraries that the author asks for", null=True),
}
"""Keys of the file."""
_PACKAGES = {
    "python": "python",
    "torch": "torch",
    "pytorch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "sentence-transformers": "",
}
"""Names in ``requirements`` -> the package whose version is compared."""


def read_repository_file(folder: Path) -> dict[str, Any]:
    """What the file holds, with known keys only; empty where there is none. Raises ModelError."""
    file = folder / REPOSITORY_FILE
    found = read_object(file)
    check_keys(file, found, REPOSITORY)
    for name, text in (found.get("prompts") or {}).items():
        if text is not None and not isinstance(text, str):
            raise wrong_kind(file, f"prompts.{name}", text, keys.TEXT)
    names = {*(found.get("prompts") or {}), QUERY, DOCUMENT}  # these two always exist, empty if nothing else is said
    default = found.get("default_prompt_name")
    if default is not None and default not in names:
        raise ModelError(
            f"{file} sets default_prompt_name to {default!r}, but its prompts are {', '.join(sorted(names))}. "
            "sentence-transformers does not load it either. Fetch the model again, or correct the name."
        )
    _check_requirements(file, found.get("requirements") or {})
    return found


def _check_requirements(file: Path, requirements: Mapping[str, Any]) -> None:
    """The reference refuses a model whose requirements are not met: older libraries compute it otherwise."""
    for name, requirement in requirements.items():
        wanted = requirement.get("specifier", "") if isinstance(requirement, dict) else requirement
        package = _PACKAGES.get(name.replace("_", "-").lower())
        if package == "":  # sentence-transformers itself, which computes nothing here
            continue
        try:
            if package is None:
                raise InvalidSpecifier
            here = platform.python_version() if package == "python" else importlib.metadata.version(package)
            met = SpecifierSet(wanted).contains(here, prereleases=True)
        except (InvalidSpecifier, TypeError, AttributeError):
            raise ModelError(
                f"{file} sets requirements.{name} to {shown(requirement)}, which cannot be checked here. Use another "
                "model, or a copy of this one without it."
            ) from None
        if not met:
            raise ModelError(f"{file} asks for {name} {wanted} (requirements), but {here} is installed. Install that.")


def prompts_of(repository: Mapping[str, Any]) -> dict[str, str]:
    """The prompts of the repository by name; query and document as their sides find them.

    null is the empty prompt. A side without a prompt has that of an alias, as encode_document of sentence-transformers
    looks it up, else the default one, which sentence-transformers takes in `encode` alone.
    """
    found = {name: text or "" for name, text in (repository.get("prompts") or {}).items()}
    for alias in ("passage", "corpus"):
        if DOCUMENT not in found and alias in found:
            found[DOCUMENT] = found[alias]
    default = repository.get("default_prompt_name")
    if default in found:
        for side in (QUERY, DOCUMENT):
            found.setdefault(side, found[default])
    return found
