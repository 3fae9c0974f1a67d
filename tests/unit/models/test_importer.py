import errno
import json
import shutil
from dataclasses import replace

import pytest

from hedgerow.errors import MachineError, PublisherError, UsageError
from hedgerow.models import importer
from hedgerow.models.golden import Question
from hedgerow.models.importer import ImportRequest, export, import_gguf, request_for_file
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Source


@pytest.fixture
def request_(tiny_gguf, tmp_path):
    license_file = tmp_path / "LICENSE"
    license_file.write_text("do as you like\n")
    return ImportRequest(tiny_gguf, "tiny", "1.2.0", "Apache-2.0", (Source("tiny.gguf"),), license_file, "A tiny one")


def test_a_bundle_is_whole_and_says_what_it_is(request_, tmp_path):
    steps = []
    place = import_gguf(request_, cache=tmp_path / "cache", progress=lambda *step: steps.append(step))
    found = bundle.verify_files(place).manifest
    assert (found.name, found.version, found.format, found.license) == ("tiny", "1.2.0", "onnx-genai", "Apache-2.0")
    assert {file.path for file in found.files} == {
        "LICENSE", "genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert found.quantization.bits == 4
    assert found.features == {"chat": True}
    assert found.license_file == "LICENSE"
    assert set(found.provenance.tools) == {"gguf", "numpy", "onnx", "onnxruntime", "onnxruntime-genai"}
    assert ("quantize", 2, 2) in steps
    config = json.loads((place / "genai_config.json").read_text())["model"]
    assert (config["vocab_size"], config["decoder"]["num_key_value_heads"], config["eos_token_id"]) == (263, 2, 2)


@pytest.mark.parametrize("quality", ["fast", "faithful"])
def test_the_same_input_gives_the_same_bytes(request_, tmp_path, quality):
    request_ = replace(request_, quality=quality)
    moved = replace(request_, gguf=shutil.copy(request_.gguf, tmp_path / "tiny.gguf"))
    moved = replace(moved, gguf=tmp_path / "tiny.gguf")
    one, two = (
        bundle.load(import_gguf(request, cache=tmp_path / f"cache-{number}"))
        for number, request in enumerate((request_, moved))
    )
    assert one.manifest.files == two.manifest.files
    assert one.sha256 == two.sha256
    assert one.directory.name == two.directory.name


def test_a_second_import_answers_from_the_cache(request_, tmp_path, monkeypatch):
    place = import_gguf(request_, cache=tmp_path)
    monkeypatch.setattr(importer, "build_graph", None)  # would fail if it were called
    assert import_gguf(request_, cache=tmp_path) == place


def test_another_quality_is_another_bundle(request_, tmp_path):
    places = {import_gguf(replace(request_, quality=quality), cache=tmp_path) for quality in ("fast", "faithful")}
    assert len(places) == 2


@pytest.mark.parametrize("damage", ["truncate", "extra", "manifest"])
def test_a_damaged_cache_is_built_anew(request_, tmp_path, damage):
    cache = tmp_path / "cache"
    place = import_gguf(request_, cache=cache)
    identity = bundle.load(place).sha256
    if damage == "truncate":
        data = place / "model.onnx.data"
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "extra":
        (place / "left-over").touch()
    else:
        (place / "manifest.json").unlink()
    assert bundle.verify_files(import_gguf(request_, cache=cache)).sha256 == identity


def left_in(cache):
    return [path.name for path in cache.iterdir()]


def test_a_failed_golden_run_leaves_nothing(request_, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(PublisherError, match="golden run failed"):
        import_gguf(replace(request_, questions=(Question("hello", must_contain="Paris"),)), cache=cache)
    assert left_in(cache) == []


def test_a_full_disk_is_told_and_leaves_nothing(request_, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = tmp_path / "cache"
    monkeypatch.setattr(importer, "build_graph", full)
    with pytest.raises(MachineError, match="the disk is full"):
        import_gguf(request_, cache=cache)
    assert left_in(cache) == []


def test_an_interruption_leaves_nothing(request_, tmp_path, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    monkeypatch.setattr(importer, "build_graph", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_gguf(request_, cache=cache)
    assert left_in(cache) == []


@pytest.mark.parametrize(
    "change, said",
    [
        ({"quality": "best"}, "no quality is called 'best'"),
        ({"version": "1"}, "no bundle name and version"),
        ({"name": "../x"}, "no bundle name and version"),
    ],
)
def test_wrong_use_is_told_before_anything_is_built(request_, tmp_path, change, said):
    with pytest.raises(UsageError, match=said):
        import_gguf(replace(request_, **change), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_checkpoint_without_chat_template_is_refused(write_tiny, tmp_path):
    request = ImportRequest(write_tiny(template=None), "tiny", "1.0.0", "MIT", (Source("x"),))
    with pytest.raises(UsageError, match="no chat template"):
        import_gguf(request, cache=tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_a_missing_license_file_is_named(request_, tmp_path):
    with pytest.raises(UsageError, match="no license file here"):
        import_gguf(replace(request_, license_file=tmp_path / "absent"), cache=tmp_path / "cache")


def describe(path, **changes):
    arguments = {"name": "a", "version": "1.0.0", "quality": "fast", "license_id": None, "license_file": None}
    return request_for_file(path, **(arguments | changes))


def test_license_comes_from_the_metadata_or_the_command(write_tiny):
    assert describe(write_tiny()).license == "Apache-2.0"
    other = write_tiny(metadata={"general.license": "other"})
    assert describe(other, license_id="LicenseRef-x").license == "LicenseRef-x"
    with pytest.raises(UsageError, match="license is 'other'"):
        describe(other)


def test_export_copies_and_never_overwrites(request_, tmp_path):
    place = import_gguf(request_, cache=tmp_path / "cache")
    output = export(place, tmp_path / "out" / "bundle")
    assert bundle.verify_files(output).sha256 == bundle.load(place).sha256
    assert export(place, output) == output
    other = import_gguf(replace(request_, version="1.3.0"), cache=tmp_path / "cache")
    with pytest.raises(UsageError, match="not empty"):
        export(other, output)
    assert bundle.load(output).manifest.version == "1.2.0"
    assert left_in(output.parent) == ["bundle"]


def test_of_two_imports_at_once_the_second_takes_the_firsts_bundle(request_, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    build = importer._build

    def overtaken(*arguments):
        monkeypatch.setattr(importer, "_build", build)
        import_gguf(request_, cache=cache)
        build(*arguments)

    monkeypatch.setattr(importer, "_build", overtaken)
    place = import_gguf(request_, cache=cache)
    assert left_in(cache) == [place.name]
    bundle.verify_files(place)
