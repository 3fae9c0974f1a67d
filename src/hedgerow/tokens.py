"""PKCS#11 tokens: how a key in one is named, and where the library that speaks to it is.

A key is ``hsm:ID?label=TOKEN``, as securesystemslib writes it: ``ID`` is its CKA_ID as a decimal number, ``TOKEN`` the
label of the token. The library is a path that configuration names, or ``PYKCS11LIB``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlparse

SCHEME: Final = "hsm"
VARIABLE: Final = "PYKCS11LIB"
_PIV_SIGNATURE = 2  # what securesystemslib takes where no number is named: slot 9c of a PIV token


def name_module(pkcs11_module: str | None) -> Path | None:
    """Tell securesystemslib which library speaks to the token (it reads the environment alone); None: not here."""
    if pkcs11_module is not None:
        os.environ[VARIABLE] = pkcs11_module
    module = os.environ.get(VARIABLE)
    return Path(module) if module is not None and Path(module).exists() else None


def label(uri: str) -> str | None:
    """The token that holds the key; None where any will do."""
    return dict(parse_qsl(urlparse(uri).query)).get("label")


def number(uri: str) -> int:
    """The key's CKA_ID as a number.

    Raises:
        ValueError: it is none.
    """
    path = urlparse(uri).path
    return int(path) if path else _PIV_SIGNATURE


def is_here(uri: str, pkcs11_module: str | None) -> bool:
    """Whether the token that ``uri`` names is plugged in."""
    module = name_module(pkcs11_module)
    if module is None:
        return False
    import pkcs11  # here: a library that only tokens need

    wanted = label(uri)
    return any(wanted is None or token.label == wanted for token in pkcs11.lib(str(module)).get_tokens())
