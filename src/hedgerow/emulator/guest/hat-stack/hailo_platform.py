# ruff: noqa: INP001 - in a guest this is the package's __init__.py
"""Stand-in for Hailo's Python binding: the one call that Hedgerow makes, the chip's temperature."""

from pathlib import Path
from types import SimpleNamespace

_LIVE = Path("/hardware/live/hat_temperature_c")


class Device:
    """The first device found, as in the real binding; OSError-like failure where there is none."""

    def __init__(self) -> None:
        if not list(Path("/hardware").glob("sys/bus/pci/devices/*/driver")):
            raise RuntimeError("no Hailo device")
        self.control = self

    def get_chip_temperature(self) -> SimpleNamespace:
        text = _LIVE.read_text().strip()
        if text == "none":
            raise RuntimeError("temperature could not be read")
        return SimpleNamespace(ts0_temperature=float(text), ts1_temperature=float(text), sample_count=1)

    def release(self) -> None:
        """Give the device back."""
