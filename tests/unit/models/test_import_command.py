"""``hedgerow model import`` of other formats, and ``pack-…``, as an operator types them."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from hedgerow.registry import bundle


@pytest.fixture
def model(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_onnx_model(hedgerow, model, tmp_path):
    output = tmp_path / "out"
    options = ("--name", "relu", "--version", "1.2.0", "--license", "MIT", "--memory-mb", "99", "--hat", "none")
    code, out, _ = hedgerow(
        "model", "import", "--onnx", model, "--shape", "x=2,3", *options, "--output", output, "--json"
    )
    assert code == 0
    facts = json.loads(out)
    found = bundle.verify_files(output)
    assert (facts["sha256"], facts["kind"], facts["format"]) == (found.sha256, "model", "onnx")
    assert (found.manifest.requires.memory_mb, found.manifest.requires.hat) == (99, ("none",))
    assert found.manifest.inputs[0].shape == (2, 3)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--onnx", "m.onnx", "--gguf", "m.gguf"), "one of --gguf"),
        (("--onnx", "m.onnx", "--exact"), "--exact means nothing for --onnx"),
        (("smollm2", "--shape", "x=1"), "--shape means nothing for a known model"),
        (("--gguf", "m.gguf", "--golden", "g.json"), "--golden means nothing for --gguf"),
        (("--gguf", "m.gguf", "--exact", "--quality", "fast"), "a quality of its own"),
        (("--onnx", "m.onnx"), "--onnx does not say its license"),
        (("--onnx", "m.onnx", "--license", "MIT", "--shape", "x"), "'x' is no shape"),
        (("--onnx", "m.onnx", "--license", "MIT", "--shape", "x=0"), "'x=0' is no shape"),
        (("--onnx", "m.onnx", "--license", "MIT", "--hat", "bowler"), "no HAT is called 'bowler'"),
        (("--hef", "m.hef", "--license", "MIT"), "does not say which HailoRT"),
        (("--huggingface", "nowhere"), "does not say its license"),
        (("--genai", "nowhere", "--license", "MIT"), "genai_config.json is missing"),
        (("--tflite", "nowhere", "--license", "MIT"), "no file here"),
    ],
)
def test_wrong_use_says_what_to_type(hedgerow, arguments, says):
    code, out, err = hedgerow("model", "import", *arguments)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert "next:" in err


def test_an_application_is_refused_by_rule(hedgerow, tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    unit = folder / "kiosk.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nUser=root\nNoNewPrivileges=yes\n")
    said = ("--name", "kiosk", "--version", "1.0.0", "--license", "MIT")
    code, _, err = hedgerow("model", "pack-application", folder, *said)
    assert code == 3
    assert "rule: unprivileged" in err
    unit.write_text(unit.read_text().replace("User=root", "DynamicUser=yes"))
    code, out, _ = hedgerow("model", "pack-application", folder, *said, "--port", "8090=page", "--asks", "assistant")
    assert code == 0
    assert "application, unit-folder" in out


def test_a_runtime_and_an_adapter_say_what_is_missing(hedgerow, tmp_path):
    said = ("--name", "x", "--version", "1.0.0", "--license", "MIT")
    code, _, err = hedgerow("model", "pack-runtime", tmp_path / "none", "--python", "3.13", *said)
    assert code == 2
    assert "hedgerow runtime build" in err
    base = ("--base", "assistant", "--base-version", "latest", "--base-folder", tmp_path, "--golden", tmp_path)
    code, _, err = hedgerow("model", "pack-adapter", tmp_path / "a.onnx_adapter", *base, *said)
    assert code == 2
    assert "no adapter here" in err
