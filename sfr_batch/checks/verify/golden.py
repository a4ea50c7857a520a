"""Golden files: texts with recorded token ids and vectors, to compare a model with later. Computes no vector."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from sfr_batch.errors import ConfigError
from sfr_batch.format.fingerprint import canonical_json, mismatches
from sfr_batch.model.identity import comparable
from sfr_batch.storage.local_files import read_text, write_atomically

FloatArray = NDArray[np.float32]

_LEFT_TO_VECTORS = ("compute_dtype", "vector_dtype", "weights")


class GoldenText(BaseModel):
    """One text, its token ids and its vector, as a query or a document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: Literal["query", "document"]
    text: str
    ids: list[int]
    """Token ids of the prompt and the text, as the model gets them."""
    vector: list[float]
    """[d] float32 of unit length; JSON keeps every bit."""


class Golden(BaseModel):
    """A golden file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    """`model.path` where it was recorded."""
    fingerprint: str
    inputs: dict[str, Any]
    """The inputs of the fingerprint, see `model.identity.fingerprint_inputs`."""
    texts: list[GoldenText]

    def vectors(self) -> FloatArray:
        """[n, d] in the order of ``texts``."""
        return np.array([text.vector for text in self.texts], np.float32)

    def differences(self, inputs: dict[str, Any]) -> list[str]:
        """How model and recipe differ, one phrase for each key. Dtypes are left to the comparison of vectors, and so
        are inputs that the release did not know that recorded the file."""
        old, new = (
            {key: value for key, value in comparable(d).items() if key not in _LEFT_TO_VECTORS}
            for d in (self.inputs, inputs)
        )
        lines = mismatches(old, new, "in the golden file", "here")
        before, now = self.inputs.get("weights", {}), inputs["weights"]
        files = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return lines + [f"{', '.join(files)}: different content than when it was recorded"] * bool(files)

    def write(self, file: Path) -> None:
        """Create ``file`` atomically, one line for each text. Raises ConfigError if it exists or cannot be written."""
        head = self.model_dump(exclude={"texts"})
        lines = ",\n".join(canonical_json(text.model_dump()) for text in self.texts)
        content = f'{canonical_json(head)[:-1]},"texts":[\n{lines}\n]}}\n'
        try:
            write_atomically(file, content, replace=False)
        except OSError as error:
            raise ConfigError(f"--record: {file} cannot be written: {error}.") from error


def check_target(file: Path) -> None:
    """Raises ConfigError if ``file`` exists or has no folder: a golden file is never overwritten."""
    if file.exists():
        raise ConfigError(
            f"--record: {file} already exists. Compare with it (--golden), or give another name. A golden file is "
            "never overwritten, because the current model may be the wrong one."
        )
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--record: the folder {file.absolute().parent} does not exist.")


def read(file: Path) -> Golden:
    """Read a golden file. Raises ConfigError if it cannot be read or is not one."""
    try:
        golden = Golden.model_validate_json(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--golden: {file} cannot be read: {error}") from error
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        place = ".".join(map(str, what["loc"])) or "the file"
        raise ConfigError(
            f"--golden: {file} is not a golden file ({place}: {what['msg']}). Record one with --record."
        ) from None
    if len({len(text.vector) for text in golden.texts}) != 1:
        raise ConfigError(
            f"--golden: {file} is damaged: it has no vectors, or vectors of different lengths. Record it again."
        )
    return golden
