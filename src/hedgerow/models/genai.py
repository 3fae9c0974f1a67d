"""What onnxruntime-genai needs beside the graph: ``genai_config.json``, and greedy answers to try it with."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hedgerow.errors import PublisherError
from hedgerow.models.graph import MODEL_FILE, PAST_KEY, PAST_VALUE, PRESENT_KEY, PRESENT_VALUE
from hedgerow.models.llama import ARCHITECTURE, LlamaConfig
from hedgerow.models.tokenizer import Tokenizer
from hedgerow.registry.manifest import Message

CONFIG_FILE: Final = "genai_config.json"
# What decoding gives for the first bytes of a character whose last token is missing.
_CUT_CHARACTER: Final = "\N{REPLACEMENT CHARACTER}"


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
    """A greedy answer.

    ``decisive`` is its beginning in which every token led the runner-up by the asked margin, whole characters only.
    """

    text: str
    tokens: tuple[int, ...]
    decisive: str


class Generator:
    """A bundle's folder loaded into onnxruntime-genai, for golden runs on the build side."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime_genai as og  # 0.3 s, and only builds pay it

        self._og = og
        try:
            self._model = og.Model(str(folder))
            self._tokenizer = og.Tokenizer(self._model)
        except Exception as error:  # the library's errors have no common base but this
            raise PublisherError(
                f"onnxruntime-genai cannot load the model: {error}",
                where=str(folder),
                next_step="look at genai_config.json and the tokenizer's files; the message is the library's own",
            ) from error

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation in the bundle's chat template, ready for the assistant's turn."""
        conversation = json.dumps([{"role": message.role, "content": message.content} for message in messages])
        return self.encode(self._tokenizer.apply_chat_template(conversation, add_generation_prompt=True))

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def greedy(self, prompt: Sequence[int], *, max_tokens: int, margin: float = 0.0) -> Answer:
        """Continue ``prompt`` by the most probable token until an end token or ``max_tokens``.

        ``margin`` in nats between the best and the second best token.
        """
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(prompt) + max_tokens, do_sample=False)
        generator = self._og.Generator(self._model, parameters)
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        leads: list[float] = []
        while not generator.is_done():
            second, best = np.partition(generator.get_logits().ravel(), -2)[-2:]
            leads.append(float(best - second))
            generator.generate_next_token()
        tokens = tuple(int(token) for token in generator.get_sequence(0)[len(prompt) :])
        decisive = next((index for index, lead in enumerate(leads) if lead < margin), len(tokens))
        return Answer(self.text(tokens), tokens, self.text(tokens[:decisive]).rstrip(_CUT_CHARACTER))

    def paced(self, prompt: Sequence[int], *, max_tokens: int) -> list[float]:
        """Seconds from the question to each token of a greedy answer, one at least."""
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=len(prompt) + max_tokens, do_sample=False)
        generator = self._og.Generator(self._model, parameters)
        begun, moments = time.perf_counter(), []
        generator.append_tokens(np.asarray(prompt, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            moments.append(time.perf_counter() - begun)
        return moments

    def text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(np.asarray(tokens, dtype=np.int32)))
