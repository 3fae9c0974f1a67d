"""Units that say what they may execute: no path is both written and run (docs/decisions/0017-confinement.md).

`tests/host/test_sandbox.py` shows it on hosts, for the units and options that a fleet has; this is for all of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
UNITS = [
    file
    for folder, pattern in (("roles", "*/templates/**/*.j2"), ("files/systemd", "*.service"))
    for file in sorted((REPOSITORY / folder).glob(pattern))
    if "\nExecPaths=" in file.read_text(encoding="utf-8")
]
# Where systemd keeps what these options name: systemd.exec(5).
DIRECTORIES = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache"}

GOOD = """
RuntimeDirectory=one
StateDirectory=two/three
ReadWritePaths=/var/lib/four {{ five }}
PrivateTmp=yes
NoExecPaths=/ /tmp /var/tmp -/run/one /var/lib/two/three /var/lib/four {{ five }}
ExecPaths=/usr/bin/six -/usr/bin/seven
BindReadOnlyPaths=/usr/bin/six -/usr/bin/seven
ReadOnlyPaths=/run
"""


def named(unit: str, option: str) -> set[str]:
    """The paths that an option names, without the minus of those that may be missing; `{{ … }}` as it stands."""
    values = " ".join(re.findall(rf"^{option}=(.*)$", unit, re.MULTILINE))
    return {path.removeprefix("-") for path in re.findall(r"\{\{.*?\}\}|\S+", values)}


def both(unit: str) -> list[str]:
    """What ``unit`` may write and run, or may write although systemd's manual lets it seem otherwise."""
    written = {"/", *named(unit, "ReadWritePaths")}
    for option, folder in DIRECTORIES.items():
        written |= {f"{folder}/{name}" for name in named(unit, option)}
    if named(unit, "PrivateTmp") == {"yes"}:
        written |= {"/tmp", "/var/tmp"}
    found = [f"{path} is written: name it in NoExecPaths=" for path in sorted(written - named(unit, "NoExecPaths"))]
    found += [
        f"{path} is run: name it in BindReadOnlyPaths="
        for path in sorted(named(unit, "ExecPaths") - named(unit, "BindReadOnlyPaths"))
    ]
    if not {"/run"} & (named(unit, "ReadWritePaths") | named(unit, "ReadOnlyPaths")):
        found.append("/run is left as it is: name it in ReadOnlyPaths=")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_no_unit_writes_what_it_may_run(unit: Path) -> None:
    assert both(unit.read_text(encoding="utf-8")) == []


def test_units_are_found() -> None:
    names = {unit.name for unit in UNITS}
    assert {"hedgerow-server.service.j2", "50-hedgerow.conf.j2", "hedgerow-renewal.service"} <= names


@pytest.mark.parametrize(
    "line,other,text",
    [
        ("ReadOnlyPaths=/run", "", "/run is left as it is"),
        (" -/usr/bin/seven\nRead", "\nRead", "/usr/bin/seven is run"),
        (" -/run/one", "", "/run/one is written"),
        (" /var/lib/two/three", "", "/var/lib/two/three is written"),
        (" /var/lib/four {{ five }}\nExec", " {{ five }}\nExec", "/var/lib/four is written"),
        (" {{ five }}\nExec", "\nExec", "{{ five }} is written"),
        ("/ /tmp", "/", "/tmp is written"),
        ("NoExecPaths=/ ", "NoExecPaths=", "/ is written"),
    ],
)
def test_what_is_missing_is_named(line: str, other: str, text: str) -> None:
    assert both(GOOD) == []
    assert GOOD.count(line) == 1
    assert [found.startswith(text) for found in both(GOOD.replace(line, other))] == [True]
