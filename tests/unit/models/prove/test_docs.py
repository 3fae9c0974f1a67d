"""docs/proving-models.md: its examples are read by what they are written for, its tables name what there is."""

import re
import shlex
from pathlib import Path

import click
import pytest

from hedgerow.commands.model import model
from hedgerow.models.quantize_onnx import SCHEMES
from hedgerow.models.validate import probes, thresholds

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs/proving-models.md").read_text(encoding="utf-8")


def blocks(page, language):
    # All of them in turn, so that one block's end is not taken for the next one's beginning.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind == language]


def test_yaml_examples_are_valid(page, tmp_path):
    limits, probe = blocks(page, "yaml")
    (tmp_path / "limits.yml").write_text(limits)
    (tmp_path / "probe.yml").write_text(probe)
    assert thresholds.load(tmp_path / "limits.yml").limits
    assert probes.load(tmp_path / "probe.yml").prompts


def test_the_python_example_makes_a_set(page, tmp_path, monkeypatch):
    from hedgerow.models import quantize_calibration

    monkeypatch.chdir(tmp_path)
    (program,) = blocks(page, "python")
    exec(compile(program, "docs", "exec"), {})
    assert quantize_calibration.load(tmp_path / "samples.npz").feeds[0]["input"].shape == (32, 3, 224, 224)


def test_tables_name_what_there_is(page):
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    assert set(thresholds.METRICS) <= named
    assert set(SCHEMES) <= named
    assert {"full-power", "throttled", "cold-start"} <= named


def test_commands_have_the_options_that_are_typed(page):
    typed = [
        shlex.split(each)
        for block in blocks(page, "")
        for each in block.replace("\\\n", " ").splitlines()
        if each.startswith("hedgerow model") and "…" not in each
    ]
    assert {words[2] for words in typed} == {"quantize", "validate", "bench", "prove"}
    for words in typed:
        known = {
            name for each in model.commands[words[2]].params for name in each.opts if isinstance(each, click.Option)
        }
        assert {word for word in words if word.startswith("--")} <= known
