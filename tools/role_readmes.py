#!/usr/bin/env python3
"""Write roles/*/README.md from meta/argument_specs.yml; with --check, say which are stale and exit 1.

The specs are the one source: Ansible checks arguments by them, tests hold the
defaults to them, and this turns them into what people read.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HEADER = "<!-- Generated from meta/argument_specs.yml by tools/role_readmes.py (make docs); edit that. -->"


def render(role: str, spec: dict[str, Any]) -> str:
    """The README of one role, from its ``main`` entry."""
    lines = [HEADER, "", f"# {role}", "", f"{_prose(spec['short_description'])}.", ""]
    for paragraph in _paragraphs(spec.get("description", [])):
        lines += [_prose(paragraph), ""]
    options = spec.get("options") or {}
    if options:
        lines += ["| variable | type | default | |", "|---|---|---|---|"]
        for name, option in options.items():
            lines += _rows(name, option)
        lines.append("")
    return "\n".join(lines)


def _rows(name: str, option: dict[str, Any], depth: int = 0) -> list[str]:
    """A row for the option, and below it one for each of its own options."""
    kind = option.get("type", "str") + (f" of {option['elements']}" if "elements" in option else "")
    default = "required" if option.get("required") else _value(option.get("default"))
    text = " ".join(_prose(paragraph) for paragraph in _paragraphs(option.get("description", "")))
    if "choices" in option:
        text += " One of " + ", ".join(_value(choice) for choice in option["choices"]) + "."
    label = "&nbsp;" * 4 * depth + f"`{name}`"
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in (label, kind, default, text)) + " |"]
    for inner, inner_option in (option.get("options") or {}).items():
        rows += _rows(inner, inner_option, depth + 1)
    return rows


def _paragraphs(description: str | list[str]) -> list[str]:
    return [description] if isinstance(description, str) else description


def _value(value: object) -> str:
    """A default as YAML writes it in one line."""
    if value is None:
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()
    return f"`{text}`"


def _prose(text: str) -> str:
    """Ansible's markup as Markdown: C(x), O(x) and V(x) are code, I(x) and B(x) emphasis."""
    text = re.sub(r"\b[COV]\(([^)]*)\)", r"`\1`", text.strip())
    return re.sub(r"\bI\(([^)]*)\)", r"*\1*", re.sub(r"\bB\(([^)]*)\)", r"**\1**", text))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a README is stale")
    check = parser.parse_args().check
    stale = []
    for spec in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = spec.parents[1]
        text = render(role.name, yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"]["main"])
        readme = role / "README.md"
        if not readme.is_file() or readme.read_text(encoding="utf-8") != text:
            stale.append(readme)
            if not check:
                readme.write_text(text, encoding="utf-8")
    for readme in stale:
        sys.stderr.write(f"{'stale' if check else 'wrote'}: {readme.relative_to(ROOT)}\n")
    if check and stale:
        sys.stderr.write("next: make docs\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
