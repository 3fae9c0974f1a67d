"""Write a GGUF checkpoint as the folder that onnxruntime-genai's own builder reads: the yardstick's input.

    python bench/model_checkpoint.py GGUF FOLDER

The same dequantized weights as the import, float32; nothing is downloaded, and neither PyTorch nor safetensors needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.llama import LlamaCheckpoint
from hedgerow.models.tokenizer import read_tokenizer

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def weights_of(checkpoint: LlamaCheckpoint) -> dict[str, np.ndarray]:
    weights = {"model.embed_tokens.weight": checkpoint.embedding(), "model.norm.weight": checkpoint.output_norm()}
    if not checkpoint.config.tied_embeddings:
        weights["lm_head.weight"] = checkpoint.lm_head()
    for index in range(checkpoint.config.layers):
        for name, values in checkpoint.layer(index).items():
            weights[f"model.layers.{index}.{NAMES[name]}.weight"] = np.ascontiguousarray(values)
    return weights


def write_safetensors(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Write the safetensors format: header length (u64), JSON header, then the tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in weights.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in weights.values():
            values.tofile(file)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with GgufFile(Path(sys.argv[1])) as file:
        checkpoint = LlamaCheckpoint(file)
        config = checkpoint.config
        tokenizer = read_tokenizer(file, context_length=config.context_length)
        write_safetensors(folder / "model.safetensors", weights_of(checkpoint))
    figures = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "max_position_embeddings": config.context_length,
        "vocab_size": config.vocab_size,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_ids[0],
        "pad_token_id": tokenizer.pad_id,
    }
    for name, document in (
        ("config.json", figures),
        ("tokenizer.json", tokenizer.document),
        ("tokenizer_config.json", tokenizer.config),
    ):
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
