"""Say everything that is wrong with an inventory, before any host is touched.

Three passes, so that an operator sees all problems at once:

1. Each file by itself: YAML, then ``schema.json``, with the line.
2. What a reader other than Ansible could not use, a template or a vaulted value where a literal belongs; and secrets
   in the clear.
3. The whole, as Ansible merges it (``rules``): required values, serials and addresses used twice, sites, gateways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hedgerow.errors import UsageError
from hedgerow.inventory import files, rules, source
from hedgerow.inventory.files import Definition, Files, Vaulted
from hedgerow.inventory.problem import Problem, scalar, shown
from hedgerow.inventory.schema import TEMPLATE, Schema
from hedgerow.inventory.secrecy import names_secret

_SECRET_VALUE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def check(path: Path) -> list[Problem]:
    """Return every problem of the inventory at ``path``, by file and line; none when it is right.

    Raises:
        UsageError: ``path`` or ``schema.json`` does not exist.
        MachineError: ``ansible-inventory`` is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError("the inventory does not exist", where=str(path), next_step="name one: -i inventory/emulated")
    schema = Schema.load(path)
    found = files.read(path)
    problems = [Problem(shown(fault.file), fault.what, line=fault.line, key=fault.key) for fault in found.faults]
    for document in found.documents:
        problems += schema.problems(document)
    problems += _literals(found, schema)
    problems += _secrets(found)
    try:
        listing = source.list_hosts(path)
    except UsageError as error:
        # A file that Ansible cannot read was most likely named above, in better words.
        return problems or [Problem(shown(path), error.what, hint=error.next_step)]
    problems += rules.problems(path, listing, found, schema)
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0))


def _literals(found: Files, schema: Schema) -> Iterator[Problem]:
    for definition in found.definitions():
        if schema.may_be_template(definition.key):
            continue
        for _, leaf in _leaves(definition.key, definition.value):
            if isinstance(leaf, Vaulted):
                yield _at(definition, "is encrypted, but pyinfra and hedgerow read it, too", "a literal value")
            elif isinstance(leaf, str) and TEMPLATE.search(leaf):
                what = "is a template, but pyinfra and hedgerow read it unrendered"
                yield _at(definition, what, "a literal value", value=leaf)


def _secrets(found: Files) -> Iterator[Problem]:
    for definition in found.definitions():
        for key, value in _leaves(definition.key, definition.value):
            if not isinstance(value, str) or isinstance(value, Vaulted) or not value or TEMPLATE.search(value):
                continue
            if names_secret(key) or names_secret(definition.key) or _SECRET_VALUE.search(value):
                # The value is not repeated: this text ends in logs.
                allowed = "a vaulted value, or a lookup that Ansible resolves"
                hint = f"ansible-vault encrypt_string --name {key}"
                yield _at(definition, "looks like a secret in the clear", allowed, hint=hint)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the scalars inside ``value``, each with the key it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(str(name), item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(key, item)
    else:
        yield key, value


def _at(definition: Definition, what: str, allowed: str, *, value: Any = None, hint: str | None = None) -> Problem:
    return Problem(
        shown(definition.file),
        what,
        line=definition.line,
        key=definition.key,
        value=scalar(value),
        allowed=allowed,
        hint=hint,
    )
