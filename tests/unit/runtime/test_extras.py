"""Which extras a device's runtime can have, and who asks for them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from hedgerow.errors import UsageError
from hedgerow.paths import repository_root
from hedgerow.runtime import extras, lock
from hedgerow.runtime.target import GLIBC_MINOR, Target

ROOT = repository_root()


@pytest.mark.parametrize(
    "asked, chosen",
    [(None, ()), ([], ()), (["traces"], ("traces",)), (["vision", "traces", "vision"], ("traces", "vision"))],
)
def test_one_wish_has_one_spelling(asked: Any, chosen: tuple[str, ...]) -> None:
    assert extras.chosen(asked, where="x") == chosen


@pytest.mark.parametrize(
    "asked", [["trace"], ["traces", "llamacpp"], [1], [["traces"]], "traces", "{{ mine }}", {"traces": 1}, 3]
)
def test_what_is_none_is_refused_with_those_that_are(asked: Any) -> None:
    with pytest.raises(UsageError) as caught:
        extras.of_host("pi-1", {"inference_runtime_extras": asked})
    assert "there are: traces, vision, litert" in str(caught.value.next_step)
    assert caught.value.where == "inference_runtime_extras of pi-1"


def test_the_role_the_package_and_the_locks_have_the_same() -> None:
    spec = yaml.safe_load((ROOT / "roles/inference_runtime/meta/argument_specs.yml").read_text())
    assert spec["argument_specs"]["main"]["options"][extras.VARIABLE]["choices"] == list(extras.EXTRAS)
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    made = (ROOT / "requirements/lock.sh").read_text()
    for name in extras.EXTRAS:
        assert "hedgerow[device]" in [str(Requirement(each)) for each in optional[name]]
        assert f" {name} " in next(line for line in made.splitlines() if line.startswith("for extra in"))


@pytest.mark.parametrize("python", list(GLIBC_MINOR))
def test_the_real_locks_agree_for_every_board(python: str) -> None:
    def read(name: str) -> list[lock.Locked]:
        where = f"requirements/{name}.txt"
        return lock.parse((ROOT / where).read_text(encoding="utf-8"), Target(python, "aarch64"), where=where)

    device = read("device")
    together = lock.union({name: read(name) for name in ("device", *extras.EXTRAS)})
    assert together[: len(device)] == device
    added = {each.name for each in together[len(device) :]}
    assert {"ai-edge-litert", "av", "opentelemetry-sdk", "requests"} <= added


@pytest.mark.parametrize("name, package", [("traces", "opentelemetry"), ("vision", "av"), ("litert", "ai_edge_litert")])
def test_what_a_new_runtime_must_import_cannot_be_without_the_extra(name: str, package: str) -> None:
    (module,) = extras.smoke_imports([name])
    without = f"import sys; sys.modules[{package!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert package in done.stderr.splitlines()[-1] or "OpenTelemetry is not installed" in done.stderr
