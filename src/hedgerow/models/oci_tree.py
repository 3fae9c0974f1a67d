"""The root file system of an image while its layers are applied: a tree in memory, of which nothing touches a disk.

A layer is untrusted. Unpacked to a folder, one of its links could lead the next of its files anywhere; here a path is
looked up in this tree and nowhere else, so there is nowhere to lead out to. Contents stay in the layers.

Rules: https://github.com/opencontainers/image-spec/blob/main/layer.md ("Applying Changesets", "Whiteouts").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO, Final

MAX_LINKS: Final = 40
"""As many symbolic links as Linux follows for one path (``path_resolution(7)``)."""
MAX_FOLDERS: Final = 50_000
"""That are made because something lies in them: a path of a few bytes names hundreds."""


@dataclass(eq=False)
class File:
    """``size`` bytes of ``source`` from ``offset`` on. Names that are hard links of each other have one ``File``."""

    source: IO[bytes]
    offset: int
    size: int
    executable: bool


@dataclass(eq=False)
class Link:
    """A symbolic link, with what it says."""

    target: str


@dataclass(eq=False)
class Folder:
    """Its names, and what they are."""

    children: dict[str, Node] = field(default_factory=dict)


Node = File | Link | Folder


class TreeError(ValueError):
    """What of a path is wrong, for a person; whoever knows the image says where."""


@dataclass(frozen=True)
class Found:
    """Where a path leads: ``path`` without links, what is there (None: nothing), and whether it left the root between.

    ``outside``: ``..`` at the root. A process whose root this is stays there; whoever looks from outside would not.
    """

    path: tuple[str, ...]
    node: Node | None
    outside: bool


class Tree:
    """``root`` is the image's ``/``."""

    def __init__(self) -> None:
        self.root = Folder()
        self._made = 0

    def find(self, path: str, *, start: tuple[str, ...] = (), follow: bool = True) -> Found:
        """Where ``path`` leads, by the rules of ``path_resolution(7)`` for a process whose root this tree is.

        ``start`` is the folder that a relative path begins in; without ``follow`` a link at the end is itself meant.
        What lies below something that is not there is not there either.

        Raises:
            TreeError: links in a circle.
        """
        at = [] if path.startswith("/") else list(start)
        left = _names(path)
        outside, links = False, 0
        while left:
            name = left.pop()
            if name == "..":
                outside = outside or not at
                del at[-1:]
                continue
            node = self._node([*at, name])
            if isinstance(node, Link) and (left or follow):
                links += 1
                if links > MAX_LINKS:
                    raise TreeError("leads in a circle of links")
                if node.target.startswith("/"):
                    at = []
                left += _names(node.target)
                continue
            at.append(name)
        return Found(tuple(at), self._node(at), outside)

    def _node(self, path: list[str]) -> Node | None:
        node: Node | None = self.root
        for name in path:
            node = node.children.get(name) if isinstance(node, Folder) else None
        return node

    def make_folder(self, path: str) -> tuple[str, ...]:
        """The folder that ``path`` leads to, made with those above it where it is missing.

        Raises:
            TreeError: something else stands there.
        """
        found = self.find(path)
        node = self.root
        for name in found.path:
            child = node.children.get(name)
            if child is None:
                child = node.children[name] = Folder()
                self._made += 1
            if not isinstance(child, Folder):
                raise TreeError(f"lies below {name}, which is no folder")
            if self._made > MAX_FOLDERS:
                raise TreeError(f"lies in more folders than the {MAX_FOLDERS} that may go unsaid")
            node = child
        return found.path

    def put(self, path: str, node: Node) -> None:
        """Have ``path`` be ``node``, as layer.md says ("Changeset over existing files").

        A folder over a folder keeps what is in it; anything else takes the place of what was there, a link included.

        Raises:
            TreeError: what should be a folder above it is none.
        """
        above, _, name = path.rpartition("/")
        folder = self._folder(self.make_folder(above))
        if not (isinstance(node, Folder) and isinstance(folder.children.get(name), Folder)):
            folder.children[name] = node

    def white_out(self, path: str) -> None:
        """Take ``path`` away, with all below it; nothing happens where there is nothing."""
        above, _, name = path.rpartition("/")
        node = self.find(above).node
        if isinstance(node, Folder):
            node.children.pop(name, None)

    def empty(self, path: str) -> None:
        """Take away all that is in the folder ``path``: an opaque whiteout."""
        node = self.find(path).node
        if isinstance(node, Folder):
            node.children.clear()

    def _folder(self, path: tuple[str, ...]) -> Folder:
        node = self._node(list(path))
        assert isinstance(node, Folder)  # noqa: S101 -- of make_folder
        return node

    def walk(self) -> list[tuple[tuple[str, ...], Node]]:
        """Everything below the root, folders before what is in them, in one order whatever came first."""
        found: list[tuple[tuple[str, ...], Node]] = []
        waiting: list[tuple[tuple[str, ...], Node]] = [((), self.root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                found.append((path, node))
            if isinstance(node, Folder):
                waiting += [((*path, name), node.children[name]) for name in sorted(node.children, reverse=True)]
        return found


def _names(path: str) -> list[str]:
    """The names of ``path``, last first."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]
