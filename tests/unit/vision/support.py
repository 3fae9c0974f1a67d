"""What tests of cameras share: pictures with known characters in them, videos, a model and a server that answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import server_support as support
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

from hedgerow.server.config import Limits
from hedgerow.vision.client import Answer, Metadata, Spec
from hedgerow.vision.config import Model

# 5 × 7 dots, as every character display has them.
_FONT = {
    "A": ("01110", "10001", "10001", "11111", "10001", "10001", "10001"),
    "E": ("11111", "10000", "10000", "11110", "10000", "10000", "11111"),
    "H": ("10001", "10001", "10001", "11111", "10001", "10001", "10001"),
    "8": ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
}
Box = tuple[int, int, int, int]


def picture(
    size: tuple[int, int], characters: Iterable[tuple[str, int, int, int]]
) -> tuple[NDArray[np.uint8], list[Box]]:
    """White, with ``(character, left, top, dot)`` in black; and where they are."""
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    boxes = []
    for character, left, top, dot in characters:
        dots = np.array([[int(each) for each in row] for row in _FONT[character]], bool)
        mask = np.kron(dots, np.ones((dot, dot), bool))
        image[top : top + 7 * dot, left : left + 5 * dot][mask] = 20
        boxes.append((left, top, left + 5 * dot, top + 7 * dot))
    return image, boxes


def frame(image: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def write_video(path: Path, images: Iterable[NDArray[np.uint8]], *, rate: int = 25) -> Path:
    """Losslessly, so that a test knows every pixel."""
    with av.open(str(path), "w") as container:
        stream: Any = None
        for number, image in enumerate(images):
            if stream is None:
                stream = container.add_stream("ffv1", rate=rate)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "bgr0"
                stream.time_base = Fraction(1, rate)
            each = frame(image).reformat(format="bgr0")
            each.pts, each.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(each))
        container.mux(stream.encode(None))
    return path


def plain(value: int, size: tuple[int, int] = (64, 48)) -> NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), value, np.uint8)


@dataclass
class Answering:
    """A model in memory with YOLOv8's output: ``says`` makes (centre x, y, width, height, score …) rows of a tensor."""

    says: Callable[[NDArray[Any]], list[tuple[float, ...]]]
    size: tuple[int, int] = (64, 64)
    version: str = "1"
    seen: list[NDArray[Any]] = field(default_factory=list)
    asked: int = 0
    gate: threading.Semaphore | None = None

    def metadata(self) -> Metadata:
        self.asked += 1
        width, height = self.size
        return Metadata((Spec("images", "FP32", (1, 3, height, width)),), (Spec("out", "FP32", (1, 5, -1)),))

    def infer(self, name: str, tensor: NDArray[Any]) -> Answer:
        assert name == "images"
        if self.gate is not None:
            assert self.gate.acquire(timeout=support.PATIENCE_S)
        self.seen.append(tensor)
        rows = np.array(self.says(tensor) or np.empty((0, 5)), np.float32)
        return Answer(self.version, {"out": rows.T[None]})


def model(**settings: Any) -> Model:
    return Model(**({"name": "detector", "decoder": "yolov8"} | settings))


def serve(repository: Path) -> support.InProcess:
    """The real server over ``repository``, its models loaded."""
    import asyncio

    def prepare(plane: Any) -> None:
        opened = threading.Thread(target=lambda: asyncio.run(plane.open_repository()))
        opened.start()
        opened.join()

    return support.InProcess(prepare, repository, Limits())


def certificate(folder: Path, name: str) -> Path:
    """A certificate that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path
