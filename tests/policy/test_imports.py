"""The dependency rules of the design, by import statements.

Direct imports count wherever they stand, in a function too. What a device
imports when a module of `device/` or `server/` is loaded counts through all
modules between: one controller-only package in that closure breaks every Pi.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# design.md rule 4. `rollout.policy` alone is pure and may be shared.
FORBIDDEN_ON_DEVICES = (
    "hedgerow.models",
    "hedgerow.emulator",
    "hedgerow.identity.ca",
    "hedgerow.registry.authority",
    "hedgerow.registry.packing",
    "hedgerow.registry.stores",
    "hedgerow.rollout",
)
ALLOWED_ON_DEVICES = ("hedgerow.rollout.policy",)
# Distribution → its import name, where they differ.
_IMPORT_NAMES = {
    "grpcio": "grpc",
    "onnxruntime-genai": "onnxruntime_genai",
    "prometheus-client": "prometheus_client",
    "protobuf": "google",
    "pyyaml": "yaml",
}
# Comes with tuf, whose API is made of its types.
_COMES_WITH = {"tuf": "securesystemslib"}


def imports(source: str, module: str, *, top_level: bool) -> set[str]:
    """Full names that ``module`` imports; ``top_level``: when loaded, so none in functions or for type checkers."""
    found: set[str] = set()

    def visit(nodes: list[Any]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join(module.split(".")[: -node.level] + ([base] if base else []))
                found.update(f"{base}.{alias.name}" for alias in node.names)
            elif top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            elif top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            else:
                visit(list(ast.iter_child_nodes(node)))

    visit(ast.parse(source).body)
    return found


def modules(root: Path) -> dict[str, str]:
    """Module name → source, of the whole package."""
    found = {}
    for path in (root / "src/hedgerow").rglob("*.py"):
        parts = path.relative_to(root / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def direct(sources: dict[str, str]) -> list[str]:
    """Rules 3 and 4 on what each module imports itself."""
    found = []
    for module, source in sorted(sources.items()):
        for name in sorted(imports(source, module, top_level=False)):
            if within(name, ("ansible", "deploy")):
                found.append(f"{module} imports {name}; src/hedgerow imports neither ansible nor deploy")
            on_device = within(module, ("hedgerow.device", "hedgerow.server", "hedgerow.vision"))
            if on_device and within(name, FORBIDDEN_ON_DEVICES) and not within(name, ALLOWED_ON_DEVICES):
                found.append(f"{module} imports {name}, which no device has")
    return found


def loaded(sources: dict[str, str], start: str) -> Iterator[tuple[str, str]]:
    """(module of ours, imported name) for everything that loading ``start`` loads."""
    seen: set[str] = set()
    queue = [start]
    while queue:
        module = queue.pop()
        if module in seen or module not in sources:
            continue
        seen.add(module)
        parents = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)]
        queue += parents
        for name in imports(sources[module], module, top_level=True):
            yield module, name
            # `from a.b import c`: c may be a module or a name in a.b.
            queue += [name, name.rpartition(".")[0]]


# Backends of what a device need not have, imported when a model asks for them, and the runtime of each. Nothing else
# may load them.
_BACKENDS = "hedgerow.server.backends"
_OPTIONAL = {
    f"{_BACKENDS}.hailo": "hailo_platform",
    f"{_BACKENDS}.hailo_device": "hailo_platform",
    f"{_BACKENDS}.litert": "ai_edge_litert",
    f"{_BACKENDS}.llamacpp": "llama_cpp",
}

# Where traces are sent, with an extra of its own; imported when the configuration asks for them.
_TRACES = {"hedgerow.server.telemetry.otlp", "hedgerow.server.telemetry.spans"}
# Runs on a device too, with an extra of its own.
_VISION = "hedgerow.vision"


def closure(sources: dict[str, str], allowed: set[str]) -> list[str]:
    """Packages that a device does not install but would import."""
    found = set()
    for start in sources:
        if not within(start, ("hedgerow.device", "hedgerow.server", _VISION)):
            continue
        for module, name in loaded(sources, start):
            top = name.partition(".")[0]
            if start in _OPTIONAL and _OPTIONAL.get(module) == top:
                continue
            if start in _TRACES and module in _TRACES and top in {"opentelemetry", "requests"}:
                continue
            if within(start, (_VISION,)) and within(module, (_VISION,)) and top == "av":
                continue
            if top not in allowed and top not in sys.stdlib_module_names and top != "hedgerow":
                found.add(f"{start} loads {module}, which imports {top}: not in the device extra")
    return sorted(found)


# Sent along with what imports them (hedgerow.remote_script), or placed beside it, and held to the same rule.
COMPANIONS = (
    "hedgerow.identity.keys_device",
    "hedgerow.device.application_files",
    "hedgerow.device.application_unit",
)


def standard_library_only(module: str, source: str) -> list[str]:
    return [
        f"{module} travels to hosts as source and imports {name}"
        for name in sorted(imports(source, module, top_level=False))
        if name.partition(".")[0] not in sys.stdlib_module_names and not within(name, COMPANIONS)
    ]


def device_packages(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [
        re.split(r"[\[<>=!~ ;]", requirement)[0]
        for requirement in [*project["dependencies"], *project["optional-dependencies"]["device"]]
    ]
    return {_IMPORT_NAMES.get(name, name) for name in names} | {
        _COMES_WITH[name] for name in names if name in _COMES_WITH
    }


def travelling(root: Path, sources: dict[str, str]) -> set[str]:
    """Modules that plugins, deploys and roles send to hosts: those whose names stand there as text."""
    texts = [*(root / "plugins").rglob("*.py"), *(root / "deploy").rglob("*.py")]
    found = set()
    for path in texts:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in sources:
                found.add(node.value)
    for path in (root / "roles").rglob("*.yml"):
        text = path.read_text(encoding="utf-8")
        found |= {name.rpartition(".")[0] for name in re.findall(r"function: (hedgerow[\w.]+)", text)}
        # Placed as they are: `file: "{{ _role_source }}/x.py"`, where the source is the package's device folder.
        found |= {f"hedgerow.device.{name}" for name in re.findall(r"_source \}\}/(\w+)\.py", text)}
    return found


@pytest.fixture(scope="module")
def sources(root: Path) -> dict[str, str]:
    return modules(root)


def test_direct_imports(sources: dict[str, str]) -> None:
    assert direct(sources) == []


def test_devices_install_what_they_import(root: Path, sources: dict[str, str]) -> None:
    assert closure(sources, device_packages(root)) == []


def test_what_travels_is_standard_library(root: Path, sources: dict[str, str]) -> None:
    names = travelling(root, sources) | {name for name in sources if within(name, COMPANIONS)}
    assert {
        "hedgerow.device.hardware",
        "hedgerow.device.state",
        "hedgerow.device.egress",
        "hedgerow.device.files",
        "hedgerow.device.guard",
        "hedgerow.device.packages",
        "hedgerow.runtime.install",
    } <= names
    assert [violation for name in names for violation in standard_library_only(name, sources[name])] == []


def test_roles_do_not_reach_into_deploy(root: Path) -> None:
    found = [
        str(path.relative_to(root))
        for path in (root / "roles").rglob("*.yml")
        if re.search(
            r"(?<![\w.])deploy/", "\n".join(re.sub(r"#.*", "", line) for line in path.read_text().splitlines())
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    "module,source,text",
    [
        ("hedgerow.x", "import ansible.errors", "imports neither ansible"),
        ("hedgerow.x", "def f():\n    from deploy.facts import y", "imports neither ansible"),
        ("hedgerow.device.x", "from hedgerow.identity import ca", "which no device has"),
        ("hedgerow.server.x", "from ..models import llama", "which no device has"),
        ("hedgerow.device.x", "from hedgerow.rollout.journal import Journal", "which no device has"),
    ],
)
def test_direct_can_fail(module: str, source: str, text: str) -> None:
    found = direct({module: source})
    assert len(found) == 1
    assert text in found[0]


def test_direct_lets_the_pure_policy_pass() -> None:
    assert direct({"hedgerow.device.x": "from hedgerow.rollout.policy import Gate"}) == []


def test_the_closure_sees_through_modules_between() -> None:
    tree = {
        "hedgerow": "",
        "hedgerow.device": "",
        "hedgerow.device.x": "from hedgerow import middle",
        "hedgerow.middle": "from rich.table import Table",
    }
    assert closure(tree, {"click"}) == [
        "hedgerow.device.x loads hedgerow.middle, which imports rich: not in the device extra"
    ]
    lazy = tree | {"hedgerow.middle": "def f():\n    import rich\n"}
    assert closure(lazy, {"click"}) == []
    typing_only = tree | {"hedgerow.middle": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich\n"}
    assert closure(typing_only, {"click"}) == []


def test_cameras_alone_may_load_their_library() -> None:
    tree = {"hedgerow": "", "hedgerow.vision": "", "hedgerow.vision.x": "import av", "hedgerow.server": ""}
    assert closure(tree, set()) == []
    assert len(closure(tree | {"hedgerow.server.x": "import hedgerow.vision.x"}, set())) == 1
    assert len(closure(tree | {"hedgerow.vision.y": "import cv2"}, set())) == 1


@pytest.mark.parametrize("source", ["import msgspec", "from hedgerow.errors import X", "def f():\n    import yaml"])
def test_standard_library_only_can_fail(source: str) -> None:
    assert len(standard_library_only("x", source)) == 1
