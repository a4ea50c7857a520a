"""Vectors on their way from a GPU. None is here: what it does meanwhile is planted, in memory that cannot be pinned."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import encoder as encoder_module
from sfr_batch.encoder import launched
from sfr_batch.encoder.canaries import Canaries
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.launched import Result
from sfr_batch.errors import DeviceError
from tests.repositories import corpus, write_repository


class OnGpu(torch.Tensor):
    """Vectors that a GPU computes."""

    is_cuda = True


class Stream:
    """A GPU's queue. The property it gives: what is copied into pinned memory is there once an event has been waited
    for that was recorded behind the copy, and no earlier; until then that memory holds NaN."""

    def __init__(self) -> None:
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Pinned memory, and the vectors that it is given."""
        self.waits: list[int] = []
        """For how many copies it was waited, each time."""
        self.fails = ""

    def pin(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        memory = torch.full(shape, float("nan"), dtype=dtype).as_subclass(Pinned)
        memory.stream = self
        return memory

    def wait(self, copies: int) -> None:
        if self.fails:
            raise RuntimeError(self.fails)
        self.waits.append(copies)
        for memory, vectors in self.copies[:copies]:
            memory.as_subclass(torch.Tensor).copy_(vectors.as_subclass(torch.Tensor))


class Pinned(torch.Tensor):
    """Memory that a `Stream` writes."""

    stream: Stream

    def copy_(self, vectors: torch.Tensor, non_blocking: bool = False) -> "Pinned":  # type: ignore[override]
        assert non_blocking, "the host would wait for all that the GPU has been given"
        self.stream.copies.append((self, vectors))
        return self


class Event:
    """A place in a `Stream`."""

    def record(self, stream: Stream) -> None:
        self._stream, self._behind = stream, len(stream.copies)

    def synchronize(self) -> None:
        self._stream.wait(self._behind)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder: Path = write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=128)
    return Encoder.load(ModelSettings(path=str(folder), device="cpu"), max_batch_tokens=300, torch_threads=1)


def plant_gpu(patched: pytest.MonkeyPatch) -> Stream:
    """A GPU that computes at once what it is given, and copies it when it is waited for."""
    stream = Stream()
    patched.setattr(encoder_module, "Result", lambda vectors: Result(vectors.as_subclass(OnGpu)))
    patched.setattr(launched, "pinned", stream.pin)
    patched.setattr(torch.cuda, "Event", Event)
    patched.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream


def rows(encoder: Encoder, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    tokenized = encoder.tokenizer.encode(texts)
    return tokenized.lengths, tokenized.flat_ids


def test_vectors_arrive_while_the_next_rows_are_launched(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before they are needed, and then only for the batches of these rows. Some texts repeat."""
    texts = corpus()
    some, others = rows(encoder, [*texts[:12], *texts[2:5]]), rows(encoder, texts[12:24])
    expected = [encoder.encode_tokens(*each) for each in (some, others)]
    gpu, steps = plant_gpu(monkeypatch), encoder.steps
    both = encoder.launch(*some), encoder.launch(*others)
    assert len(gpu.copies) == sum(each.batches for each in expected) > 4
    assert not gpu.waits
    for pending, plain in zip(both, expected, strict=True):
        before = len(gpu.waits)
        assert encoder.steps - steps == len(gpu.copies) + before, "it is seen that the device works"
        found = pending.result()
        assert np.array_equal(found.vectors, plain.vectors)
        assert (found.tokens, found.padded_tokens, found.batches) == (plain.tokens, plain.padded_tokens, plain.batches)
        assert len(gpu.waits) - before == plain.batches
    assert gpu.waits == list(range(1, len(gpu.copies) + 1)), "each batch for itself, in order"


def test_little_memory_is_pinned_however_many_rows_there_are(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest vectors are fetched while the device has later ones to compute; their memory is used again."""
    many = rows(encoder, corpus()[:200])
    plain = encoder.encode_tokens(*many)
    largest = max(len(batch) for batch in encoder._batches(many[0].astype(np.int64), 0)) * encoder.dim * 4
    gpu = plant_gpu(monkeypatch)
    made: list[weakref.ref[Result]] = []
    alive: list[int] = []

    def result(vectors: torch.Tensor) -> Result:
        new = Result(vectors.as_subclass(OnGpu))
        made.append(weakref.ref(new))
        alive.append(sum(each._copy.nbytes for each in (ref() for ref in made) if each))
        return new

    monkeypatch.setattr(encoder_module, "Result", result)
    monkeypatch.setattr(launched, "MOST_UNDER_WAY", 3 * largest)
    pending = encoder.launch(*many)
    assert len(gpu.copies) == plain.batches
    assert sum(copy.nbytes for copy, _ in gpu.copies) > 8 * largest
    assert 3 * largest < max(alive) <= 4 * largest, "and the batch that comes"
    assert 0 < len(gpu.waits) < plain.batches
    assert np.array_equal(pending.result().vectors, plain.vectors)
    assert gpu.waits == list(range(1, plain.batches + 1))
    assert not any(ref() for ref in made)


def test_canaries_are_told_apart_from_rows_that_arrive_later(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = Canaries(encoder)
    many = rows(encoder, corpus()[:200])
    plain, count, _ = canaries.encode_tokens(*many)
    assert count > 0
    plant_gpu(monkeypatch)
    fetch = [canaries.launch(*many) for _ in range(2)]
    for each in reversed(fetch):
        found, again, drift = each()
        assert np.array_equal(found.vectors, plain.vectors)
        assert again == count
        assert drift < 1e-6


def test_a_device_that_fails_is_found_when_vectors_are_fetched(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels run later than the calls that start them."""
    gpu = plant_gpu(monkeypatch)
    pending = encoder.launch(*rows(encoder, corpus()[:3]))
    gpu.fails = "CUDA error: uncorrectable ECC error encountered"
    with pytest.raises(DeviceError, match="uncorrectable ECC error"):
        pending.result()
