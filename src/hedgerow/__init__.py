"""Hedgerow: fleets of Raspberry Pi 5 + AI HAT+ 2, from a blank card to signed generative-AI endpoints."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """``__version__`` when somebody asks: it takes longer to look up than most modules take to import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hedgerow")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0.0.0"
