"""What a command changes on a device, and how it is written: a model, the runtime, a configuration, an application.

``assistant@1.1.0`` is a version of a model. ``runtime:0.1.0+3f9c2d81aa04``, ``configuration:9b1f6a2c77de`` and
``application:kiosk@1.0.0`` are what they say: no name of a model has a colon, so nothing is both. ``runtime@1.0.0`` is
a model that somebody called so; ``kiosk@1.0.0`` is an application where a device's configuration says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from hedgerow.errors import UsageError
from hedgerow.registry.reference import Reference

Kind = Literal["model", "runtime", "configuration", "application"]
"""What has versions on a device, of which one is in service."""

RESTARTING: tuple[Kind, ...] = ("runtime", "configuration")
"""Kinds whose version the server takes up when it starts, and not before."""

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,127}")
_DIGITS = 12


@dataclass(frozen=True)
class Change:
    """One version of one thing. ``name`` is the model's or the application's; the other kinds have their own."""

    kind: Kind
    name: str
    version: str

    def __str__(self) -> str:
        if self.kind == "application":
            return f"{self.kind}:{self.name}@{self.version}"
        return f"{self.name}@{self.version}" if self.kind == "model" else f"{self.kind}:{self.version}"

    @classmethod
    def of(cls, kind: Kind, version: str) -> Change:
        """A version of the runtime or of the configuration."""
        return cls(kind, kind, version)

    @classmethod
    def parse(cls, text: str, applications: Collection[str] = ()) -> Change:
        """Read ``name@version``, ``runtime:version``, ``configuration:version`` or ``application:name@version``.

        ``applications`` are names that mean one without its kind before them.

        Raises:
            UsageError: none of them.
        """
        scheme, colon, version = text.partition(":")
        if not colon or scheme == "application":
            reference = Reference.parse(version if colon else text)
            is_application = bool(colon) or reference.name in applications
            return cls("application" if is_application else "model", reference.name, reference.version)
        for kind in RESTARTING:
            if scheme == kind and _VERSION.fullmatch(version):
                return cls.of(kind, version)
        raise UsageError(
            f"{text!r} names nothing that has versions here",
            next_step=(
                "write a model like assistant@1.0.0, or runtime:VERSION, configuration:VERSION,"
                " application:NAME@VERSION"
            ),
        )


def configuration_version(data: bytes) -> str:
    """The version of a ``server.yml``: its content's short hash, so that the same text is the same version anywhere."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]
