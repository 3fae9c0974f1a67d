"""PyTorch's files by what is in them, read without PyTorch: one kind is taken, every other is refused with why.

Loading a file with PyTorch can mean running it. ``torch.load`` unpickles, and a pickle calls what it names;
``weights_only=True`` narrows that to a list, but ``torch.export.load`` goes on with ``weights_only=False`` where that
list refuses, and takes ``use_pickle`` from the archive itself (torch 2.13, ``_export/serde/serialize.py`` and
``export/pt2_archive/_package.py``). So PyTorch never gets the file as it came:

- every entry is read here, held to what ``torch.export.save`` writes for plain tensors, and written anew;
- nothing that is a pickle is among them: example inputs are left away, and weights are raw bytes;
- the program itself is JSON, and held to lists of its own (``hedgerow.models.torch_program``).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hedgerow.errors import RefusedError, UsageError
from hedgerow.models import quantize_files, torch_program
from hedgerow.models.torch_program import Input

EXPORT_IT: Final = 'torch.export.save(torch.export.export(model.eval(), inputs), "net.pt2"), PyTorch 2.9 or later'
_PROGRAM: Final = "models/model.json"
_SAMPLES: Final = "data/sample_inputs/model.pt"
_PAYLOADS: Final = {
    "data/weights": ("data/weights/model_weights_config.json", re.compile(r"weight_[0-9]{1,9}")),
    "data/constants": ("data/constants/model_constants_config.json", re.compile(r"tensor_[0-9]{1,9}")),
}
# Needed as they are; a number and a word each.
_MARKS: Final = ("archive_format", "archive_version", "byteorder", ".data/version")
# A pickle's first two bytes: its opcode PROTO and the protocol.
_PICKLES: Final = frozenset(bytes((0x80, protocol)) for protocol in (2, 3, 4, 5))
_MOST_MARK: Final = 64
_MOST_JSON: Final = 256 << 20


@dataclass(frozen=True)
class Archive:
    """A checked archive. ``entries`` is what PyTorch may have of it, by path; ``torch`` the version that wrote it."""

    path: Path
    entries: Mapping[str, bytes]
    inputs: tuple[Input, ...]
    ranges: Mapping[str, tuple[int | None, int | None]]
    torch: str

    def write(self, target: Path) -> None:
        """Write the archive that PyTorch gets: stored, in one folder, without times."""
        with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
            for name, data in self.entries.items():
                archive.writestr(zipfile.ZipInfo(f"model/{name}"), data)


def read(path: Path) -> Archive:
    """Read and check ``path``.

    Raises:
        UsageError: no such file, damaged, or nothing of PyTorch's.
        RefusedError: to load it may run what it says; the message names the rule.
    """
    _check_head(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    # OSError: a place before the file's start; RuntimeError: an entry that says it is encrypted.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"the archive is damaged or cut off: {error}", where=str(path), next_step="fetch it again"
        ) from error


def _check_head(path: Path) -> None:
    """Raise unless the file is a ZIP archive of a size that can be converted."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError("no file here", where=str(path), next_step="name a file of torch.export.save") from error
    if size > quantize_files.MAX_BYTES:
        raise UsageError(
            f"the file has {size / 1e9:.1f} GB; ONNX in one message stops at 2 GiB",
            where=str(path),
            next_step="import the model's checkpoint instead: --huggingface FOLDER",
        )
    if head[:2] in _PICKLES:
        raise _pickle("the file is a pickle (torch.save before 1.6, or plain pickle)", path)
    if head[257:262] == b"ustar":
        raise _pickle("the file is a tar archive of pickles (PyTorch before 0.1.10)", path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        raise UsageError(
            "this is a safetensors file: weights without a program",
            where=str(path),
            next_step="with config.json and tokenizer beside it: --huggingface FOLDER; else " + EXPORT_IT,
        )
    if head[:2] != b"PK":
        raise UsageError("this is no archive of PyTorch's", where=str(path), next_step="write one: " + EXPORT_IT)


def _read(archive: zipfile.ZipFile, path: Path) -> Archive:
    entries: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for entry in archive.infolist():
        root, _, name = entry.filename.partition("/")
        roots.add(root)
        if name in entries:
            raise UsageError(f"the archive has {name!r} twice", where=str(path), next_step="write it again")
        entries[name or root] = entry
    _check_kind(entries, path)
    if len(roots) != 1:
        raise UsageError("the archive has more than one folder", where=str(path), next_step="write it again")

    def take(name: str, most: int) -> bytes:
        found = entries.get(name)
        if found is None:
            raise UsageError(f"the archive has no {name}", where=str(path), next_step="write it again: " + EXPORT_IT)
        if found.compress_type != zipfile.ZIP_STORED or found.file_size > most:
            raise UsageError(
                f"{name} is compressed or too large; torch.export.save stores entries as they are",
                where=str(path),
                next_step="write it again: " + EXPORT_IT,
            )
        return archive.read(found)

    program = torch_program.check(_json(take(_PROGRAM, _MOST_JSON), _PROGRAM, path), path)
    kept = {name: take(name, _MOST_MARK) for name in _MARKS}
    if kept["byteorder"] != b"little":
        raise UsageError("the archive is not little-endian", where=str(path), next_step="write it on another machine")
    for folder, (name, pattern) in _PAYLOADS.items():
        config = _json(take(name, _MOST_JSON), name, path)
        payloads = _payloads(config, pattern, path)
        kept[name] = json.dumps(config, sort_keys=True).encode()
        for payload in payloads:
            kept[f"{folder}/{payload}"] = take(f"{folder}/{payload}", quantize_files.MAX_BYTES)
    kept[_PROGRAM] = json.dumps(program.document, sort_keys=True).encode()
    kept[_SAMPLES] = b""  # as an archive without example inputs has it
    return Archive(path, kept, program.inputs, program.ranges, program.torch)


def _check_kind(names: Mapping[str, Any], path: Path) -> None:
    """Raise unless these are the entries of one exported program."""
    if any(name.startswith("data/aotinductor/") or name.endswith((".so", ".cubin", ".o")) for name in names):
        raise RefusedError(
            "the archive holds machine code of AOTInductor (rule: no-machine-code)",
            where=str(path),
            next_step="export the program instead: " + EXPORT_IT,
        )
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise RefusedError(
            "this is TorchScript: a program whose operators may read and write files, in a form that PyTorch has given "
            "up and its ONNX exporter no longer takes (rule: no-torchscript)",
            where=str(path),
            next_step="export the model that it was made from: " + EXPORT_IT,
        )
    if "data.pkl" in names:
        raise _pickle("the file is a pickle in a ZIP archive (torch.save)", path)
    if "serialized_exported_program.json" in names:
        raise _pickle("the archive is torch.export's of before 2.8, whose weights are pickles", path)
    models = [name for name in names if name.startswith("models/")]
    if not models or "archive_format" not in names:
        raise UsageError("this is no archive of torch.export's", where=str(path), next_step="write one: " + EXPORT_IT)
    if models != [_PROGRAM]:
        raise UsageError(
            f"the archive has the programs {', '.join(sorted(models))}, not the one that torch.export.save writes",
            where=str(path),
            next_step="save the one that is meant: " + EXPORT_IT,
        )
    if {"data/weights/model.pt", "data/constants/model.pt"} & set(names):
        raise _pickle("the archive's weights are a pickle (torch.export of 2.8)", path)


def _payloads(config: Any, pattern: re.Pattern[str], path: Path) -> list[str]:
    """The names of raw payloads that ``config`` names, each once."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(each, dict) for each in entries.values()):
        raise UsageError("the archive's table of weights is none", where=str(path), next_step="write it again")
    found = []
    for name, entry in entries.items():
        file = entry.get("path_name")
        if entry.get("use_pickle") is not False or not isinstance(file, str) or not pattern.fullmatch(file):
            raise _pickle(f"{name!r} is kept as a pickle (a tensor of a class of its own, or no tensor at all)", path)
        found.append(file)
    torch_program.check_words(config, path)
    return sorted(set(found))


def _json(data: bytes, name: str, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no JSON: {error}", where=str(path), next_step="fetch it again") from error


def _pickle(what: str, path: Path) -> RefusedError:
    return RefusedError(
        f"{what}; a pickle runs what it names when it is loaded (rule: no-pickle)",
        where=str(path),
        next_step="where the model's source is: " + EXPORT_IT + "; or its weights as safetensors, for --huggingface",
    )
