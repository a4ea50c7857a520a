"""Memory in segments that grow, on cards that have it and on some that do not. PyTorch's settings are real, the card is
planted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import segments
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import DeviceError, ModelError
from tests.encoder.cards import plant_gpu
from tests.models import write_sfr_files

ON, OFF = "expandable_segments:True", "expandable_segments:False"
REFUSED = "CUDA driver error: operation not supported"
LET_GROW = segments.let_grow
Card = Callable[[str], None]


def settings_now() -> str:
    return str(torch._C._accelerator_getAllocatorSettings())


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """A card that says an error as long as segments grow."""

    def plant(error: str, always: str = "") -> None:
        def allocate() -> None:
            if said := always or (error if settings_now().endswith(ON) else ""):
                raise RuntimeError(said)

        monkeypatch.setattr(segments, "_allocate", allocate)

    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    LET_GROW.cache_clear()
    yield plant
    torch._C._accelerator_setAllocatorSettings(OFF)
    LET_GROW.cache_clear()


@pytest.mark.parametrize("refused", [REFUSED, "CUDA driver error: unknown error", "CUDA out of memory."])
def test_a_card_that_refuses_them_is_used_without(card: Card, refused: str) -> None:
    """As slices of a vGPU, Jetson or WSL2, where the driver says that, or that it is full, at the first allocation."""
    card(refused)
    assert LET_GROW("cuda") == (
        f"the GPU gives no memory in segments that grow ({refused}), so they have fixed sizes, which wastes a little "
        "of it"
    )
    assert settings_now() == OFF
    assert LET_GROW("cpu") == ""


def test_a_model_is_loaded_there(card: Card, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a word of a faulty GPU. The folder has no weights, which is what is said."""
    plant_gpu(monkeypatch)
    monkeypatch.setattr(segments, "let_grow", LET_GROW)
    card(REFUSED)
    with pytest.raises(ModelError, match="has no weights"):
        Encoder.load(ModelSettings(path=str(write_sfr_files(tmp_path)), device="cuda"))
    assert settings_now() == OFF
    card("", always="CUDA driver error: invalid device context")
    LET_GROW.cache_clear()
    with pytest.raises(DeviceError, match="invalid device context"):
        Encoder.load(ModelSettings(path=str(tmp_path), device="cuda"))


def test_a_card_that_has_them_has_them(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    card("")
    assert LET_GROW("cuda") == ""
    assert settings_now() == ON
    LET_GROW.cache_clear()
    card("", always="CUDA out of memory.")
    assert LET_GROW("cuda") == "", "how much is free is said elsewhere"


@pytest.mark.parametrize(
    ("own", "then"), [("max_split_size_mb:64", OFF), (ON, f"{ON},{OFF}"), (f"max_split_size_mb:64,{ON}", None)]
)
def test_what_somebody_has_set_stays(card: Card, monkeypatch: pytest.MonkeyPatch, own: str, then: str | None) -> None:
    """But for what the card refuses."""
    torch._C._accelerator_setAllocatorSettings(own if ON in own else OFF)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", own)
    card(REFUSED)
    assert bool(LET_GROW("cuda")) == (ON in own)
    assert settings_now() == (then or f"{own},{OFF}")
