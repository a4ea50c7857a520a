"""Tiny model repositories: tokenizers of the three common kinds, random weights and the files of sentence-transformers.

The tokenizers are trained on docstrings of the standard library, in well under a second, and remembered. Like
`tests.models`, it knows nothing of sfr_batch, so that what it writes is judged by others' code as well.
"""

import ast
import functools
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.models import write_json

TokenizerKind = Literal["wordpiece", "bytelevel", "unigram"]

VOCABULARY = 600
"""Tokens of each tokenizer, at most."""

WORDPIECE_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""Special tokens of `wordpiece`, ids 0 to 4 in this order."""
SENTENCE_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
"""Special tokens of `bytelevel` and `unigram`."""
SENTENCE_IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
TOKENIZER_CLASSES: dict[TokenizerKind, str] = {
    "wordpiece": "BertTokenizer",
    "bytelevel": "RobertaTokenizer",
    "unigram": "XLMRobertaTokenizer",
}
"""Class that tokenizer_config.json names by default."""

HARD_TEXTS = [
    "How to bake a chocolate cake",
    "the quick Brown Fox",
    "",
    " ",
    " leading space",
    "trailing space ",
    "trailing newline\n",
    "two  spaces,   three",
    "line\nline\r\n\n line",
    "\ttab\t\ttabs",
    "日本語の文章です。中文 한국어",
    "emoji 🙂👩‍👩‍👧 e\u0301 é ﬁ",
    "a\u200bb\u200dc\ufeffd",
    "مرحبا بالعالم \u202eabc",
    "a </s> b <s> c <unk> <pad> <mask>",
    "a</s>b<s>c<mask>d <mask>e <mask> f",
    "a [SEP] b [CLS] c [MASK] [PAD] [UNK]",
    "a[SEP]b [sep] c[MASK]d",
    "<|endoftext|> x <|im_end|>",
    "Ünïcödé Straße İstanbul ΑΒΓ абв",
    "Crème brûlée, że wysoką izbę",
    "x = f(y, 1234567890) != 3.14159e-10 # ok",
    "don't can't DON'T it's ¶ ½ № ™",
    "[DOC] a document[DOC]", "an[DOC]d [doc]",
    "A" * 150,
    "word " * 100,
]  # fmt: skip
"""Texts on which tokenizers that are nearly the same differ."""


@functools.cache
def corpus() -> tuple[str, ...]:
    """Docstrings of the standard library, about 300 of them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for name in ("argparse", "random", "statistics", "textwrap", "functools", "shutil", "heapq", "bisect", "calendar"):
        for node in ast.walk(ast.parse((root / f"{name}.py").read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found.append(text)
    return tuple(found)


@functools.cache
def wordpiece(*, lowercase: bool = True, template: str = "[CLS] $A [SEP]") -> str:
    """tokenizer.json of BERT's kind. template: what stands around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = list(WORDPIECE_TOKENS.values())
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = [(name, number) for number, name in enumerate(specials) if name in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return str(tokenizer.to_str())


@functools.cache
def bytelevel(*, template: str | None = None, prefix_space: bool = False) -> str:
    """tokenizer.json of GPT-2's kind. template: what stands around a text; None for RoBERTa's post-processor."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SENTENCE_IDS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if template is None:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, prefix_space)
    else:
        ids = [(name, number) for name, number in SENTENCE_IDS.items() if name in template]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return str(tokenizer.to_str())


@functools.cache
def unigram(*, template: str = "<s> $A </s>", words: bool = True) -> str:
    """tokenizer.json of XLM-RoBERTa's kind. words: whether it splits at white space before it looks at tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    tokenizer.pre_tokenizer = split if words else spaces
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SENTENCE_IDS), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    ids = [(name, number) for name, number in SENTENCE_IDS.items() if name in template]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return str(tokenizer.to_str())


def write_tokenizer(
    folder: Path, kind: TokenizerKind, *, json: str | None = None, config: Mapping[str, Any] | None = None
) -> Path:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    json: the text of tokenizer.json, default that of ``kind``. config: replaces and completes keys of
    tokenizer_config.json; a key set to ``...`` is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    default = {"wordpiece": wordpiece, "bytelevel": bytelevel, "unigram": unigram}[kind]
    (folder / "tokenizer.json").write_text(json or default(), encoding="utf-8")
    tokens = WORDPIECE_TOKENS if kind == "wordpiece" else SENTENCE_TOKENS
    first = {"tokenizer_class": TOKENIZER_CLASSES[kind], "model_max_length": 512}
    if kind == "wordpiece":
        first["do_lower_case"] = True
    settings = {**first, **tokens, **(config or {})}
    write_json(folder / "tokenizer_config.json", {k: v for k, v in settings.items() if v is not ...})
    write_json(folder / "special_tokens_map.json", tokens)
    return folder


def write_modules(
    folder: Path, *, dim: int = 32, pooling: str = "mean", normalize: bool = True, max_seq_length: int | None = 128
) -> Path:
    """The files of sentence-transformers in the spelling of its versions 2 to 5. pooling: mean, cls or lasttoken."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    keys = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": dim, **{key: name == pooling for name, key in keys.items()}},
    )
    if max_seq_length is not None:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.2.2"}})
    return folder


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    # Far larger than usual, so that attention is sharp and vectors of different texts differ clearly.
    "initializer_range": 0.3,
}
FAMILIES: dict[str, tuple[str, TokenizerKind, dict[str, Any]]] = {
    "bert": ("BertModel", "wordpiece", {"max_position_embeddings": 512, "pad_token_id": 0}),
    "roberta": (
        "RobertaModel",
        "bytelevel",
        {"max_position_embeddings": 514, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    ),
    "xlm-roberta": (
        "XLMRobertaModel",
        "unigram",
        {"max_position_embeddings": 514, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1},
    ),
    "llama": ("LlamaModel", "bytelevel", {"max_position_embeddings": 512, "num_key_value_heads": 2, "pad_token_id": 1}),
    "qwen3": ("Qwen3Model", "bytelevel", {"max_position_embeddings": 512, "num_key_value_heads": 2, "pad_token_id": 1}),
}
"""Class, tokenizer and settings of config.json by model_type."""


def write_repository(
    folder: Path,
    model_type: str = "bert",
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    tokenizer_json: str | None = None,
    seed: int = 0,
    **modules: Any,
) -> Path:
    """A whole repository of one of `FAMILIES` with random float32 weights.

    config and tokenizer_config replace and complete keys of these files; modules: see `write_modules`.
    """
    import torch
    import transformers

    name, kind, own = FAMILIES[model_type]
    settings = {"architectures": [name], "model_type": model_type, **SMALL, **own, **(config or {})}
    write_tokenizer(folder, kind, json=tokenizer_json, config=tokenizer_config)
    write_modules(folder, dim=settings["hidden_size"], **modules)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parsed = transformers.CONFIG_MAPPING[model_type](**settings)
        getattr(transformers, name)(parsed).eval().save_pretrained(folder)
    write_json(folder / "config.json", settings)
    return folder


def write_planned(folder: Path) -> Path:
    """The files of a BERT with vectors of 8 numbers, up to 4096 tokens, but for its weights; takes no torch."""
    name, kind, own = FAMILIES["bert"]
    size = {"hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 4096}
    write_tokenizer(folder, kind, config={"model_max_length": 4096})
    write_modules(folder, dim=8, max_seq_length=4096)
    write_json(folder / "config.json", {"architectures": [name], "model_type": "bert", **SMALL, **own, **size})
    return folder


def write_chain(
    folder: Path,
    chain: Sequence[tuple[str, Mapping[str, Any] | None]],
    *,
    package: str = "sentence_transformers.models",
    seed: int = 0,
) -> Path:
    """modules.json with a Transformer and ``chain`` behind it: class and config.json (None: no file) of each module.

    Dense and LayerNorm get random float32 weights of the sizes that their config.json says.
    """
    import safetensors.torch
    import torch

    modules = [("", "Transformer"), *((f"{number}_{kind}", kind) for number, (kind, _) in enumerate(chain, start=1))]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"{package}.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
    )
    generator = torch.Generator().manual_seed(seed)
    for (path, kind), (_, config) in zip(modules[1:], chain, strict=True):
        (folder / path).mkdir(exist_ok=True)
        if config is not None:
            write_json(folder / path / "config.json", dict(config))
        shapes = _shapes(kind, config or {})
        if shapes:
            tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
            safetensors.torch.save_file(tensors, folder / path / "model.safetensors")
    return folder


def _shapes(kind: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    if kind == "LayerNorm":
        return {"norm.weight": (config["dimension"],), "norm.bias": (config["dimension"],)}
    if kind != "Dense":
        return {}
    out, width = config["out_features"], config["in_features"]
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, width)}
    if config.get("bias", True):
        shapes["linear.bias"] = (out,)
    if config.get("use_residual") and out != width:
        shapes["residual.weight"] = (out, width)
    return shapes
