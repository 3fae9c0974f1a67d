import struct

import gguf
import numpy as np
import pytest

from hedgerow.errors import ExitCode, UsageError
from hedgerow.models.gguf_file import GgufFile


def test_reads_what_the_gguf_packages_own_reader_reads(tiny_gguf):
    reader = gguf.GGUFReader(tiny_gguf)
    with GgufFile(tiny_gguf) as file:
        assert set(file.tensors) == {tensor.name for tensor in reader.tensors}
        for tensor in reader.tensors:
            expected = gguf.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(file.tensor(tensor.name), expected)
        for key, field in reader.fields.items():
            if not key.startswith("GGUF."):
                assert file.metadata[key] == field.contents(), key


def test_truncation_names_the_file_and_both_sizes(tiny_gguf, tmp_path):
    whole = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-1000])
    with pytest.raises(UsageError) as caught:
        GgufFile(cut)
    assert caught.value.where == str(cut)
    assert f"the file has {len(whole) - 1000:,}" in caught.value.what
    assert f"{len(whole):,} bytes" in caught.value.what
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("size", [4, 5, 20, 23, 40, 300, 2000])
def test_truncated_header_is_told_too(tiny_gguf, tmp_path, size):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:size])
    with pytest.raises(UsageError, match=rf"truncated.*the file has {size:,}"):
        GgufFile(cut)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty"),
        (b"PK\x03\x04 a wheel, not what is inside", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, said):
    path = tmp_path / "odd.gguf"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        GgufFile(path)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no GGUF file here"):
        GgufFile(tmp_path / "absent.gguf")


def test_unknown_tensor_type_is_named(tmp_path):
    name = b"odd.weight"
    tensor = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 32, 999, 0)
    path = tmp_path / "odd.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + bytes(200))
    with pytest.raises(UsageError, match=r"odd\.weight has the unknown type 999"):
        GgufFile(path)


def test_a_count_larger_than_the_file_is_truncation_not_memory(tmp_path):
    key = b"a"
    value = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 5, 1 << 60)
    path = tmp_path / "huge.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + value)
    with pytest.raises(UsageError, match="truncated"):
        GgufFile(path)


def test_quantization_that_cannot_be_undone(tiny_gguf, monkeypatch):
    def refuse(_data, kind):
        raise NotImplementedError(kind)

    monkeypatch.setattr(gguf, "dequantize", refuse)
    with GgufFile(tiny_gguf) as file, pytest.raises(UsageError, match="quantized as Q8_0, which"):
        file.tensor("token_embd.weight")
