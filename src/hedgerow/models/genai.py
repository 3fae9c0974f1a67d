"""What onnxruntime-genai needs beside the graph: ``genai_config.json``, and one greedy answer to try it with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hedgerow.models.graph import MODEL_FILE, PAST_KEY, PAST_VALUE, PRESENT_KEY, PRESENT_VALUE
from hedgerow.models.llama import ARCHITECTURE, LlamaConfig
from hedgerow.models.tokenizer import Tokenizer

CONFIG_FILE: Final = "genai_config.json"


def genai_config(config: LlamaConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return ``genai_config.json``: greedy search by default, one key-value buffer for past and present."""
    model: dict[str, Any] = {
        "type": ARCHITECTURE,
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "eos_token_id": list(tokenizer.eos_ids) if len(tokenizer.eos_ids) > 1 else tokenizer.eos_ids[0],
        "pad_token_id": tokenizer.pad_id,
        "decoder": {
            "filename": MODEL_FILE,
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "head_size": config.head_size,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "num_key_value_heads": config.kv_heads,
            "inputs": {
                "input_ids": "input_ids",
                "attention_mask": "attention_mask",
                "past_key_names": PAST_KEY,
                "past_value_names": PAST_VALUE,
            },
            "outputs": {"logits": "logits", "present_key_names": PRESENT_KEY, "present_value_names": PRESENT_VALUE},
        },
    }
    if tokenizer.bos_id is not None:
        model["bos_token_id"] = tokenizer.bos_id
    search = {
        "do_sample": False,
        "max_length": config.context_length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    return {"model": model, "search": search}


@dataclass(frozen=True)
class Answer:
    """``text`` of a greedy generation, its ``tokens``, and how many tokens the prompt had."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int


class Generator:
    """A bundle's folder loaded into onnxruntime-genai, for golden runs on the build side."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og  # noqa: PLC0415 -- 0.3 s, and only builds pay it

        self._og = og
        self._model = og.Model(str(folder))
        self._tokenizer = og.Tokenizer(self._model)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation in the bundle's chat template, ready for the assistant's turn."""
        text = self._tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
        return [int(token) for token in self._tokenizer.encode(text)]

    def greedy(self, prompt: list[int], *, max_tokens: int) -> Answer:
        """Continue ``prompt`` by the most probable token until the end token or ``max_tokens``."""
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(prompt) + max_tokens, do_sample=False)
        generator = self._og.Generator(self._model, parameters)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        tokens = tuple(int(token) for token in generator.get_sequence(0)[len(prompt) :])
        return Answer(str(self._tokenizer.decode(list(tokens))), tokens, len(prompt))
