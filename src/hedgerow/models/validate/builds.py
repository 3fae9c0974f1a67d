"""A build to compare: the ONNX model of a bundle, of one of its variants, of a folder or of a bare file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.genai import CONFIG_FILE, Generator
from hedgerow.models.quantize_calibration import Feed
from hedgerow.models.quantize_golden import NUMPY_TYPES, Golden
from hedgerow.registry import bundle, manifest, variants
from hedgerow.registry.manifest import FILE_NAME, Manifest

Array = NDArray[Any]
_PAST: Final = "past_key_values"


@dataclass(frozen=True)
class Build:
    """``model`` is the ONNX file; ``folder`` what onnxruntime-genai opens; ``document`` the manifest, if any."""

    label: str
    model: Path
    folder: Path
    document: Manifest | None

    @property
    def generates(self) -> bool:
        """Whether this is a text generator."""
        return (self.folder / CONFIG_FILE).is_file()

    @property
    def golden(self) -> tuple[Golden, ...]:
        """What the model is asked as it is; its adapters are proven where they are loaded."""
        found = self.document.golden if self.document is not None else ()
        return tuple(each for each in found if getattr(each, "adapter", None) is None)

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        from hedgerow.models.quantize_files import files_of

        return sum(each.stat().st_size for each in files_of(self.model))


@contextmanager
def opened(place: Path, variant: str | None = None) -> Iterator[Build]:
    """The build at ``place``, checked against its manifest where it has one; a variant is laid out as hosts have it.

    Raises:
        UsageError: nothing usable there, or no such variant.
        PublisherError: a file is not what the manifest says.
    """
    if place.is_file():
        if variant is not None:
            raise UsageError("a bare file has no variants", where=str(place), next_step="leave out the variant")
        yield Build(place.name, place, place.parent, None)
        return
    if not (place / FILE_NAME).is_file():
        yield Build(place.name, _the_model(place), place, None)
        return
    whole = bundle.verify_files(place)
    name = variant or (whole.manifest.variants[0].name if whole.manifest.variants else manifest.ONLY)
    document = variants.take(whole.manifest, name)
    label = f"{document.reference}" + (f" ({document.variant})" if document.variant else "")
    if not whole.manifest.variants:
        yield Build(label, _the_model(place), place, document)
        return
    with _folder_beside(place) as folder:
        for path, source in variants.where_from(whole.manifest, name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            _same_file(place / source, folder / path)
        yield Build(label, _the_model(folder), folder, document)


@contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """A folder on the same disk, where there is a right to one: hard links do not leave a disk."""
    beside = place.parent if os.access(place.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{place.name}.variant.") as folder:
        yield Path(folder)


def _same_file(source: Path, link: Path) -> None:
    """A hard link, else a copy. No symbolic one: weights outside the model's own folder are refused, here too."""
    try:
        link.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, link)


def _the_model(folder: Path) -> Path:
    models = sorted(folder.glob("*.onnx"))
    if len(models) != 1:
        raise UsageError(
            f"{len(models)} ONNX models here; one is compared", where=str(folder), next_step="name a bundle or a file"
        )
    return models[0]


class Session:
    """A model in onnxruntime. ``threads`` 0 lets the runtime choose."""

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads fight with whatever else runs on these cores (bench/README.md has the figures).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise PublisherError(
                f"onnxruntime cannot load this model: {error}", where=str(model), next_step="import it again"
            ) from error
        self.shapes: dict[str, list[Any]] = {each.name: each.shape for each in self._session.get_inputs()}
        self.types: dict[str, str] = {each.name: each.type for each in self._session.get_inputs()}
        self.outputs: list[str] = [each.name for each in self._session.get_outputs()]

    def run(self, feed: Feed) -> list[Array]:
        """Every output, in the order of ``outputs``; inputs are cast to the model's types."""
        cast = {
            name: np.asarray(feed[name]).astype(NUMPY_TYPES.get(self.types[name], np.float32)) for name in self.types
        }
        return [np.asarray(each) for each in self._session.run(self.outputs, cast)]

    def logits(self, tokens: Sequence[int]) -> Array:
        """``(tokens, vocabulary)`` of a decoder with an empty cache.

        Raises:
            UsageError: the model has no such inputs, or gives the last token's logits alone.
        """
        ones = np.ones((1, len(tokens)), dtype=np.int64)
        feed: dict[str, Array] = {"input_ids": np.asarray([tokens]), "attention_mask": ones}
        feed["position_ids"] = np.arange(len(tokens))[None]
        for name, shape in self.shapes.items():
            if name.startswith(_PAST):  # (batch, heads, past, head size): the fixed ones are heads and head size
                feed[name] = np.zeros([1, *(each if isinstance(each, int) else 0 for each in shape[1:])])
        if not set(self.types) <= set(feed) or "logits" not in self.outputs:
            raise UsageError(
                f"no decoder: its inputs are {', '.join(self.types)}", next_step="probe it with .npz inputs"
            )
        found: Array = self.run(feed)[self.outputs.index("logits")][0]
        if len(found) != len(tokens):
            raise UsageError(
                "the model gives the last token's logits only, so texts cannot be compared token by token",
                next_step="build it with logits of every token, or leave texts out of the probe",
            )
        return found


def generator(build: Build) -> Generator:
    """The build in onnxruntime-genai."""
    return Generator(build.folder)
