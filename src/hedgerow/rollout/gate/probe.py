"""The gate's own question to a host is the bundle's: ``hedgerow.registry.probe``, which devices put to themselves."""

from __future__ import annotations

from hedgerow.registry.probe import Probe, Question, ask, choose, wrong

__all__ = ["Probe", "Question", "ask", "choose", "wrong"]
