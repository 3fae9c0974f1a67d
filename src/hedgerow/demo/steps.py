"""What the demo does, as data: every step is a command line that an operator could type.

Steps are idempotent, so that a run cut off at any point goes on with the same
command, and a second run changes nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

BUNDLE_NAME = "assistant"
BUNDLE_VERSION = "1.0.0"
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Step:
    """One command, with the sentence that is shown for it.

    ``after`` names background steps whose result this one needs; a step with
    ``background`` starts when its own ``after`` is done and runs beside the others.
    """

    name: str
    title: str
    command: tuple[str, ...]
    background: bool = False
    after: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def tool(name: str) -> str:
    """A program of the running virtual environment."""
    return str(Path(sys.executable).with_name(name))


def build(inventory: Path, bundle_dir: Path) -> list[Step]:
    """The demo's steps for ``inventory``; the model's bundle is built into ``bundle_dir``."""
    hedgerow = tool("hedgerow")
    playbook = tool("ansible-playbook")
    where = ("-i", str(inventory))
    bundle = f"{BUNDLE_NAME}@{BUNDLE_VERSION}"
    return [
        Step("check", "what this machine has", (hedgerow, "emulate", "check")),
        Step("inventory", "the inventory is sound", (hedgerow, "inventory", "check", *where)),
        Step("image", "image of an emulated Pi", (hedgerow, "emulate", "image", *where), background=True),
        Step("runtime", "wheelhouse for the devices", (hedgerow, "runtime", "build", *where), background=True),
        Step(
            "model",
            "bundle of SmolLM2-135M-Instruct",
            (
                hedgerow,
                *("model", "import", "smollm2"),
                *("--name", BUNDLE_NAME, "--version", BUNDLE_VERSION, "--output", str(bundle_dir)),
            ),
            background=True,
        ),
        Step("trust", "the fleet's certificate authority", (hedgerow, "ca", "init", *where)),
        Step(
            "registry",
            "the registry's stage: keys of root, builder and approver, first metadata",
            (hedgerow, "registry", "init", "--unattended", *where),
        ),
        Step("boot", "boot one gateway and three Pis", (hedgerow, "emulate", "up", *where), after=("image",)),
        Step(
            "bootstrap",
            "first contact: host key pinned, admin user, sudo, Python",
            (tool("pyinfra"), "-y", f"@first-contact/{inventory}", "deploy/bootstrap.py"),
        ),
        Step("sweep", "what the fleet is", (tool("pyinfra"), "-y", f"@fleet/{inventory}", "deploy/sweep.py")),
        Step("converge", "converge all hosts", (playbook, *where, "playbooks/site.yml"), after=("runtime",)),
        Step(
            "stage",
            "the builder's word for the bundle",
            (hedgerow, "registry", "stage", str(bundle_dir), *where),
            after=("model",),
        ),
        Step("approve", "the approver's word", (hedgerow, "registry", "approve", bundle, "--yes", *where)),
        Step("release", "both words published", (hedgerow, "registry", "release", bundle, *where)),
        Step("mirror", "bring the registry to the gateway", (playbook, *where, "playbooks/publish.yml")),
        Step(
            "rollout",
            "release it, host by host, each gated on its health",
            (playbook, *where, "playbooks/rollout.yml", "-e", f"bundle={bundle}"),
        ),
        Step("ask", "ask every Pi over mutual TLS", (hedgerow, "fleet", "ask", QUESTION, *where)),
        Step("table", "the fleet", (hedgerow, "fleet", "table", *where)),
    ]


def what_next(inventory: Path) -> list[tuple[str, str]]:
    """Commands worth trying on the finished fleet, each with what it shows."""
    where = f"-i {inventory}"
    return [
        (f'.venv/bin/hedgerow fleet ask "Name three birds." {where}', "ask something else"),
        (f".venv/bin/hedgerow host explain pi-orchard-1 {where}", "why a host is as it is"),
        (f".venv/bin/hedgerow emulate set pi-orchard-3 temperature_c=86 {where}", "heat a Pi; see fleet table"),
        (f".venv/bin/ansible-playbook {where} playbooks/site.yml --check --diff", "what a converge would change"),
        ("make clean", "leave nothing behind"),
    ]
