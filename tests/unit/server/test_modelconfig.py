from __future__ import annotations

import pytest

from hedgerow.server import modelconfig, textproto
from hedgerow.server.modelconfig import Latest, Specific

PUBLISHED = """
# As Triton's own examples write it.
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size : 8
input [
  {
    name: "data_0"
    data_type: TYPE_FP32
    dims: [ 3, 224, 224 ]
  }
]
output [ { name: 'fc6_1', data_type: TYPE_FP32; dims: [ -1 ] label_filename: "labels.txt" } ]
version_policy: { specific: { versions: [1, 0x3] } }
dynamic_batching < preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 100 >
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "a" value: { string_value: "b\\n\\x41\\101" "c" } }
"""


def test_a_published_configuration() -> None:
    config = modelconfig.parse(PUBLISHED)
    assert (config.name, config.max_batch_size, config.platform) == ("densenet_onnx", 8, "onnxruntime_onnx")
    assert (config.input[0].data_type, config.input[0].dims) == ("TYPE_FP32", [3, 224, 224])
    assert (config.output[0].name, config.output[0].dims, config.output[0].label_filename) == (
        "fc6_1",
        [-1],
        "labels.txt",
    )
    assert config.version_policy.specific == Specific([1, 3])
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.max_queue_delay_microseconds == 100
    assert textproto.parse(PUBLISHED)["parameters"][0]["value"] == [{"string_value": ["b\nAAc"]}]


@pytest.mark.parametrize(
    "text, latest, all_",
    [
        ("", 1, False),
        ("version_policy { latest { num_versions: 3 } }", 3, False),
        ("version_policy: { latest {} }", 1, False),
        ("version_policy: { all { } }", None, True),
    ],
)
def test_version_policies(text: str, latest: int | None, all_) -> None:
    policy = modelconfig.parse(text).version_policy
    assert policy.latest == (None if latest is None else Latest(latest))
    assert (policy.all is not None) == all_


@pytest.mark.parametrize(
    "text, says",
    [
        ("name: 3", r"Expected `str`, got `int` - at `\$.name`"),
        ("nmae: 'x'", r"unknown field `nmae`"),
        ("ensemble_scheduling { step [] }", r"unknown field `ensemble_scheduling`"),
        ("input { name: 'x' data_type: TYPE_FP8 dims: 1 }", r"x has data_type TYPE_FP8; known: TYPE_BOOL"),
        ("input { name: 'x' data_type: TYPE_FP32 dims: 1 reshape { } }", r"unknown field `reshape`"),
        ("backend: 'tensorrt'", r"'tensorrt' does not run here; known: onnxruntime"),
        ("max_batch_size: -1", r"Expected `int` >= 0"),
        ("dynamic_batching { }", r"dynamic_batching needs a max_batch_size"),
        ("version_policy { }", r"one of latest, all and specific"),
        ("version_policy { all {} latest {} }", r"one of latest, all and specific"),
        ("version_policy { latest { num_versions: 0 } }", r"Expected `int` >= 1"),
        ("version_policy { specific { versions: [] } }", r"length >= 1"),
        ("name 'x'", r"line 1: a colon should stand behind name"),
        ("name:\n\n}", r"line 3: a value should stand here, not '}'"),
        ("input {", r"line 1: '}' is missing"),
        ("input { name: 'x' >", r"line 1: a field's name should stand here, not '>'"),
        ("dims: [1 2]", r"line 1: a comma or the list's end should stand here"),
        ("name: 'x", r"""line 1: "'x" is not of the text format"""),
        ("}", r"a field's name should stand here"),
        ("\x00", r"is not of the text format"),
        ("a{" * 100, r"nested too deep"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        modelconfig.parse(text)


@pytest.mark.parametrize(
    "text, value",
    [
        ("-1", -1),
        ("0x1F", 31),
        ("010", 8),
        ("- 2", -2),
        ("1.5f", 1.5),
        ("-.5e1", -5.0),
        ("true", "true"),
        ("'a' \"b\"", "ab"),
    ],
)
def test_values(text: str, value: object) -> None:
    assert textproto.parse(f"x: {text}") == {"x": [value]}
