"""Hedgerow: fleets of Raspberry Pi 5 + AI HAT+ 2, from a blank card to signed generative-AI endpoints."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hedgerow")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0"
