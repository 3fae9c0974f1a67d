"""``inventory/schema.json`` and the options of the roles, and errors that a person can act on.

Keys that are no Hedgerow key may be options of a role: those of
``roles/*/meta/argument_specs.yml`` are added to the schema when it is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hedgerow import paths
from hedgerow.errors import UsageError
from hedgerow.inventory.files import Document, Place, Vaulted
from hedgerow.inventory.problem import Problem, brief, choices, did_you_mean, scalar, shown
from hedgerow.inventory.secrecy import OWN

if TYPE_CHECKING:
    import jsonschema

TEMPLATE = re.compile(r"\{\{|\{%")
UNKNOWN, MISPLACED = "is an unknown key", "does not belong here"

_KINDS = ("hosts_file", "all_vars", "group_vars", "host_vars", "host")
_VALUE_NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
}
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string in quotes",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}
# Type names of Ansible's argument specs → JSON Schema; `raw` and unknown ones may be anything.
_SPEC_TYPES = {
    "str": "string",
    "path": "string",
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "list": "array",
    "dict": "object",
}


class Schema:
    """The keys of an inventory: which there are, where they may stand, and what they may be."""

    def __init__(self, document: dict[str, Any]) -> None:
        # A second and more to import: what only loads an inventory, as each of Ansible's workers does, goes without.
        import jsonschema

        self._document = document
        self._validators = {
            kind: jsonschema.Draft202012Validator({**document, "$ref": f"#/$defs/{kind}"}) for kind in _KINDS
        }

    @classmethod
    def load(cls, inventory: Path) -> Schema:
        """Read the schema that lies beside ``inventory``, else the checkout's own."""
        root = paths.repository_root()
        beside = [parent / "schema.json" for parent in inventory.resolve().parents[:2]]
        own = root / "inventory" / "schema.json"
        file = next((candidate for candidate in beside if candidate.is_file()), own)
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"the inventory schema cannot be read: {error}", where=str(file)) from error
        document["$defs"]["role_variables"]["properties"] = role_options(root)
        return cls(document)

    @property
    def required(self) -> list[str]:
        """What every host must have once its groups are merged."""
        return list(self._document["$defs"]["host"]["required"])

    def properties(self, kind: str) -> dict[str, Any]:
        """Return the keys that ``kind`` may have, with their schemas."""
        definition = self._document["$defs"][kind]
        found: dict[str, Any] = dict(definition.get("properties", {}))
        for part in definition.get("allOf", []):
            # A role's option never redefines a key of Hedgerow's own that it merely reads.
            found = self.properties(part["$ref"].rpartition("/")[2]) | found
        return found

    def may_be_template(self, key: str) -> bool:
        """Whether Ansible is the value's only reader."""
        definition = self.properties("host").get(key)
        return definition is None or definition.get("x-readers") == ["ansible"]

    def allowed(self, key: str) -> str | None:
        """Say in words what ``key`` may be."""
        return self._in_words(self.properties("host").get(key, {}))

    def home(self, key: str) -> str | None:
        """Say where ``key`` belongs."""
        places = {"all_vars": "group_vars/all", "group_vars": "group_vars/<group>", "host_vars": "the host itself"}
        return next((where for kind, where in places.items() if key in self.properties(kind)), None)

    def problems(self, document: Document) -> Iterator[Problem]:
        """Hold one file to the schema."""
        if document.data is not None:
            for error in self._validators[document.kind].iter_errors(document.data):
                yield from self._explain(error, document)

    def host_problems(self, host: str, variables: dict[str, Any]) -> Iterator[Problem]:
        """Hold merged variables of a host to the schema: for values that no YAML file of the inventory holds."""
        document = Document(Path(host), "host_vars", host, variables)
        for error in self._validators["host"].iter_errors(variables):
            if error.absolute_path or error.validator != "required":
                yield from self._explain(error, document)

    def _explain(self, error: jsonschema.ValidationError, document: Document) -> Iterator[Problem]:
        value: Any = error.instance
        if isinstance(value, Vaulted) or (isinstance(value, str) and TEMPLATE.search(value)):
            return  # what Ansible alone can resolve; `check` decides whether it may stand there
        place: Place = tuple(error.absolute_path)
        rule: dict[str, Any] = error.schema if isinstance(error.schema, dict) else {}
        keyword, argument = str(error.validator), rule.get(str(error.validator))
        if keyword in ("unevaluatedProperties", "additionalProperties"):
            yield from self._unknown_keys(rule, dict(value), document, place)
            return
        what, allowed, hint = f"{brief(value)} does not have the right form", self._in_words(rule), None
        if keyword == "required":
            yield from self._missing(rule, dict(value), document, place)
            return
        if keyword == "enum" and isinstance(argument, list):
            what = f"{brief(value)} is not a value it can take"
            hint = did_you_mean(value, [choice for choice in argument if choice is not None])
        elif keyword == "type":
            names = argument if isinstance(argument, list) else [argument]
            expected = " or ".join(_TYPE_NAMES[str(name)] for name in names)
            what = f"{brief(value)} is {_VALUE_NAMES.get(type(value), 'null')}, not {expected}"
        elif "propertyNames" in error.absolute_schema_path:
            place = (*place, value)
            what, allowed = f"{brief(value)} is no valid name", f"a name that matches {argument}"
        yield Problem(
            shown(document.file),
            what,
            line=document.line(place),
            key=_dotted(document, place),
            value=scalar(value),
            allowed=allowed or error.message,
            hint=hint,
        )

    def _missing(
        self, rule: dict[str, Any], value: dict[str, Any], document: Document, place: Place
    ) -> Iterator[Problem]:
        for name in rule["required"]:
            if name not in value:
                yield Problem(
                    shown(document.file),
                    "is missing",
                    line=document.line(place),
                    key=_dotted(document, (*place, name)),
                    allowed=self._in_words(rule.get("properties", {}).get(name, {})),
                )

    def _unknown_keys(
        self, rule: dict[str, Any], value: dict[str, Any], document: Document, place: Place
    ) -> Iterator[Problem]:
        is_vars = "unevaluatedProperties" in rule
        known = self._known(rule)
        for key, item in value.items():
            if key in known or (is_vars and str(key).startswith(OWN)):
                continue
            home = self.home(str(key)) if is_vars else None
            what = UNKNOWN if home is None else MISPLACED
            everything = "the keys of inventory/schema.json and the options in roles/*/README.md"
            yield Problem(
                shown(document.file),
                what,
                line=document.line((*place, key)),
                key=_dotted(document, (*place, key)),
                value=scalar(item),
                allowed=f"in {home}" if home else choices(known, everything),
                hint=None if home else did_you_mean(key, known),
            )

    def _known(self, rule: dict[str, Any]) -> dict[str, Any]:
        known = dict(rule.get("properties", {}))
        for part in rule.get("allOf", []):
            known |= self.properties(part["$ref"].rpartition("/")[2])
        return known

    def _in_words(self, rule: dict[str, Any]) -> str | None:
        if "$ref" in rule:
            rule = self._document["$defs"][rule["$ref"].rpartition("/")[2]]
        if "enum" in rule:
            return ", ".join("null" if choice is None else str(choice) for choice in rule["enum"])
        described: str | None = rule.get("description")
        return described


