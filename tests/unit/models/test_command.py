"""``hedgerow model import`` as an operator types it."""

import json

import pytest

from hedgerow.registry import bundle


def test_a_gguf_file_becomes_a_bundle(hedgerow, tiny_gguf, tmp_path):
    output = tmp_path / "bundle"
    code, out, _ = hedgerow("model", "import", "--gguf", tiny_gguf, "--name", "tiny", "--output", output, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["path"] == str(output)
    assert facts["sha256"] == bundle.verify_files(output).sha256
    assert (facts["name"], facts["version"], facts["format"]) == ("tiny", "1.0.0", "onnx-genai")
    assert facts["golden"]


def test_people_get_a_table(hedgerow, tiny_gguf):
    code, out, _ = hedgerow("model", "import", "--gguf", tiny_gguf)
    assert code == 0
    assert "assistant@1.0.0" in out


def test_truncated_checkpoint(hedgerow, tiny_gguf, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:-5000])
    code, out, err = hedgerow("model", "import", "--gguf", cut)
    assert (code, out) == (2, "")
    assert str(cut) in err
    assert "truncated" in err
    assert not list((tmp_path / "var").rglob("*.onnx"))


@pytest.mark.parametrize("arguments", [[], ["smollm2", "--gguf", "x.gguf"], ["gpt5"], ["--gguf", "absent.gguf"]])
def test_wrong_use_says_what_to_type(hedgerow, arguments):
    code, _, err = hedgerow("model", "import", *arguments)
    assert code == 2
    assert "next:" in err
