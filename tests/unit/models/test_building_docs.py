"""docs/building-models.md: its commands can be typed, its example is read, its tables name what there is."""

import re
import shlex
from pathlib import Path

import pytest

from hedgerow.commands.model import model
from hedgerow.models import (
    application_unit,
    describing,
    oci_layers,
    oci_root,
    oci_unit,
    pack_application,
    torch_archive,
    torch_program,
)
from hedgerow.registry import manifest
from hedgerow.registry.manifest import GoldenText, Quantization, Requires

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def page():
    return (ROOT / "docs/building-models.md").read_text(encoding="utf-8")


def typed(page):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for kind, block in blocks if not kind for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(hedgerow model [^`]+)`", page)
    return [shlex.split(line) for line in lines if line.startswith("hedgerow model")]


def test_commands_can_be_typed(page):
    seen = set()
    for _, _, name, *words in typed(page):
        command = model.commands[name]
        options = {text: option for option in command.params for text in option.opts}
        rest = iter(words)
        for word in rest:
            if word.startswith("--"):
                assert word in options, f"{name} {word}"
                if not options[word].is_flag:
                    next(rest)
        seen.add(name)
    assert seen == {"import", "pack-runtime", "pack-adapter", "attach", "pack-application"}


def test_every_source_is_shown(page):
    from hedgerow.commands.model_import import SOURCES

    shown = {word.removeprefix("--") for words in typed(page) for word in words}
    assert set(SOURCES) <= shown


def test_the_golden_example_is_read(page, tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "golden.json").write_text(text)
    assert len(describing.read_golden(tmp_path / "golden.json")) == 2


def test_the_manifests_new_fields_are_all_named(page):
    table = page.rpartition("## The manifest")[2]
    named = set(re.findall(r"`([a-z_.]+)`", table))
    parts = {f"quantization.{name}" for name in manifest.NEW_IN_2[Quantization]}
    assert parts <= named
    assert {f"golden.{name}" for name in manifest.NEW_IN_2[GoldenText]} <= named
    assert {"requires.board", *manifest.NEW_IN_2[Requires][1:]} <= named
    assert set(manifest.NEW) <= named


def test_rules_of_refusals_are_all_named(page):
    sources = [
        Path(module.__file__).read_text()
        for module in (application_unit, oci_layers, oci_root, oci_unit, pack_application)
    ]
    rules = {rule for source in sources for rule in re.findall(r"\(rule: ([a-z-]+)\)", source)}
    assert len(rules) == 9
    missing = {rule for rule in rules if rule not in page}
    assert not missing


def test_rules_of_pytorchs_files_are_all_named(page):
    sources = [Path(module.__file__).read_text() for module in (torch_archive, torch_program)]
    rules = {rule for source in sources for rule in re.findall(r"\(rule: ([a-z-]+)\)", source)}
    rules |= {rule for source in sources for rule in re.findall(r'"(known-[a-z]+)"', source)}
    table = page.partition("### PyTorch")[2].partition("### TensorFlow Lite")[0]
    assert rules == set(re.findall(r"^\| ([a-z]+-[a-z-]+) \|", table, re.MULTILINE))
