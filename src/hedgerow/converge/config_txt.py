"""What the firmware of one board would read from ``config.txt``: filters evaluated, nothing guessed.

Rules, from Raspberry Pi's documentation of config.txt (facts §2.1):

- A line is ``key=value``; a comment begins with ``#``; what stands after the 98th character is not read.
- ``[filter]`` lines hold until they are replaced: one of the same kind replaces its like, different kinds must all
  hold, ``[all]`` resets them.
- Where a key stands twice the later line counts. ``dtoverlay`` and ``gpio`` add up instead.
- ``dtparam`` sets a parameter of the overlay loaded last, else of the base tree; an empty ``dtoverlay=`` ends an
  overlay's scope. ``dtparam=a=on,b=2`` are two settings.

A filter whose answer only the board's pins, its monitor or its fuses know is neither true nor false here: what stands
below it is *perhaps*. A filter of unknown form hides its lines and is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

LINE_LIMIT = 98  # documented; firmware ignores the rest of a line

# Board type of the revision code (bits 4-11) → model filters that hold: the variants also see what [pi5] has.
MODELS: Mapping[int, frozenset[str]] = {
    0x17: frozenset({"pi5"}),
    0x18: frozenset({"pi5", "cm5"}),
    0x19: frozenset({"pi5", "pi500"}),
    0x1A: frozenset({"pi5", "cm5"}),
}
_PI5_TYPE = 0x17
_OTHER_MODELS = re.compile(r"(pi|cm)[0-9]+[a-z+]*$")
_UNKNOWABLE = re.compile(r"(gpio\d+=[01]|EDID=.+|HDMI:[01]|(customer_)?otp.*)$", re.IGNORECASE)
_ADDITIVE = frozenset({"dtoverlay", "gpio", "initramfs", "include"})


@dataclass(frozen=True, slots=True)
class Board:
    """What filters ask about. ``tryboot`` and ``partition`` are of the boot in question."""

    serial: str | None = None
    type: int = _PI5_TYPE
    tryboot: bool = False
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One ``key=value`` that the board reads; ``certain`` is False below a filter that only the board can answer.

    ``key`` of a device-tree parameter is ``dtparam:audio`` of the base tree or ``dtparam:NAME:x`` of an overlay.
    """

    key: str
    value: str
    line: int
    certain: bool = True


@dataclass(slots=True)
class _Scope:
    """Which filters hold, by kind; and which overlay takes parameters."""

    filters: dict[str, bool | None] = field(default_factory=dict)
    overlay: str | None = None
    overlay_certain: bool = False

    def holds(self) -> bool | None:
        answers = self.filters.values()
        if False in answers:
            return False
        return None if None in answers else True


def settings(text: str, board: Board | None = None) -> list[Setting]:
    """Everything the board reads, in order."""
    return list(_read(text, board or Board(), _Scope()))


def open_overlay(text: str, board: Board | None = None) -> bool:
    """Whether a ``dtparam`` that followed ``text`` would go to an overlay, for certain."""
    scope = _Scope()
    list(_read(text, board or Board(), scope))
    return scope.overlay is not None and scope.overlay_certain


def _read(text: str, board: Board, scope: _Scope) -> Iterator[Setting]:
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw[:LINE_LIMIT].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            _enter(scope, line[1:-1], board)
            continue
        holds = scope.holds()
        if holds is False:
            continue
        key, equals, value = line.partition("=")
        if not equals:  # include FILE, initramfs FILE ADDRESS
            key, _, value = line.partition(" ")
        yield from _of_line(scope, key.strip(), value.strip(), number, certain=holds is True)


def effective(text: str, board: Board | None = None) -> dict[str, Setting]:
    """Key → the setting that counts: the last one. Additive keys are keyed with their value (``dtoverlay=NAME``)."""
    found: dict[str, Setting] = {}
    for setting in settings(text, board):
        found[f"{setting.key}={setting.value}" if setting.key in _ADDITIVE else setting.key] = setting
    return found


def filters(text: str) -> list[str]:
    """Filter lines of a form that the documentation does not have: firmware and we may disagree about them."""
    found = []
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]") and _answer(line[1:-1], Board()) == ("unknown", False):
            found.append(line)
    return found


def closes(lines: Sequence[str]) -> bool:
    """Whether a list of lines ends outside of any filter."""
    last = [line.strip() for line in lines if line.strip().startswith("[")]
    return not last or last[-1] == "[all]"


def _enter(scope: _Scope, name: str, board: Board) -> None:
    kind, answer = _answer(name, board)
    if kind == "all":
        scope.filters.clear()
    else:
        scope.filters[kind] = answer


def _answer(name: str, board: Board) -> tuple[str, bool | None]:  # noqa: PLR0911 - one for each kind of filter
    """Kind of the filter and whether it holds; None: only the board can tell."""
    models = MODELS.get(board.type, frozenset({"pi5"}))
    if name in {"all", "none"}:
        return name, name == "all"
    if name in models or _OTHER_MODELS.match(name):
        return "model", name in models
    if (found := re.fullmatch(r"board-type=(0x[0-9a-fA-F]+|\d+)", name)) is not None:
        return "model", int(found[1], 0) == board.type
    if (found := re.fullmatch(r"0x([0-9a-fA-F]{1,16})", name)) is not None:
        return "serial", _same_serial(found[1], board.serial)
    if name == "tryboot":
        return "tryboot", board.tryboot
    if (found := re.fullmatch(r"(?:boot_)?partition=(\d+)", name)) is not None:
        return "partition", None if board.partition is None else int(found[1]) == board.partition
    if _UNKNOWABLE.match(name):
        return name.partition("=")[0].lower(), None
    return "unknown", False


def _same_serial(written: str, serial: str | None) -> bool | None:
    """Pi 5 serials have 16 digits; older documentation compares the lower eight."""
    if serial is None:
        return None
    value, own = int(written, 16), int(serial, 16)
    return value == own or (len(written) <= 8 and value == own & 0xFFFFFFFF)  # noqa: PLR2004 - eight digits


def _of_line(scope: _Scope, key: str, value: str, number: int, *, certain: bool) -> Iterator[Setting]:
    if key == "dtoverlay":
        # After an overlay that is perhaps loaded, nobody knows whose parameter the next one is: count it as loaded.
        scope.overlay, scope.overlay_certain = value.partition(",")[0] or None, certain
        if value:
            yield Setting(key, value, number, certain)
    elif key in {"dtparam", "device_tree_param"}:
        for part in value.split(","):
            name, _, given = part.partition("=")
            yield Setting(
                f"dtparam:{scope.overlay}:{name}" if scope.overlay else f"dtparam:{name}", given, number, certain
            )
    else:
        yield Setting(key, value, number, certain)
