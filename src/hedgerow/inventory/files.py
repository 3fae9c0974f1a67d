"""Where an inventory's values are written: file, line and scope of every variable.

Ansible alone decides which value wins; this module only finds the places, so
that an error can name them. It reads the YAML that Ansible reads (``hosts``
files, ``group_vars``, ``host_vars``); INI files, scripts and inventory plugins
are left to ``ansible-inventory``, and their values simply have no line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["hosts_file", "all_vars", "group_vars", "host_vars"]
Place = tuple[str | int, ...]

_YAML_SUFFIXES = {".yml", ".yaml", ".json"}
_VAULT_HEADER = "$ANSIBLE_VAULT;"
# By these names community.sops.sops, which ansible.cfg enables, takes a file for one of SOPS.
SOPS_SUFFIXES = (".sops.yml", ".sops.yaml", ".sops.json")
SOPS_KEY = "sops"
"""Under this key SOPS keeps what it needs to decrypt a file."""
_SOPS_VALUE = "ENC[AES256_GCM,"
_ENCRYPT = "sops encrypt --in-place"


class Vaulted(str):
    """An encrypted value: there, and unreadable here."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """Ansible's YAML: the safe subset and two tags."""


def _vaulted(_loader: yaml.SafeLoader, node: yaml.Node) -> Vaulted:
    return Vaulted(node.value)


def _unsafe(_loader: yaml.SafeLoader, node: yaml.Node) -> str:
    # Ansible takes what is tagged so literally, whatever it looks like.
    return str(node.value)


_Loader.add_constructor("!vault", _vaulted)
_Loader.add_constructor("!vault-encrypted", _vaulted)
_Loader.add_constructor("!unsafe", _unsafe)


@dataclass(frozen=True)
class Fault:
    """A file that could not be read as YAML, or says one thing twice."""

    file: Path
    line: int | None
    what: str
    key: str | None = None


@dataclass(frozen=True)
class Document:
    """One parsed file. ``lines`` maps a place (the keys down to a value) to its line, counted from 1."""

    file: Path
    kind: Kind
    name: str | None  # the group or host of a vars file
    data: Any
    lines: dict[Place, int] = field(default_factory=dict)

    def line(self, place: Place) -> int | None:
        """Return the line of ``place``, or of the nearest thing around it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)


@dataclass(frozen=True)
class Definition:
    """A variable as written. ``scope`` is ``host:<name>`` or ``group:<name>``."""

    key: str
    value: Any
    scope: str
    document: Document
    place: Place

    @property
    def file(self) -> Path:
        return self.document.file

    @property
    def line(self) -> int | None:
        return self.document.line(self.place)


@dataclass(frozen=True)
class Files:
    """All that could be read, and what could not. ``sealed`` are files that ansible-vault encrypted as a whole."""

    documents: list[Document]
    faults: list[Fault]
    sealed: list[Path] = field(default_factory=list)

    def definitions(self) -> Iterator[Definition]:
        """Yield every variable of every file."""
        for document in self.documents:
            if document.kind == "hosts_file":
                yield from _in_groups(document, document.data, ())
            elif isinstance(document.data, dict):
                scope = f"{'host' if document.kind == 'host_vars' else 'group'}:{document.name}"
                for key, value in document.data.items():
                    yield Definition(str(key), value, scope, document, (key,))

    def host_lines(self) -> dict[str, tuple[Path, int | None]]:
        """Return host → where it is first named with variables, else where it is first named."""
        found: dict[str, tuple[Path, int | None]] = {}
        described: set[str] = set()
        for document, place, name, variables in self._hosts():
            if name not in found or (variables and name not in described):
                found[name] = (document.file, document.line(place))
            if variables:
                described.add(name)
        return found

    def named(self, host: str) -> list[tuple[Path, int | None]]:
        """Every place that names ``host``, with variables or without."""
        return [(document.file, document.line(place)) for document, place, name, _ in self._hosts() if name == host]

    def _hosts(self) -> Iterator[tuple[Document, Place, str, Any]]:
        for document in self.documents:
            if document.kind == "hosts_file":
                for place, _, group in _groups(document.data, ()):
                    hosts = group.get("hosts")
                    for name, variables in (hosts if isinstance(hosts, dict) else {}).items():
                        yield document, (*place, "hosts", name), str(name), variables


def read(path: Path) -> Files:
    """Read the inventory at ``path``, a folder or one hosts file."""
    found = Files([], [])
    for file, kind, name in _walk(path):
        parsed = _parse(file, kind, name, found)
        if parsed is not None:
            found.documents.append(parsed)
    return found


def _walk(path: Path) -> Iterator[tuple[Path, Kind, str | None]]:
    folder = path if path.is_dir() else path.parent
    sources = sorted(path.iterdir()) if path.is_dir() else [path]
    for source in sources:
        if source.is_file() and source.suffix in _YAML_SUFFIXES and not os.access(source, os.X_OK):
            yield source, "hosts_file", None
    for kind, folder_name in (("group_vars", "group_vars"), ("host_vars", "host_vars")):
        entries = folder / folder_name
        for entry in sorted(entries.iterdir()) if entries.is_dir() else ():
            name = _owner(entry)
            actual: Kind = "all_vars" if (kind, name) == ("group_vars", "all") else kind  # type: ignore[assignment]
            files = [entry] if entry.is_file() else sorted(file for file in entry.rglob("*") if file.is_file())
            for file in files:
                # Ansible skips hidden files and editors' backups, too.
                if file.suffix in {*_YAML_SUFFIXES, ""} and not file.name.startswith("."):
                    yield file, actual, name


def _owner(entry: Path) -> str:
    """The group or host whose variables a file or folder of ``group_vars`` or ``host_vars`` holds."""
    if not entry.is_file():
        return entry.name
    sops = next((suffix for suffix in SOPS_SUFFIXES if entry.name.endswith(suffix)), None)
    return entry.name.removesuffix(sops) if sops else entry.stem if entry.suffix in _YAML_SUFFIXES else entry.name


def _parse(file: Path, kind: Kind, name: str | None, found: Files) -> Document | None:
    """Return the file's content with lines; None where it is unreadable (then ``faults`` says so) or not for us."""
    faults = found.faults
    lines: dict[Place, int] = {}
    try:
        text = file.read_text(encoding="utf-8")
        if text.startswith(_VAULT_HEADER):
            found.sealed.append(file)
            return None
        loader = _Loader(text)
        node = loader.get_single_node()
        data = None
        if node is not None:
            _mark(node, (), lines, file, faults)
            data = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = "broken YAML: " + " ".join(part for part in (error.context, error.problem) if part)
        faults.append(Fault(file, mark.line + 1 if mark else None, what))
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        faults.append(Fault(file, None, f"cannot be read: {error}"))
        return None
    return _document(Document(file, kind, name, data, lines), faults)


