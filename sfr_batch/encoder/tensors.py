"""Tensors of a model's files that its architecture does not use, or uses and does not find, told apart.

Heads and buffers that no vector needs are known by name, each with the reason, or by the class that config.json names;
any other tensor that is not used may be part of the model, such as an adapter, and is an error. Knows names only.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from sfr_batch.errors import ModelError, counted

_HEADS: Mapping[str, str] = {
    r"(^|\.)(embed_out|lm_head|lm_head_ln|lm_loss|mlm_head|qa_outputs|classifier|score)\.": "a head of a task",
    r"(^|\.)cls\.(predictions|seq_relationship)\.": "heads of BERT's training",
    r"^(generator|discriminator)_predictions\.|^generator_lm_head\.": "heads of ELECTRA's training",
    r"^vocab_(transform|layer_norm|projector)\.": "the head of DistilBERT's training",
    r"^(sop_classifier|predictions)\.": "heads of ALBERT's training",
    r"^(lm_predictions|mask_predictions|new_lm_head)\.": "heads of DeBERTa's training",
    r"^(splinter_qass|nsp_classifier|prediction_head)\.": "heads of training",
    r"(^|\.)pooler\.": "the layer behind the first token, which no recipe here reads",
    r"(^|\.)position_ids$": "0, 1, 2 …, which transformers counts by itself",
    r"(^|\.)(inv_freq|rotary_emb\.(cos|sin)_cached)$": "rotary frequencies, which config.json gives",
    r"(^|\.)(attn|attention|attn\.attention)\.(masked_bias|bias)$": "the triangle of a causal mask",
    r"(^|\.)final_logits_bias$": "a part of a language modelling head",
    r"\.num_batches_tracked$": "a counter of training",
}
"""Tensors of any family that change no vector here, with what they are."""
_HEADS_OF: Mapping[str, Mapping[str, str]] = {
    "modernbert": {r"^(head|decoder)\.": "the head of masked language modelling"},
    "t5": {r"^decoder\.": "the decoder, of which no vector is made"},
    "mt5": {r"^decoder\.": "the decoder, of which no vector is made"},
    "ultrabert": {r"^(head|cls)\.": "the head of masked language modelling"},
    "umt5": {r"^decoder\.": "the decoder, of which no vector is made"},
}
"""The same by model_type."""
_LIKELY_PREFIXES = ("0.auto_model.", "auto_model.", "module.", "_orig_mod.", "model.", "encoder.", "transformer.")


def check_tensors(
    folder: str,
    model_type: str,
    *,
    missing: Collection[str],
    mismatched: Collection[str],
    unused: Collection[str],
    parameters: int,
    heads: Callable[[], Collection[str]],
) -> None:
    """Raises ModelError if a vector would be made of random numbers, or without a tensor that may belong to the model.

    missing, mismatched: names of tensors of the architecture that the files lack, or have in another shape. unused:
    names in the files that the architecture lacks. parameters: the number of the architecture's tensors.
    heads: gives the names of the head that config.json names, where a tensor is in none of the tables here.
    """
    missing = sorted(name for name in missing if not re.search(r"(^|\.)pooler\.", name))
    other = sorted(name for name in unused if not _is_harmless(model_type, name))
    if other:
        known = heads()
        other = [name for name in other if name not in known]
    if missing and other:
        prefix = _common_prefix(other)
        if prefix and any(name.removeprefix(prefix) in missing for name in other):
            raise ModelError(
                f"The weights in {folder} name their tensors with {prefix!r} before the names of a {model_type} model "
                f"({_some(other)}), as if they were saved from inside another one. Save the model by its own "
                "save_pretrained, or rename the tensors."
            )
        if 2 * len(missing) > parameters:
            raise ModelError(
                f"The weights in {folder} are not those of a {model_type} model as transformers computes it: "
                f"{counted(len(missing), 'tensor')} missing ({_some(missing)}), and {counted(len(other), 'tensor')} "
                f"that it has no place for ({_some(other)}). Correct model_type in config.json, or use another model."
            )
    bad = sorted({*missing, *mismatched})
    if bad:  # transformers fills these with random numbers and goes on
        raise ModelError(
            f"The weights in {folder} do not fit config.json: {counted(len(bad), 'tensor')} missing or "
            f"with another shape ({_some(bad)}). Fetch the model again."
        )
    if other:
        raise ModelError(
            f"The weights in {folder} hold {counted(len(other), 'tensor')} that a {model_type} model of transformers "
            f"does not use ({_some(other)}), so that vectors may be wrong without. Merge an adapter into the weights, "
            "or use a model whose layers transformers knows."
        )


def _is_harmless(model_type: str, name: str) -> bool:
    patterns = [*_HEADS, *_HEADS_OF.get(model_type, ())]
    return any(re.search(pattern, name) for pattern in patterns)


def _common_prefix(names: Sequence[str]) -> str | None:
    return next((prefix for prefix in _LIKELY_PREFIXES if all(name.startswith(prefix) for name in names)), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
