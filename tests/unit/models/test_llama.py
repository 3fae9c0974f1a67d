import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from hedgerow.errors import UsageError
from hedgerow.models.gguf_file import GgufFile
from hedgerow.models.llama import LlamaCheckpoint


def open_checkpoint(path):
    return LlamaCheckpoint(GgufFile(path))


def test_figures_come_from_the_file(write_tiny):
    config = open_checkpoint(write_tiny(layers=3, hidden=96, heads=6, kv_heads=3, context=77, tied=False)).config
    assert (config.layers, config.hidden_size, config.heads, config.kv_heads) == (3, 96, 6, 3)
    assert (config.head_size, config.context_length, config.tied_embeddings) == (16, 77, False)
    assert config.norm_epsilon == pytest.approx(1e-5)


def test_rotary_pairs_are_split(write_tiny):
    path = write_tiny(matrix_type=Type.F32)
    with GgufFile(path) as file:
        stored = file.tensor("blk.0.attn_k.weight")
    weights = open_checkpoint(path).layer(0)["attn_k"]
    # Pair 3 of head 1 (16 rows each): rows 6 and 7 in GGUF, rows 3 and 3 + 8 here.
    np.testing.assert_array_equal(weights[16 + 3], stored[16 + 6])
    np.testing.assert_array_equal(weights[16 + 3 + 8], stored[16 + 7])


def test_long_context_factors_divide_the_frequencies(write_tiny):
    plain = open_checkpoint(write_tiny()).rotary_frequencies()
    factors = np.linspace(1, 4, 8, dtype=np.float32)
    scaled = open_checkpoint(write_tiny(extra_tensors={"rope_freqs.weight": (factors, Type.F32)})).rotary_frequencies()
    assert plain[0] == 1
    assert plain[1] == pytest.approx(10000 ** (-2 / 16))
    np.testing.assert_allclose(scaled, plain / factors, rtol=1e-6)


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2' is not supported; 'llama' is"),
        ({"without": {"llama.block_count"}}, r"lacks llama\.block_count"),
        ({"without": {"blk.1.ffn_up.weight"}}, r"no tensor blk\.1\.ffn_up\.weight"),
        ({"metadata": {"llama.expert_count": 8}}, "expert_count is 8; only 0"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, r"rope\.scaling\.type is 'yarn'"),
        ({"metadata": {"llama.feed_forward_length": 128}}, r"ffn_gate\.weight has shape \(96, 64\).*\(128, 64\)"),
        (
            {"extra_tensors": {"blk.0.attn_q.bias": (np.zeros(64, dtype=np.float32), Type.F32)}},
            r"no place for, the first is blk\.0\.attn_q\.bias",
        ),
    ],
)
def test_what_the_graph_cannot_express_is_refused(write_tiny, fields, said):
    path = write_tiny(**fields)
    with pytest.raises(UsageError, match=said) as caught:
        open_checkpoint(path).layer(1)
    assert str(path) in str(caught.value.where)
