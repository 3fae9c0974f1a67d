"""A plan and a store as people and machines read them. Pure; a device has no library for tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hedgerow.device.store.collect import Collected, Holding
from hedgerow.device.store.planner import Plan, Step
from hedgerow.device.store.terms import Staged

_SENTENCES = {
    "done": "in place from an earlier attempt",
    "same": "equal to another part of this version",
    "here": "copied from a version that is here",
    "patch": "patched from a version that is here",
    "chunk": "fetched whole",
}
# A model has hundreds of tensors; those that cost most tell why.
_MOST_ROWS = 20


def plan_text(plan: Plan) -> str:
    """What is fetched and why, the costliest tensors first."""
    groups = _grouped(plan)
    shown = sorted(groups, key=lambda group: (-group["fetched"], -group["size"]))[:_MOST_ROWS]
    rows = [
        (group["part"], _mb(group["size"]), group["how"], _mb(group["fetched"]), group["reason"]) for group in shown
    ]
    lines = [table(("part", "MB", "how", "fetched MB", "why"), rows)]
    if len(groups) > len(shown):
        lines.append(f"and {len(groups) - len(shown)} smaller parts")
    lines += [
        f"{_SENTENCES[how]}: {_mb(size)} MB" for how, size in plan.bytes_by().items() if size
    ]  # fmt: skip
    lines.append(
        f"{plan.recipe.reference}: {_mb(plan.fetched)} MB to fetch, "
        f"{_mb(plan.read)} MB to read here, {_mb(plan.written)} MB to write"
    )
    return "\n".join(lines)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The same, every part of it; sizes in bytes."""
    return {
        "changed": False,
        "change": plan.recipe.reference,
        "fetched": plan.fetched,
        "read": plan.read,
        "written": plan.written,
        "by": plan.bytes_by(),
        "from": sorted(plan.sources()),
        "parts": _grouped(plan),
    }


def staged_lines(staged: Staged) -> list[str]:
    """What came, and what was found wrong on the way."""
    if not staged.changed:
        return [f"{staged.reference} is on this device already, every byte of it"]
    come = (
        f"{staged.fetched / 1e6:.1f} MB came in {staged.requests} requests, {staged.written / 1e6:.1f} MB were written"
    )
    return [f"{staged.reference} is on this device: {come}", *staged.notes]


def staged_json(staged: Staged) -> dict[str, Any]:
    """The same for machines; sizes in bytes."""
    return {
        "changed": staged.changed,
        "change": staged.reference,
        "new_bytes": staged.new_bytes,
        "fetched": staged.fetched,
        "written": staged.written,
        "requests": staged.requests,
        "by": staged.by,
        "notes": staged.notes,
    }


def holdings_text(holdings: Sequence[Holding], written: int) -> str:
    """What is here, the latest used first."""
    rows = [
        (str(each.reference), "whole" if each.finished else "unfinished", _mb(each.bytes), each.kept or "may go")
        for each in holdings
    ]
    total = sum(each.bytes for each in holdings)
    summary = f"{_mb(total)} MB in all; {_mb(written)} MB written by the store so far"
    return f"{table(('version', 'state', 'MB', 'kept because'), rows)}\n{summary}"


def holding_json(holding: Holding) -> dict[str, Any]:
    """One entry of ``cache list --json``."""
    return {
        "version": str(holding.reference),
        "whole": holding.finished,
        "bytes": holding.bytes,
        "used": holding.used,
        "kept": holding.kept,
    }


def collected_text(collected: Collected, *, dry_run: bool) -> str:
    """What went, or would go."""
    verb = "would go" if dry_run else "removed"
    lines = [
        f"{verb}: {each.reference}{'' if each.finished else ' (unfinished)'}, {_mb(each.bytes)} MB"
        for each in collected.removed
    ]
    lines.append(f"{_mb(collected.left)} MB are left")
    if collected.over:
        lines.append(f"that is {_mb(collected.over)} MB over the budget, and all of it is kept for a reason")
    return "\n".join(lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _grouped(plan: Plan) -> list[dict[str, Any]]:
    """Steps of one tensor that come the same way for the same reason, as one entry."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for step in plan.steps:
        key = (_part(plan, step), step.how, step.reason)
        group = found.setdefault(
            key,
            {"part": key[0], "how": key[1], "reason": key[2], "size": 0, "fetched": 0, "read": 0, "written": 0},
        )
        for name in ("size", "fetched", "read", "written"):
            group[name] += getattr(step, name)
    return list(found.values())


def _part(plan: Plan, step: Step) -> str:
    file = plan.recipe.files[step.file]
    tensor = file.tensor_at(step.offset)
    return file.path if tensor is None else f"{file.path}: {tensor.name} ({tensor.dtype})"


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"
