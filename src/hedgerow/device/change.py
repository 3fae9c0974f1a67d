"""What a command changes on a device, and how it is written: a model, the runtime, or the server's configuration.

``assistant@1.1.0`` is a version of a model. ``runtime:0.1.0+3f9c2d81aa04`` and ``configuration:9b1f6a2c77de`` are what
they say: no name of a model has a colon, so nothing is both. ``runtime@1.0.0`` is a model that somebody called so.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from hedgerow.errors import UsageError
from hedgerow.registry.reference import Reference

Kind = Literal["model", "runtime", "configuration"]
"""What has versions on a device, of which one is in service."""

RESTARTING: tuple[Kind, ...] = ("runtime", "configuration")
"""Kinds whose version the server takes up when it starts, and not before."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")
_DIGITS = 12


@dataclass(frozen=True)
class Change:
    """One version of one thing. ``name`` is the model's; the other kinds have their own as name."""

    kind: Kind
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.kind == "model" else f"{self.kind}:{self.version}"

    @classmethod
    def of(cls, kind: Kind, version: str) -> Change:
        """A version of the runtime or of the configuration."""
        return cls(kind, kind, version)

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read ``name@version``, ``runtime:version`` or ``configuration:version``.

        Raises:
            UsageError: none of them.
        """
        scheme, colon, version = text.partition(":")
        if not colon:
            reference = Reference.parse(text)
            return cls("model", reference.name, reference.version)
        for kind in RESTARTING:
            if scheme == kind and _VERSION.fullmatch(version):
                return cls.of(kind, version)
        raise UsageError(
            f"{text!r} names nothing that has versions here",
            next_step="write a model like assistant@1.0.0, or runtime:VERSION, or configuration:VERSION",
        )


def configuration_version(data: bytes) -> str:
    """The version of a ``server.yml``: its content's short hash, so that the same text is the same version anywhere."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
