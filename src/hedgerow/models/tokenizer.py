"""Rebuild ``tokenizer.json`` and ``tokenizer_config.json`` from GGUF metadata.

GGUF keeps the vocabulary, the merges, the special tokens and the chat template,
but the pre-tokenizer only by name; ``_PRE_TOKENIZERS`` says what the names mean,
as llama.cpp's ``llama-vocab.cpp`` and the original tokenizer files define them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from hedgerow.errors import UsageError
from hedgerow.models.gguf_file import GgufFile

_BYTE_LEVEL: Final[dict[str, Any]] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_PRE_TOKENIZERS: Final[dict[str, dict[str, Any]]] = {
    "gpt-2": _BYTE_LEVEL,
    # Every digit stands alone, so that numbers of any length cost one token a digit.
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]},
}


class _TokenType(IntEnum):
    """``tokenizer.ggml.token_type`` (llama.cpp's ``llama_token_type``)."""

    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True)
class Tokenizer:
    """The two files as JSON documents, and the ids that generation needs."""

    document: dict[str, Any]
    config: dict[str, Any]
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int
    has_chat_template: bool


def read_tokenizer(file: GgufFile, *, context_length: int) -> Tokenizer:
    """Build both files from the metadata of ``file``.

    Raises:
        UsageError: not a byte-level BPE tokenizer, an unknown pre-tokenizer, or missing fields.
    """
    metadata, where = file.metadata, file.path
    tokens: list[str] = _need(metadata, "tokens", where)
    merges: list[str] = _need(metadata, "merges", where)
    types: list[int] = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    special = {
        index: _added_token(index, tokens[index], special=kind == _TokenType.CONTROL)
        for index, kind in enumerate(types)
        if kind in (_TokenType.CONTROL, _TokenType.USER_DEFINED)
    }
    roles = ("bos", "eos", "eot", "eom", "unknown", "padding")
    keys = {role: f"tokenizer.ggml.{role}_token_id" for role in roles}
    ids: dict[str, int] = {role: metadata[key] for role, key in keys.items() if key in metadata}
    eos_ids = tuple(dict.fromkeys(ids[role] for role in ("eos", "eot", "eom") if role in ids))
    if not eos_ids:
        raise UsageError(
            f"the metadata names no end-of-text token ({keys['eos']})",
            where=str(where),
            next_step="convert the checkpoint with a current llama.cpp",
        )
    pad_id = ids.get("padding", eos_ids[0])
    template = metadata.get("tokenizer.chat_template")
    config: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": bool(metadata.get("tokenizer.ggml.add_space_prefix", False)),
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        "added_tokens_decoder": {
            str(index): {key: value for key, value in token.items() if key != "id"} for index, token in special.items()
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "eos_token": tokens[eos_ids[0]],
        "pad_token": tokens[pad_id],
    }
    for name, role in (("bos_token", "bos"), ("unk_token", "unknown")):
        if role in ids:
            config[name] = tokens[ids[role]]
    if template is not None:
        config["chat_template"] = template
    return Tokenizer(
        document=_document(metadata, tokens, merges, list(special.values()), where),
        config=config,
        bos_id=ids.get("bos"),
        eos_ids=eos_ids,
        pad_id=pad_id,
        has_chat_template=template is not None,
    )


def _document(
    metadata: dict[str, Any], tokens: list[str], merges: list[str], added: list[dict[str, Any]], where: Path
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(metadata, where),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _added_token(index: int, content: str, *, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _pre_tokenizer(metadata: dict[str, Any], where: Path) -> dict[str, Any]:
    model = metadata.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise UsageError(
            f"the tokenizer model {model!r} is not supported; 'gpt2' (byte-level BPE) is",
            where=f"{where}, tokenizer.ggml.model",
            next_step="choose a checkpoint with a byte-level BPE tokenizer",
        )
    name = metadata.get("tokenizer.ggml.pre", "gpt-2")
    try:
        return _PRE_TOKENIZERS[name]
    except KeyError:
        raise UsageError(
            f"the pre-tokenizer {name!r} is not supported; these are: {', '.join(sorted(_PRE_TOKENIZERS))}",
            where=f"{where}, tokenizer.ggml.pre",
            next_step="choose a checkpoint with one of them",
        ) from None


def _need(metadata: dict[str, Any], key: str, where: Path) -> Any:
    try:
        return metadata[f"tokenizer.ggml.{key}"]
    except KeyError:
        raise UsageError(
            f"the metadata lacks tokenizer.ggml.{key}",
            where=str(where),
            next_step="convert the checkpoint with a current llama.cpp",
        ) from None