def _dotted(document: Document, place: Place) -> str | None:
    """Return the key as an operator names it: without the groups and hosts that lead to it in a hosts file."""
    parts = list(map(str, place))
    if document.kind == "hosts_file":
        for marker, skip in (("hosts", 2), ("vars", 1)):
            if marker in parts and len(parts) > parts.index(marker) + skip:
                parts = parts[parts.index(marker) + skip :]
                break
    return ".".join(parts) or None


def role_options(root: Path) -> dict[str, Any]:
    """Return the public variables of all roles as JSON Schema properties, from their argument specs."""
    found: dict[str, Any] = {}
    for file in sorted((root / "roles").glob("*/meta/argument_specs.yml")):
        try:
            specs = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("argument_specs") or {}
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise UsageError(f"the options of a role cannot be read: {said}", where=shown(file)) from error
        for entry_point in specs.values():
            for name, option in (entry_point.get("options") or {}).items():
                found[name] = _option_schema(option or {})
    return found


def _option_schema(option: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"x-readers": ["ansible"]}
    described = option.get("description")
    if described:
        schema["description"] = " ".join(described) if isinstance(described, list) else described
    kind = _SPEC_TYPES.get(option.get("type", "str"))
    if kind:
        schema["type"] = [kind, "null"]
    if "choices" in option and kind == "array":
        # As Ansible has it: each element is one of them.
        schema["items"] = {"enum": list(option["choices"])}
    elif "choices" in option:
        schema["enum"] = [*option["choices"], None]
    return schema
