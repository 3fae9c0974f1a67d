"""Print the role scenarios that a change calls for, one a line; all of them where that cannot be told.

    .venv/bin/python tools/changed_roles.py                  since the branch left origin's main branch
    .venv/bin/python tools/changed_roles.py --since v1.2     since a commit, tag or branch
    .venv/bin/python tools/changed_roles.py --all            every role (nightly)
    .venv/bin/python tools/changed_roles.py --at-most 5      five of them; those that are left out are named on stderr

A role's scenario is called for by its role, its scenario and its host tests. What all roles stand on (plugins, the
pure functions, what is sent to hosts, the emulator, the shared hosts, the locks) calls for every scenario, and so does
a clone whose history holds no other commit to compare with: running too much costs minutes, running too little hides
a fault. A role that is off unless an inventory asks for it runs when it changes itself, and nightly: no host of the
other scenarios has it.

A scenario takes about two minutes. The site's converges and checks every role in any case; what a role's own adds is
the role alone and its changed input. Therefore a gate with a time limit takes ``--at-most`` some of those that are
called for: which ones follows from the commit's name, so that a run can be repeated and commits differ.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_OF_A_ROLE = re.compile(r"(?:roles|molecule)/(?P<folder>[a-z_]+)/|tests/host/test_(?P<test>[a-z_]+)\.py$")
OFF_BY_DEFAULT = frozenset({"renewal_service", "ssh_access", "vision"})
# Besides what `_OF_A_ROLE` names, only these concern no scenario.
_ELSEWHERE = re.compile(
    r"(?:docs|bench|deploy|inventory/example|playbooks|tests/(?:unit|policy|faults|fleet|conformance|vm))/|[^/]+\.md$"
    r"|src/hedgerow/(?:server|models|rollout|registry|demo|fleet|commands)/"
)


def roles() -> list[str]:
    """Roles with a scenario on the shared hosts."""
    scenarios = {file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml")}
    return sorted(scenarios & {folder.name for folder in (ROOT / "roles").iterdir()})


def called_for(paths: list[str], known: list[str]) -> list[str]:
    """Those of ``known`` that a change of ``paths`` (relative to the repository) calls for."""
    found: set[str] = set()
    for path in paths:
        match = _OF_A_ROLE.match(path)
        if match is not None and (match["folder"] or match["test"]) in known:
            found.add(match["folder"] or match["test"])
        elif match is not None and path.startswith("molecule/") and match["folder"] != "default":
            continue  # another scenario with hosts of its own
        elif not _ELSEWHERE.match(path):
            found.update(set(known) - OFF_BY_DEFAULT)
    return sorted(found)


def taking_turns(called: list[str], most: int, turn: int) -> list[str]:
    """``most`` neighbours of ``called``, which is taken as a ring, beginning at place ``turn``."""
    if len(called) <= most:
        return called
    return sorted(called[(turn + step) % len(called)] for step in range(most))


def changed_since(base: str) -> list[str] | None:
    """Paths that differ between ``base`` and the working tree; None where ``base`` is HEAD itself, or unknown."""
    head, start = _git("rev-parse", "HEAD"), _git("merge-base", base, "HEAD")
    if start is None or (start == head and not _git("status", "--porcelain")):
        return None
    diff = _git("diff", "--name-only", start) or ""
    new = _git("ls-files", "--others", "--exclude-standard") or ""
    return [*diff.splitlines(), *new.splitlines()]


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="origin/main", help="what to compare with (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every role")
    parser.add_argument("--at-most", type=int, metavar="N", help="no more than these, chosen by the commit")
    arguments = parser.parse_args()
    known = roles()
    paths = None if arguments.all else changed_since(arguments.since)
    if paths is not None:
        known = called_for(paths, known)
    elif not arguments.all:
        known = [role for role in known if role not in OFF_BY_DEFAULT]
    if arguments.at_most is not None:
        called = known
        known = taking_turns(called, arguments.at_most, int(_git("rev-parse", "HEAD") or "0", 16))
        if left := sorted(set(called) - set(known)):
            print(f"left to the nightly run, or to `make test-roles ROLES=…`: {' '.join(left)}", file=sys.stderr)
    print("\n".join(known))


if __name__ == "__main__":
    main()
