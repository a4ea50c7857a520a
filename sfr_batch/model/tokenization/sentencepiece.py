"""The SentencePiece file, tokenizer.model, as a backend of the `tokenizers` package.

Only the kind that the Llama and Mistral families have: byte-pair encoding with byte fallback, spaces written as ▁, one
of them put before a text, and no other normalization. Every other kind is refused, because a tokenizer that is nearly
right gives wrong vectors and no error. Needs neither torch, transformers nor the sentencepiece package, whose ids
the tests compare with. Knows nothing of recipes and of tokenizer_config.json.
"""

import functools
from pathlib import Path
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.storage.local_files import read_bytes

FILE = "tokenizer.model"
WAY_OUT = (
    "Put a tokenizer.json beside it: that of the model's own repository, or one that you make with transformers "
    "(AutoTokenizer.from_pretrained(folder).save_pretrained(folder)) and compare with the ids of its reference code."
)
"""transformers 5 makes one without a warning that merges Mistral's runs of spaces wrongly: hence the comparison."""

_SPACE = "▁"
_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_KINDS = {4: "user-defined", 5: "unused"}
"""Kinds of pieces that SentencePiece treats in ways that byte-pair encoding does not know."""

_SCHEMA = """
name: "sfr_batch/sentencepiece_model.proto" package: "sfr_batch" syntax: "proto2"
message_type { name: "Piece"
  field { name: "piece" number: 1 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "score" number: 2 type: TYPE_FLOAT label: LABEL_OPTIONAL }
  field { name: "type" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "1" } }
message_type { name: "Trainer"
  field { name: "model_type" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "1" }
  field { name: "treat_whitespace_as_suffix" number: 24 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "byte_fallback" number: 35 type: TYPE_BOOL label: LABEL_OPTIONAL }
  field { name: "bos_id" number: 41 type: TYPE_INT32 label: LABEL_OPTIONAL default_value: "1" } }
message_type { name: "Normalizer"
  field { name: "name" number: 1 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "precompiled_charsmap" number: 2 type: TYPE_BYTES label: LABEL_OPTIONAL }
  field { name: "add_dummy_prefix" number: 3 type: TYPE_BOOL label: LABEL_OPTIONAL default_value: "true" }
  field { name: "remove_extra_whitespaces" number: 4 type: TYPE_BOOL label: LABEL_OPTIONAL default_value: "true" }
  field { name: "escape_whitespaces" number: 5 type: TYPE_BOOL label: LABEL_OPTIONAL default_value: "true" } }
message_type { name: "Model"
  field { name: "pieces" number: 1 type: TYPE_MESSAGE type_name: ".sfr_batch.Piece" label: LABEL_REPEATED }
  field { name: "trainer" number: 2 type: TYPE_MESSAGE type_name: ".sfr_batch.Trainer" label: LABEL_OPTIONAL }
  field { name: "normalizer" number: 3 type: TYPE_MESSAGE type_name: ".sfr_batch.Normalizer" label: LABEL_OPTIONAL } }
"""
"""The fields that matter here of https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
Strings are bytes here, because not every version of protobuf checks in reading that they are UTF-8."""


def read_backend(file: Path) -> Any:
    """The `tokenizers.Tokenizer` that gives the ids of the SentencePiece model in ``file``.

    As the Llama classes of transformers do, it puts BOS before a text and no EOS after it, and takes the literal names
    of the control pieces in a text for these. Raises TokenizerError if the file is damaged or of another kind.
    """
    import tokenizers  # here, so that importing this module costs nothing

    model, names = _parse(file)
    kinds = [piece.type for piece in model.pieces]
    if unfit := _unfit(model, names, kinds):
        raise TokenizerError(
            f"{file} {unfit}, which is not supported without tokenizer.json. Supported are models like those of the "
            "Llama and Mistral families (byte-pair encoding, byte fallback, no normalization except of spaces). "
            f"{WAY_OUT}"
        )
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=_merges(model, names, kinds),
            unk_token=names[kinds.index(_UNKNOWN)],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend(_SPACE), tokenizers.normalizers.Replace(" ", _SPACE)]
    )
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(name, special=True, normalized=False)
            for name, kind in zip(names, kinds, strict=True)
            if kind in (_UNKNOWN, _CONTROL)
        ]
    )
    bos = model.trainer.bos_id
    if 0 <= bos < len(kinds) and kinds[bos] == _CONTROL:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{names[bos]} $A", special_tokens=[(names[bos], bos)]
        )
    return backend


def _parse(file: Path) -> tuple[Any, list[str]]:
    """The model and the text of each of its pieces."""
    from google.protobuf.message import DecodeError

    model = _message_class()()
    try:
        model.ParseFromString(read_bytes(file))
        if not model.pieces:
            raise ValueError("it holds no pieces")
        return model, [piece.piece.decode() for piece in model.pieces]
    except (OSError, ValueError, DecodeError) as error:
        raise TokenizerError(f"{file} cannot be read ({error}). Fetch the model again.") from error


@functools.cache
def _message_class() -> Any:
    """The class of a SentencePiece model, in its own pool: other packages register the schema in the default one."""
    from google.protobuf import descriptor_pool, message_factory, text_format
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(text_format.Parse(_SCHEMA, FileDescriptorProto()).SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sfr_batch.Model"))


def _unfit(model: Any, names: list[str], kinds: list[int]) -> str | None:
    """The difference from Llama models that would change ids; None if there is none."""
    normalizer, trainer = model.normalizer, model.trainer
    if trainer.model_type != _BPE:
        kind = {1: "unigram", 3: "word", 4: "character"}.get(trainer.model_type, "unknown")
        return f"is a SentencePiece model of type {kind}"
    if normalizer.precompiled_charsmap:
        return f"normalizes text by the rules {normalizer.name.decode(errors='replace')!r}"
    if normalizer.remove_extra_whitespaces:
        return "removes repeated spaces"
    if not normalizer.add_dummy_prefix or not normalizer.escape_whitespaces or trainer.treat_whitespace_as_suffix:
        return "treats spaces in another way"
    bytes_ = {name for name, kind in zip(names, kinds, strict=True) if kind == _BYTE}
    if not trainer.byte_fallback or bytes_ != {f"<0x{value:02X}>" for value in range(256)}:
        return "has no byte fallback"
    if other := sorted(set(kinds) - {_NORMAL, _UNKNOWN, _CONTROL, _BYTE}):
        return f"has {_KINDS.get(other[0], 'unknown')} pieces, e.g. {names[kinds.index(other[0])]!r}"
    if len(set(names)) < len(names) or kinds.count(_UNKNOWN) != 1:
        return "holds a piece twice, or not exactly one for what is unknown"
    return None


def _merges(model: Any, names: list[str], kinds: list[int]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, in the order in which SentencePiece would merge them.

    It merges whichever pair makes the piece with the best score, so the order is by score and not by id: Mistral's runs
    of spaces have small ids and the worst scores. Control and byte pieces are never the result of a merge. Pairs of
    equal score are ordered as in the tokenizer.json files that transformers made for these models.
    """
    ids = {name: number for number, name in enumerate(names) if kinds[number] == _NORMAL}
    merges = [
        (-model.pieces[number].score, number, left, right)
        for name, number in ids.items()
        for cut in range(1, len(name))
        if (left := ids.get(name[:cut])) is not None and (right := ids.get(name[cut:])) is not None
    ]
    return [(names[left], names[right]) for _, _, left, right in sorted(merges)]
