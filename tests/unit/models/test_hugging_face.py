"""A Hugging Face folder of the same weights as a GGUF file: the same bytes must come out of both."""

import json
import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from hedgerow.errors import UsageError
from hedgerow.models import hugging_face_tokenizer
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.hugging_face import _LAYER, HuggingFaceCheckpoint
from hedgerow.models.importer import import_gguf, request_for_file, request_for_folder
from hedgerow.models.llama import LlamaCheckpoint
from hedgerow.models.tokenizer import read_tokenizer
from hedgerow.registry import bundle


def write_safetensors(path, tensors, kind="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        if kind == "BF16":
            raw = (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = values.astype({"F32": np.float32, "F16": np.float16, "I8": np.int8}[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def gguf_file(write_tiny):
    return write_tiny(matrix_type=Type.F32, embedding_type=Type.F32)


@pytest.fixture
def write_folder(gguf_file, tmp_path):
    """``write(kind, leave_out, **config)`` → the checkpoint of ``gguf_file`` as a Hugging Face folder."""

    def write(kind="F32", leave_out=(), extra=None, **config):
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        with GgufFile(gguf_file) as file:
            checkpoint = LlamaCheckpoint(file)
            figures = checkpoint.config
            tokenizer = read_tokenizer(file, context_length=figures.context_length)
            tensors = {
                "model.embed_tokens.weight": checkpoint.embedding(),
                "model.norm.weight": checkpoint.output_norm(),
            }
            for index in range(figures.layers):
                for name, values in checkpoint.layer(index).items():
                    tensors[f"model.layers.{index}.{_LAYER[name]}.weight"] = values
        tensors |= extra or {}
        names = [name for name in tensors if name not in leave_out]
        half = len(names) // 2
        for number, part in enumerate((names[:half], names[half:]), 1):
            write_safetensors(folder / f"model-{number}-of-2.safetensors", {name: tensors[name] for name in part}, kind)
        document = {
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": figures.hidden_size,
            "intermediate_size": figures.intermediate_size,
            "num_hidden_layers": figures.layers,
            "num_attention_heads": figures.heads,
            "num_key_value_heads": figures.kv_heads,
            "max_position_embeddings": figures.context_length,
            "vocab_size": figures.vocab_size,
            "rope_theta": figures.rope_theta,
            "rms_norm_eps": figures.norm_epsilon,
            "tie_word_embeddings": True,
            "eos_token_id": 2,
            "bos_token_id": 1,
            "pad_token_id": 2,
        } | config
        for name, value in (
            ("config.json", {key: value for key, value in document.items() if value is not ...}),
            ("tokenizer.json", tokenizer.document),
            ("tokenizer_config.json", tokenizer.config),
        ):
            (folder / name).write_text(json.dumps(value))
        return folder

    return write


def test_the_same_weights_give_the_same_model(gguf_file, write_folder, tmp_path):
    settings = {"name": "tiny", "version": "1.0.0", "quality": "fast", "license_id": "MIT", "license_file": None}
    one = bundle.load(import_gguf(request_for_file(gguf_file, **settings), cache=tmp_path / "cache"))
    two = bundle.verify_files(import_gguf(request_for_folder(write_folder(), **settings), cache=tmp_path / "cache"))
    weights = {file.path: file.sha256 for file in one.manifest.files if file.path.startswith("model.onnx")}
    assert len(weights) == 2
    assert {file.path: file.sha256 for file in two.manifest.files if file.path in weights} == weights
    assert two.manifest.golden == one.manifest.golden
    assert {"safetensors", "tokenizers"} <= set(two.manifest.provenance.tools)
    assert len(two.manifest.provenance.sources) == 5
    again = import_gguf(request_for_folder(write_folder(), **settings), cache=tmp_path / "other")
    assert bundle.load(again).sha256 == two.sha256


@pytest.mark.parametrize("kind, step", [("F16", 2**-10), ("BF16", 2**-7)])
def test_half_precision_is_read(gguf_file, write_folder, kind, step):
    found = HuggingFaceCheckpoint(write_folder(kind))
    with GgufFile(gguf_file) as file:
        want = LlamaCheckpoint(file).layer(1)["attn_q"]
    np.testing.assert_allclose(found.layer(1)["attn_q"], want, rtol=step, atol=1e-6)


def read_all(folder):
    checkpoint = HuggingFaceCheckpoint(folder)
    return [checkpoint.layer(index) for index in range(2)]


@pytest.mark.parametrize(
    "config, says",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "LlamaForCausalLM, MistralForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"sliding_window": 64}, "sliding_window is 64"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"intermediate_size": 95}, "config.json says"),
        ({"kind": "I8"}, "has the type I8"),
        ({"leave_out": ("model.layers.1.mlp.up_proj.weight",)}, "no tensor model.layers.1.mlp.up_proj.weight"),
        ({"extra": {"model.layers.0.mlp.bias": np.zeros(3, dtype=np.float32)}}, "no place for"),
    ],
)
def test_what_the_graph_does_not_compute_is_refused(write_folder, config, says):
    folder = write_folder(**config)
    with pytest.raises(UsageError) as caught:
        read_all(folder)
    assert says in caught.value.what
    assert caught.value.next_step


def test_damage_is_told(write_folder, tmp_path):
    folder = write_folder()
    part = folder / "model-1-of-2.safetensors"
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(UsageError, match="damaged"):
        HuggingFaceCheckpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UsageError, match="no readable JSON"):
        HuggingFaceCheckpoint(folder)
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        HuggingFaceCheckpoint(tmp_path / "nowhere")
    (folder / "config.json").write_text("{}")
    for each in folder.glob("*.safetensors"):
        each.unlink()
    with pytest.raises(UsageError, match=r"no \.safetensors file"):
        HuggingFaceCheckpoint(folder)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_rotary_scaling_is_transformers_own(write_folder):
    plain = HuggingFaceCheckpoint(write_folder()).rotary_frequencies()
    linear = HuggingFaceCheckpoint(write_folder(rope_scaling={"type": "linear", "factor": 4.0})).rotary_frequencies()
    np.testing.assert_allclose(linear * 4, plain, rtol=1e-6)
    llama3 = HuggingFaceCheckpoint(write_folder(rope_scaling=LLAMA3)).rotary_frequencies()
    # modeling_rope_utils._compute_llama3_parameters, written out: waves below 16 positions stay, above 64 they stretch.
    waves = 2 * np.pi / plain.astype(np.float64)
    smooth = (64 / waves - 1) / 3
    want = np.where(waves > 64, plain / 8, np.where(waves < 16, plain, (1 - smooth) * plain / 8 + smooth * plain))
    np.testing.assert_allclose(llama3, want, rtol=1e-6)
    with pytest.raises(UsageError, match="'yarn'"):
        HuggingFaceCheckpoint(write_folder(rope_scaling={"rope_type": "yarn"})).rotary_frequencies()


def test_ids_come_from_wherever_they_are_said(write_folder):
    folder = write_folder(eos_token_id=..., pad_token_id=..., bos_token_id=...)
    config = json.loads((folder / "config.json").read_text())
    found = hugging_face_tokenizer.read(folder, config)
    assert found.eos_ids == (2,), "from the token's text"
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert hugging_face_tokenizer.read(folder, config).eos_ids == (2, 0)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = settings.pop("chat_template")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not hugging_face_tokenizer.read(folder, config).has_chat_template
    (folder / "chat_template.jinja").write_text(template)
    assert hugging_face_tokenizer.read(folder, config).config["chat_template"] == template
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot read it"):
        hugging_face_tokenizer.read(folder, config)


def test_the_license_has_to_be_said(write_folder):
    with pytest.raises(UsageError, match="does not say its license"):
        request_for_folder(
            write_folder(), name="a", version="1.0.0", quality="fast", license_id=None, license_file=None
        )


def test_exact_is_for_quantized_files(write_folder, tmp_path):
    request = request_for_folder(
        write_folder(), name="a", version="1.0.0", quality="exact", license_id="MIT", license_file=None
    )
    with pytest.raises(UsageError, match="keeps the quantized blocks"):
        import_gguf(request, cache=tmp_path / "cache")
