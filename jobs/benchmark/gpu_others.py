"""Steps of `gpu` beside the encoder, where they are installed: torchao's fp8, sentence-transformers, vLLM.

All have the weights and the token ids that the encoder has. For those that read a model and texts, a word is the number
of an id. Of torchao (0.18) and vLLM only the interfaces were read: neither step has run yet.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jobs.benchmark.gpu_sitting import (
    NOT_MEASURED,
    VOCABULARY,
    FloatArray,
    Found,
    Sitting,
    agree,
    must_agree,
    speed,
    whole_layers,
)
from sfr_batch.model.identity import SAME_MODEL

_BATCH_SIZES = (16, 64)
_PAD = "<pad>"
Encode = Callable[[list[str]], FloatArray]
Start = Callable[[Path, list[str]], Encode]
"""Loads the model of a folder. Also gets some of the texts, to try settings with."""


def torchao(sitting: Sitting, found: Found) -> None:
    """Its fp8 by rows, in whole layers that are compiled, as it is meant to be used; and ours so, too. Both with the
    options that the compiler has in a run."""
    if not _is_here("torchao", found):
        return
    if not sitting.on_gpu or sitting.lacks_fp8:
        found[NOT_MEASURED] = "no GPU that multiplies in fp8"
        return
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    # By default it sets other options of the compiler for the whole process, and so for the steps that follow.
    by_rows = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    lengths, flat_ids = sitting.texts()
    for name, dtype in (("torchao's fp8", sitting.dtype), ("our fp8", "fp8")):
        encoder = sitting.new_model(dtype)
        if dtype != "fp8":
            quantize_(encoder._model, by_rows)
        with whole_layers(encoder):
            if sitting.expected is not None:
                vectors = encoder.encode_tokens(lengths, flat_ids).vectors
                agree(sitting, found, f"{name} to {sitting.dtype}", vectors, sitting.expected, None)
            speed(sitting, f"{name}, whole layers compiled", encoder, found, ("512", "longest"))


def sentence_transformers(sitting: Sitting, found: Found) -> None:
    """The same texts through it, at the better of two batch sizes."""
    if not _is_here("sentence_transformers", found):
        return
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    from sfr_batch.encoder.loading import torch_dtype

    def start(folder: Path, some: list[str]) -> Encode:
        words = Transformer(str(folder), model_kwargs={"dtype": torch_dtype(sitting.dtype)})
        pooling = Pooling(words.get_embedding_dimension(), "lasttoken")
        model = SentenceTransformer(modules=[words, pooling], device=sitting.device)

        def encode(texts: list[str], size: int = 0) -> FloatArray:
            options = {"batch_size": size or found["batch size"], "normalize_embeddings": True}
            return np.asarray(model.encode(texts, **options), np.float32)

        found["batch size"] = min(_BATCH_SIZES, key=lambda size: _twice(lambda: encode(some, size))[0])
        return encode

    _beside(sitting, found, "sentence-transformers", start)


def vllm(sitting: Sitting, found: Found) -> None:
    """The same token ids through it."""
    if not _is_here("vllm", found):
        return
    from vllm import LLM

    def start(folder: Path, some: list[str]) -> Encode:
        options = {"dtype": sitting.dtype, "max_model_len": sitting.longest, "gpu_memory_utilization": 0.8}
        model = LLM(model=str(folder), runner="pooling", **options)

        def encode(texts: list[str]) -> FloatArray:
            model.reset_prefix_cache()  # it keeps the keys of whole texts, and would find all of them the second time
            prompts = [{"prompt_token_ids": [int(word) for word in text.split()]} for text in texts]
            return np.array([done.outputs.embedding for done in model.embed(prompts, use_tqdm=False)], np.float32)

        return encode

    _beside(sitting, found, "vLLM", start)


def _is_here(package: str, found: Found) -> bool:
    if find_spec(package) is None:
        found[NOT_MEASURED] = f"{package} is not installed"
    return NOT_MEASURED not in found


def _beside(sitting: Sitting, found: Found, name: str, start: Start) -> None:
    """The texts of the sitting through the encoder and through another library, which must give the same vectors."""
    lengths, flat_ids = sitting.texts()
    texts = [" ".join(map(str, row)) for row in np.split(flat_ids, np.cumsum(lengths)[:-1])]
    ours, own = _twice(lambda: sitting.as_in_a_run().encode_tokens(lengths, flat_ids).vectors)
    with _saved(sitting) as folder:
        sitting.forget()  # a card may have room for one model
        encode = start(folder, texts[: 2 * max(_BATCH_SIZES)])
        theirs, vectors = _twice(lambda: encode(texts))
    tokens = int(lengths.sum())
    found |= {"ours, tokens/s": tokens / ours, "theirs, tokens/s": tokens / theirs, "times as fast": theirs / ours}
    sitting.say(
        f"{len(texts):,} texts, {tokens:,} tokens: encoder {tokens / ours:,.0f} tokens/s, {name} "
        f"{tokens / theirs:,.0f}: {theirs / ours:.2f} times as fast"
    )
    agree(sitting, found, f"{name} to the encoder", vectors, own, SAME_MODEL[sitting.dtype])
    must_agree(found)


def _twice(call: Callable[[], FloatArray]) -> tuple[float, FloatArray]:
    """Seconds of the second call, and what it returned."""
    call()
    began = time.perf_counter()
    vectors = call()
    return time.perf_counter() - began, vectors


@contextlib.contextmanager
def _saved(sitting: Sitting) -> Iterator[Path]:
    """A folder with the model, and a tokenizer whose words are numbers."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    numbers = {str(number): number for number in range(1, VOCABULARY)}
    words = Tokenizer(models.WordLevel({_PAD: 0, **numbers}, unk_token=_PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=_PAD, unk_token=_PAD, model_max_length=2 * sitting.longest
    )
    with tempfile.TemporaryDirectory(prefix="sfr-benchmark-") as folder:
        sitting.model()._model.save_pretrained(folder)
        fast.save_pretrained(folder)
        yield Path(folder)