def _document(document: Document, faults: list[Fault]) -> Document | None:
    """``document`` as what it is, None where it is nothing that has hosts or variables."""
    file, data = document.file, document.data
    if data is not None and not isinstance(data, dict):
        faults.append(Fault(file, 1, f"holds a {type(data).__name__}, where a mapping of keys to values belongs"))
        return None
    if document.kind == "hosts_file":
        # The configuration of an inventory plugin is none.
        return None if data and "plugin" in data else document
    if not file.name.endswith(SOPS_SUFFIXES):
        return document
    if not data or not isinstance(data.get(SOPS_KEY), dict):
        faults.append(Fault(file, None, f"has a name as SOPS's files have, and is not encrypted: {_ENCRYPT} {file}"))
        return None
    sealed = {key: _sealed(value) for key, value in data.items() if key != SOPS_KEY}
    return replace(document, data=sealed)


def _sealed(value: Any) -> Any:
    """What SOPS encrypted: it leaves keys, and values that are empty, as they are."""
    if isinstance(value, dict):
        return {key: _sealed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sealed(item) for item in value]
    return Vaulted(value) if isinstance(value, str) and value.startswith(_SOPS_VALUE) else value


def _mark(node: yaml.Node, place: Place, lines: dict[Place, int], file: Path, faults: list[Fault]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in seen and key != "<<":
                faults.append(Fault(file, line, "is written twice here; the first one would be lost", key=key))
            seen.add(key)
            lines[(*place, key)] = line
            _mark(value_node, (*place, key), lines, file, faults)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            _mark(item, (*place, index), lines, file, faults)


def _groups(data: Any, place: Place) -> Iterator[tuple[Place, str, dict[str, Any]]]:
    for name, group in data.items() if isinstance(data, dict) else ():
        if not isinstance(group, dict):
            continue
        yield (*place, name), str(name), group
        yield from _groups(group.get("children"), (*place, name, "children"))


def _in_groups(document: Document, data: Any, place: Place) -> Iterator[Definition]:
    for group_place, name, group in _groups(data, place):
        variables = group.get("vars")
        for key, value in variables.items() if isinstance(variables, dict) else ():
            yield Definition(str(key), value, f"group:{name}", document, (*group_place, "vars", key))
        hosts = group.get("hosts")
        for host, host_variables in hosts.items() if isinstance(hosts, dict) else ():
            for key, value in host_variables.items() if isinstance(host_variables, dict) else ():
                yield Definition(str(key), value, f"host:{host}", document, (*group_place, "hosts", host, key))
