"""TensorFlow Lite, HEF and genai folders: written here byte by byte, read, refused, bundled."""

import contextlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import file_imports, hef_file, tflite_file
from hedgerow.models.describing import Description
from hedgerow.models.file_imports import HefRequest, import_genai, import_hef, import_tflite
from hedgerow.models.importer import import_gguf, request_for_file
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Tensor


@pytest.fixture
def golden(tmp_path):
    path = tmp_path / "golden.json"
    values = {"name": "x", "shape": [1], "data": [1.0]}
    path.write_text(json.dumps([{"kind": "tensors", "inputs": [values], "outputs": [values], "atol": 0, "rtol": 0.1}]))
    return path


# A FlatBuffer is written back to front; this small writer goes the other way round, with places filled in later.
class Flat:
    def __init__(self):
        self.data = bytearray(b"\0\0\0\0TFL3")

    def table(self, fields):
        """``fields``: number → ("<I", value) | ("vector", bytes, count) | ("tables", [writers]); returns its place."""
        slots = max(fields) + 1
        vtable = len(self.data)
        self.data += struct.pack("<HH", 4 + 2 * slots, 4 + 4 * slots) + b"\0\0" * slots
        self.data += b"\0" * (-len(self.data) % 4)
        at = len(self.data)
        self.data += struct.pack("<i", at - vtable) + b"\0" * 4 * slots
        for number, (kind, *value) in fields.items():
            struct.pack_into("<H", self.data, vtable + 4 + 2 * number, 4 + 4 * number)
            place = at + 4 + 4 * number
            if kind == "vector":
                struct.pack_into("<I", self.data, place, len(self.data) - place)
                self.data += struct.pack("<I", value[1]) + value[0]
                self.data += b"\0" * (-len(self.data) % 4)
            elif kind == "tables":
                struct.pack_into("<I", self.data, place, len(self.data) - place)
                self.data += struct.pack("<I", len(value[0]))
                start = len(self.data)
                self.data += b"\0" * 4 * len(value[0])
                for index, fields_of in enumerate(value[0]):
                    entry = start + 4 * index
                    struct.pack_into("<I", self.data, entry, self.table(fields_of) - entry)
            else:
                struct.pack_into(kind, self.data, place, value[0])
        return at


def ints(*values):
    return ("vector", struct.pack(f"<{len(values)}i", *values), len(values))


def tensor(name, kind, shape, signature=None):
    fields = {0: ints(*shape), 1: ("<b", kind), 3: ("vector", name.encode(), len(name))}
    return fields | ({7: ints(*signature)} if signature else {})


def tflite(path, *, version=3, tensors=None, graphs=1, identifier=b"TFL3"):
    flat = Flat()
    tensors = tensors or [
        tensor("in", 9, (1, 8, 8, 3), (-1, 8, 8, 3)),
        tensor("mid", 0, (4,)),
        tensor("out", 0, (1, 4)),
    ]
    graph = {0: ("tables", tensors), 1: ints(0), 2: ints(len(tensors) - 1)}
    root = flat.table({0: ("<I", version), 2: ("tables", [graph] * graphs)})
    struct.pack_into("<I", flat.data, 0, root)
    flat.data[4:8] = identifier
    path.write_bytes(flat.data)
    return path


def test_a_tflite_file_says_its_tensors(tmp_path):
    found = tflite_file.read(tflite(tmp_path / "m.tflite"))
    assert found.version == 3
    assert found.inputs == (Tensor("in", "INT8", (-1, 8, 8, 3)),)
    assert found.outputs == (Tensor("out", "FP32", (1, 4)),)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"version": 2}, "schema version 2"),
        ({"graphs": 0}, "no graph"),
        ({"identifier": b"ABCD"}, "not a TensorFlow Lite file"),
        ({"tensors": [tensor("z", 8, (1,))]}, "type 8"),
    ],
)
def test_a_tflite_file_is_refused(tmp_path, fields, says):
    path = tflite(tmp_path / "m.tflite", **fields)
    with pytest.raises(UsageError, match=says):
        tflite_file.read(path)


@settings(max_examples=60)
@given(st.data())
def test_no_damage_to_a_tflite_file_is_a_traceback(tmp_path_factory, data):
    path = tflite(tmp_path_factory.mktemp("t") / "m.tflite")
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        at = data.draw(st.integers(0, len(raw) - 4))
        raw[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    path.write_bytes(raw)
    with contextlib.suppress(UsageError):  # and nothing else
        tflite_file.read(path)


def test_a_tflite_bundle(tmp_path, golden):
    path = tflite(tmp_path / "m.tflite")
    said = Description("keyword", "1.0.0", "Apache-2.0", golden=golden)
    one, two = (bundle.verify_files(import_tflite(path, said, cache=tmp_path / str(number))) for number in range(2))
    assert one.sha256 == two.sha256
    assert (one.manifest.format, one.manifest.schema) == ("tflite", 2)
    assert one.manifest.inputs[0].name == "in"


def test_a_tflite_model_that_cannot_be_asked_needs_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(file_imports, "_LITERT", "no_such_package")
    with pytest.raises(UsageError, match="cannot be asked here"):
        import_tflite(tflite(tmp_path / "m.tflite"), Description("a", "1.0.0", "MIT"), cache=tmp_path / "c")


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def hef(path, *, architecture=5, version=2, compiler=b"5.1.0", extra=b"", cut=0, magic=hef_file.MAGIC):
    header = (field(1, architecture) if architecture else b"") + field(2, 1_700_000_000)
    header += field(3, compiler) if compiler else b""
    message = field(1, header) + field(2, b"a network group" * 20) + field(3, b"mapping") + extra
    distinct = {0: 20, 1: 16, 2: 32, 3: 44}.get(version, 0)
    data = struct.pack(">III", magic, version, len(message)) + b"\xaa" * distinct + message + b"weights" * 9
    path.write_bytes(data[: len(data) - cut])
    return path


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "number, name", [(0, "hailo8"), (3, "hailo8l"), (5, "hailo10h"), (103, "hailo15h"), (104, None)]
)
def test_a_hef_says_its_chip(tmp_path, version, number, name):
    found = hef_file.read(hef(tmp_path / "m.hef", architecture=number, version=version))
    assert (found.format, found.number, found.architecture, found.compiler) == (version, number, name, "5.1.0")


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"magic": 0x46454801}, "not a HEF"),
        ({"version": 9}, "format version 9"),
        ({"cut": 300}, "truncated"),
        ({"extra": b"\xff" * 12}, "truncated or damaged"),
        ({"extra": b"\x0b"}, "kind 3"),
        ({"extra": field(1, b"")}, "no header"),
        ({"extra": varint(9 << 3 | 2) + varint(99)}, "ends after"),
    ],
)
def test_a_hef_is_refused(tmp_path, fields, says):
    path = hef(tmp_path / "m.hef", **fields)
    with pytest.raises(UsageError, match=says):
        hef_file.read(path)


