"""The unit that an image's configuration makes: what it starts, with which words, where. Its user is not asked.

https://github.com/opencontainers/image-spec: ``config.md`` (Entrypoint, Cmd, Env, WorkingDir, StopSignal, Volumes) and
``conversion.md`` (Cmd follows Entrypoint; the environment is kept as it is). ``User`` is not taken over: whoever it
names would be one of the device's users by that number, so it runs as one that systemd makes up, as all applications.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from hedgerow.device import application_unit as on_device
from hedgerow.errors import RefusedError, UsageError
from hedgerow.models.oci_tree import File, Tree, TreeError

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 _/.,:=@+-[](){}*?!&|<>#~^")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BUILD: Final = "build the image with one that is"
_WRITABLE: Final = re.compile(r"(/var)?/tmp(/|$)")
"""Of every application; a volume there needs nothing."""


@dataclass(frozen=True)
class Started:
    """``words`` it is started with, the first a path in the image; ``volumes`` are paths without links."""

    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    folder: str
    volumes: tuple[str, ...]
    signal: str | None


def read(config: dict[str, Any], tree: Tree, where: str) -> Started:
    """What ``config`` starts in ``tree``.

    Raises:
        UsageError: it starts nothing, or nothing that the image has.
    """
    words = (*_strings(config, "Entrypoint", where), *_strings(config, "Cmd", where))
    if not words or not words[0]:
        raise UsageError("the image starts nothing: it has no Entrypoint and no Cmd", where=where, next_step=_BUILD)
    environment = tuple(_variable(text, where) for text in _strings(config, "Env", where))
    folder = config.get("WorkingDir") or "/"
    if not isinstance(folder, str) or not folder.startswith("/"):
        raise UsageError(f"its WorkingDir {folder!r} is no absolute path", where=where, next_step=_BUILD)
    signal = config.get("StopSignal")
    if signal is not None and not (isinstance(signal, str) and re.fullmatch(r"SIG[A-Z0-9+-]{2,12}|\d{1,2}", signal)):
        raise UsageError(f"its StopSignal {signal!r} is no signal", where=where, next_step=_BUILD)
    volumes = config.get("Volumes") or {}
    if not isinstance(volumes, dict):
        raise UsageError("its Volumes are no paths", where=where, next_step=_BUILD)
    try:
        # By their real names: systemd mounts over no link.
        folder, *paths = ["/" + "/".join(tree.find(f"/{each}").path) for each in (folder, *volumes)]
        program = _program(words[0], dict(environment).get("PATH", _PATH), folder, tree)
    except TreeError as error:
        raise UsageError(f"a path of its configuration {error}", where=where, next_step=_BUILD) from error
    if program is None:
        raise UsageError(f"the image has no {words[0]} that could be started", where=where, next_step=_BUILD)
    kept = tuple(sorted({path for path in paths if not _WRITABLE.match(path)}))
    return Started((program, *words[1:]), environment, folder, kept, signal)


def text(started: Started, description: str) -> str:
    """A unit as a folder would have it; the device makes its own of it (``hedgerow.device.application_unit``)."""
    lines = [
        "[Unit]",
        f"Description={description}",
        "",
        "[Service]",
        f"ExecStart={' '.join(_word(each, dollars=True) for each in started.words)}",
        # It owns no folder of the image; the image's own HOME comes after.
        "Environment=HOME=/tmp",
        *(f"Environment={_word(f'{name}={value}')}" for name, value in started.environment),
        f"WorkingDirectory={started.folder}",
        *(f"TemporaryFileSystem={path}" for path in started.volumes),
        *([f"KillSignal={started.signal}"] if started.signal else []),
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
    ]
    return "\n".join(lines) + "\n"


def check(unit: str, where: str) -> None:
    """Raise RefusedError where no device would take ``unit``."""
    try:
        on_device.check(unit, own_root=True)
    except on_device.UnitError as error:
        raise RefusedError(
            f"no device would take what the image starts: {error} (rule: known-settings)",
            where=where,
            next_step="docs/building-models.md says what a device does for an application",
        ) from error


def _strings(config: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(each, str) and "\0" not in each for each in value):
        raise UsageError(f"its {key} is no list of words", where=where, next_step=_BUILD)
    return tuple(value)


def _variable(said: str, where: str) -> tuple[str, str]:
    """``NAME=value``. systemd leaves out, and only says so in a journal, what it takes for none."""
    name, separator, value = said.partition("=")
    if not separator or not _NAME.fullmatch(name) or re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", value):
        raise UsageError(f"its Env has {said[:80]!r}, which is no variable", where=where, next_step=_BUILD)
    return name, value


def _program(word: str, search: str, folder: str, tree: Tree) -> str | None:
    """Where ``word`` is in the image, found as ``execvp(3)`` would; None where it is not."""
    places = [""] if "/" in word else search.split(":")
    for place in places:
        path = word if not place else f"{place.rstrip('/')}/{word}"
        path = path if path.startswith("/") else f"{folder.rstrip('/')}/{path}"
        node = tree.find(path).node
        if isinstance(node, File) and node.executable:
            return path
    return None


def _word(said: str, *, dollars: bool = False) -> str:
    r"""``said`` as one word of a unit (``systemd.syntax(7)``, "Quoting"; ``systemd.service(5)``, "Command lines").

    Everything out of the ordinary is ``\xNN``, so that no quote ends early; ``%`` and, in a command, ``$`` are doubled.
    """
    found = []
    for byte in said.encode("utf-8"):
        if byte == ord("%") or (byte == ord("$") and dollars):
            found.append(chr(byte) * 2)
        elif byte in _PLAIN or (byte == ord("$") and not dollars):
            found.append(chr(byte))
        else:
            found.append(f"\\x{byte:02x}")
    return f'"{"".join(found)}"'
