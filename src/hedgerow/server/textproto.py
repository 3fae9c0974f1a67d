"""The protocol buffers' text format, as far as configurations use it: messages, lists, strings, numbers, names.

Source: "Text Format Language Specification", protobuf.dev. Not here: extensions and ``Any`` in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>(?:[\s]|\#[^\n]*)+)
      |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fF]?(?![\w.]))
      |(?P<name>-?\s*[A-Za-z_]\w*)
      |(?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}
_DEPTH = 32


class Name(str):
    """A word without quotes: an enum's value, ``true``, ``inf``."""

    __slots__ = ()


# Values are str, int, float, Name, or again a Message.
Message = dict[str, list[Any]]


def parse(text: str) -> Message:
    """The fields of a message, each with its values in order.

    Raises:
        ValueError: not of the format; names the line.
    """
    return _Reader(text).fields(end=None, depth=0)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def fields(self, end: str | None, depth: int) -> Message:
        if depth > _DEPTH:
            raise self._wrong("nested too deep")
        found: Message = {}
        while self._next[:2] != ("end", "") and self._next[:2] != ("mark", end):
            kind, name, _ = self._take()
            if kind != "name" or name.startswith("-"):
                raise self._wrong(f"a field's name should stand here, not {name!r}")
            values = found.setdefault(name, [])
            colon = self._skip(":")
            if self._skip("["):
                while not self._skip("]"):
                    values.append(self._value(depth))
                    if not self._skip(",") and self._next[1] != "]":
                        raise self._wrong("a comma or the list's end should stand here")
            elif colon or self._next[1] in _CLOSING:
                values.append(self._value(depth))
            else:
                raise self._wrong(f"a colon should stand behind {name}")
            if not self._skip(","):
                self._skip(";")
        if end is not None and not self._skip(end):
            raise self._wrong(f"{end!r} is missing")
        return found

    def _value(self, depth: int) -> Any:
        kind, text, _ = self._take()
        if kind == "mark" and text in _CLOSING:
            return self.fields(_CLOSING[text], depth + 1)
        if kind == "string":
            parts = [text]
            while self._next[0] == "string":
                parts.append(self._take()[1])
            return "".join(_unquoted(part) for part in parts)
        if kind == "number":
            return _number(re.sub(r"\s", "", text))
        if kind == "name":
            return Name(text)
        raise self._wrong(f"a value should stand here, not {text!r}")

    def _take(self) -> tuple[str, str, int]:
        token = self._next
        if token[0] != "end":
            self._next = next(self._tokens)
        return token

    def _skip(self, mark: str) -> bool:
        found = self._next[:2] == ("mark", mark)
        if found:
            self._take()
        return found

    def _wrong(self, text: str) -> ValueError:
        return ValueError(f"line {self._next[2]}: {text}")


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each token; the last one's kind is ``end``."""
    place = line = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"line {line + 1}: {text[place : place + 10]!r} is not of the text format")
        if found.lastgroup != "space":
            yield str(found.lastgroup), found[0], line + 1
        line += found[0].count("\n")
        place = found.end()
    yield "end", "", line + 1


def _number(text: str) -> int | float:
    plain = text.lstrip("-")
    if plain.lower().startswith("0x"):
        value: int | float = int(plain, 16)
    elif plain.isdigit():
        value = int(plain, 8) if len(plain) > 1 and plain[0] == "0" and not set(plain) & {"8", "9"} else int(plain)
    else:
        value = float(plain.rstrip("fF"))
    return -value if text.startswith("-") else value


def _unquoted(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return chr(int(found[2], 8) & 0xFF) if found[2] else _LETTERS.get(found[3], found[3])

    return _ESCAPE.sub(one, text[1:-1])
