"""The tokenizer of a Hugging Face checkpoint, as onnxruntime-genai reads it: its own files, and the ids it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import tokenizers

from hedgerow.errors import UsageError
from hedgerow.models.hugging_face import read_json
from hedgerow.models.tokenizer import Tokenizer

_TEMPLATE_FILE: Final = "chat_template.jinja"


def read(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """Read ``tokenizer.json`` and ``tokenizer_config.json``; ``config`` is the checkpoint's ``config.json``.

    Raises:
        UsageError: a file is missing or is none, or nobody says which token ends a text.
    """
    document, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    try:
        known = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises its base class
        raise UsageError(
            f"the tokenizers library cannot read it: {error}",
            where=str(folder / "tokenizer.json"),
            next_step="fetch the file again; it must be a fast tokenizer's",
        ) from error
    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}

    def of_role(role: str) -> list[int]:
        stated = generation.get(f"{role}_token_id", config.get(f"{role}_token_id"))
        if isinstance(stated, int):
            return [stated]
        if stated:
            return [int(each) for each in stated]
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        found = known.token_to_id(text) if text else None
        return [] if found is None else [found]

    ends = of_role("eos")
    if not ends:
        raise UsageError(
            "nothing says which token ends a text (eos_token_id)",
            where=str(folder),
            next_step="add eos_token_id to config.json",
        )
    template = settings.get("chat_template")
    if template is None and (folder / _TEMPLATE_FILE).is_file():
        settings["chat_template"] = template = (folder / _TEMPLATE_FILE).read_text(encoding="utf-8")
    return Tokenizer(
        document=document,
        config=settings,
        bos_id=next(iter(of_role("bos")), None),
        eos_ids=tuple(dict.fromkeys(ends)),
        pad_id=next(iter(of_role("pad")), ends[0]),
        has_chat_template=template is not None,
    )
