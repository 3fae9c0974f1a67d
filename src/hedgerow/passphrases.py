"""Passphrases and PINs: from a file for one key, a file for all keys, or a person at a terminal.

Never from an argument or the environment, which every process of the same user can read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hedgerow import secretfile
from hedgerow.errors import UsageError


class Passphrases:
    """Where passphrases and PINs come from: a file for one key, a file for all, a person.

    ``files`` maps a key's name to a file, ``None`` meaning every other key. ``ask`` gets the text of a question.
    """

    def __init__(self, files: Mapping[str | None, Path] | None = None, ask: Callable[[str], str] | None = None) -> None:
        self._files = dict(files or {})
        self._ask = ask
        self._known: dict[str, str] = {}

    def of(self, name: str, entry_file: Path | None = None) -> str:
        """The passphrase of the key ``name``.

        Raises:
            UsageError: there is neither a file nor a person, or everybody may read the file.
        """
        if name not in self._known:
            self._known[name] = self._find(name, self._files.get(name) or entry_file or self._files.get(None))
        return self._known[name]

    def _find(self, name: str, path: Path | None) -> str:
        if path is not None:
            return read_passphrase(path)
        if self._ask is None:
            raise UsageError(
                f"the key {name} needs its passphrase",
                next_step=f"--passphrase-file {name}=FILE, or run it at a terminal",
            )
        return self._ask(f"passphrase or PIN of the key {name}")


def read_passphrase(path: Path) -> str:
    """The first line of a file that others may not read.

    Raises:
        UsageError: it is missing, public or empty.
    """
    try:
        with path.open("rb") as file:
            secretfile.refuse_public(file, path)
            text = file.readline().decode().rstrip("\r\n")
    except FileNotFoundError as error:
        raise UsageError("there is no file with the passphrase", where=str(path)) from error
    if not text:
        raise UsageError("the file with the passphrase is empty", where=str(path))
    return text
