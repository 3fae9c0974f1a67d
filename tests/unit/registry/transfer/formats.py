"""Small model files, written by hand: what their formats say, and no more."""

from __future__ import annotations

import json
import struct

import numpy as np


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Written by hand: the format is this simple, and the package is no part of a device."""
    names = {np.dtype("float32"): "F32", np.dtype("int8"): "I8", np.dtype("float16"): "F16"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": names[values.dtype], "shape": values.shape, "data_offsets": [len(data), end]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf(tensors: dict[str, tuple[int, int, bytes]], alignment: int | None = None) -> bytes:
    """Name → type, number of weights, bytes; with a vocabulary before them, as language models have."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    words = b"".join(text(word) for word in ("<s>", "the", "hedge"))
    keys = [
        text("general.name") + struct.pack("<I", 8) + text("tiny"),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + words,
        text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + struct.pack("<3f", 0, 1, 2),
    ]
    if alignment is not None:
        keys.append(text("general.alignment") + struct.pack("<II", 4, alignment))
    step = alignment or 32
    table, data = b"", b""
    for name, (kind, count, content) in tensors.items():
        table += text(name) + struct.pack("<IQIQ", 1, count, kind, len(data))
        data += content + bytes(-len(content) % step)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
    return head + bytes(-len(head) % step) + data


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def initializer(name: str, dtype: int, data: bytes) -> bytes:
    return field(2, dtype) + field(8, name.encode()) + field(9, data)


def outside(name: str, dtype: int, **entries: str) -> bytes:
    parts = [field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries.items()]
    return field(2, dtype) + field(8, name.encode()) + b"".join(parts) + field(14, 1)


def onnx(*graph_fields: bytes) -> bytes:
    return field(1, 10) + field(2, b"a test") + field(7, b"".join(graph_fields)) + field(8, field(2, 21))