def test_a_hef_bundle_needs_its_chip_and_the_range_that_was_said(tmp_path, golden):
    said = Description("detect", "1.0.0", "MIT", golden=golden)
    request = HefRequest(hef(tmp_path / "m.hef"), ">=5.1,<5.2", language=True)
    one, two = (bundle.verify_files(import_hef(request, said, cache=tmp_path / str(number))) for number in range(2))
    assert one.sha256 == two.sha256
    found = one.manifest
    assert (found.requires.hat, found.requires.hailort) == (("hat-plus-2",), ">=5.1,<5.2")
    assert (found.hailo.architecture, found.hailo.evidence, found.hailo.compiler) == ("hailo10h", "file", "5.1.0")
    assert {file.path for file in found.files} == {"model.hef", "hailo_llm.json"}


def test_a_chip_that_nobody_names_is_asked_for(tmp_path, golden):
    said = Description("detect", "1.0.0", "MIT", golden=golden)
    unknown = hef(tmp_path / "m.hef", architecture=104)
    with pytest.raises(UsageError, match="chip number 104"):
        import_hef(HefRequest(unknown, ">=5.1"), said, cache=tmp_path / "c")
    found = bundle.load(import_hef(HefRequest(unknown, ">=5.1", "hailo15l"), said, cache=tmp_path / "c")).manifest
    assert (found.hailo.architecture, found.hailo.evidence) == ("hailo15l", "operator")
    with pytest.raises(UsageError, match="no valid manifest"):
        import_hef(HefRequest(unknown, ">=5.1", "tpu"), said, cache=tmp_path / "c")


def test_two_names_for_one_chip_are_refused(tmp_path, golden):
    request = HefRequest(hef(tmp_path / "m.hef"), ">=5.1", "hailo8")
    with pytest.raises(UsageError, match="is for hailo10h, and --architecture says hailo8"):
        import_hef(request, Description("detect", "1.0.0", "MIT", golden=golden), cache=tmp_path / "c")


def test_a_hef_cannot_be_asked_here(tmp_path):
    with pytest.raises(UsageError, match="cannot be asked here"):
        import_hef(HefRequest(hef(tmp_path / "m.hef"), ">=5.1"), Description("a", "1.0.0", "MIT"))


@pytest.fixture(scope="module")
def genai(tiny_gguf, tmp_path_factory):
    home = tmp_path_factory.mktemp("genai")
    settings = {"name": "tiny", "version": "1.0.0", "quality": "fast", "license_id": "MIT", "license_file": None}
    return import_gguf(request_for_file(tiny_gguf, **settings), cache=home)


@pytest.fixture
def folder(genai, tmp_path):
    target = tmp_path / "genai"
    target.mkdir()
    for file in genai.iterdir():
        if file.name != "manifest.json":
            (target / file.name).write_bytes(file.read_bytes())
    (target / ".cache").mkdir()
    return target


def test_a_genai_folder_becomes_a_bundle(genai, folder, tmp_path):
    said = Description("tiny", "1.0.0", "MIT")
    found = bundle.verify_files(import_genai(folder, said, cache=tmp_path / "c")).manifest
    want = bundle.load(genai).manifest
    assert found.files == want.files
    assert found.golden == want.golden
    assert found.requires == want.requires


def change(folder, edit):
    path = folder / "genai_config.json"
    document = json.loads(path.read_text())
    edit(document["model"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "edit, says",
    [
        (lambda model: model["decoder"].update(filename="../model.onnx"), "no '../model.onnx'"),
        (lambda model: model["decoder"].update(filename="gone.onnx"), "no 'gone.onnx'"),
        (lambda model: model["decoder"].pop("filename"), "names no model"),
        (lambda model: model["decoder"]["session_options"].update(custom_ops_library="x.so"), "loads a library"),
    ],
)
def test_a_genai_folder_is_refused(folder, tmp_path, edit, says):
    change(folder, edit)
    with pytest.raises(UsageError, match=says):
        import_genai(folder, Description("tiny", "1.0.0", "MIT"), cache=tmp_path / "c")


def test_weights_that_are_not_there_are_named(folder, tmp_path):
    (folder / "model.onnx.data").unlink()
    with pytest.raises(UsageError, match=r"model\.onnx\.data"):
        import_genai(folder, Description("tiny", "1.0.0", "MIT"), cache=tmp_path / "c")


def test_a_model_that_does_not_load_is_told_in_the_librarys_words(folder, tmp_path):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PublisherError, match="cannot load the model"):
        import_genai(folder, Description("tiny", "1.0.0", "MIT"), cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
