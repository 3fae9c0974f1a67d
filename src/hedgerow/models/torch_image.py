"""The container that PyTorch runs in: Debian's Python and the ``torch`` extra's lock, from nothing, without a network.

Invariants:

- The image's name is the hash of all that it is made from: suite, packages, lock, steps. Every Python package is held
  to the lock's hash; Debian's packages are those of the suite on the day it was built, and stand in
  ``/opt/torch/debian-packages``.
- It has no code of this package: the worker comes along with each run, read-only.
- A run has no network, no capability, no user of this machine, nothing writable but ``/tmp`` in memory and the folder
  of its answers. It ends with the command that began it; were that killed, the container's own monitor ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hedgerow.emulator import image as emulated
from hedgerow.emulator.podman import Podman
from hedgerow.errors import MachineError, UsageError
from hedgerow.models import torch_run
from hedgerow.paths import cache_dir, repository_root
from hedgerow.runtime import lock, wheelhouse
from hedgerow.runtime.target import Target

# Its Python is one that the lock has a build of PyTorch for; see requirements/README.md.
SUITE: Final = "bookworm"
PYTHON: Final = "3.11"
PACKAGES: Final = ("python3", "python3-venv")
REPOSITORY: Final = "localhost/hedgerow-torch"
LOCK: Final = Path("requirements/torch.txt")
NOBODY: Final = 65534
# How much later than its caller, who has words for a time limit, the container's own monitor ends a run.
GRACE_S: Final = 60
_PROGRAMS: Final = ("podman", "crun", "nsenter", "unshare", "mmdebstrap")
# From files alone: /mnt has the lock and its wheels.
_SETUP: Final = """\
set -eu
python3 -m venv /opt/torch
/opt/torch/bin/pip install --quiet --no-index --no-deps --no-cache-dir --require-hashes --find-links /mnt/wheels \\
  --requirement /mnt/requirements.txt
/opt/torch/bin/python -I -c 'import onnxscript, torch'
dpkg-query --show >/opt/torch/debian-packages
"""

# No control group: on version 2 crun loads a program there that guards devices, and lifts a limit for that, which not
# every root may do (CAP_SYS_RESOURCE). Without mknod there is nothing to guard but /dev/null and its like. Podman then
# shows the machine's groups, which are nobody's business.
_CONFINED: Final = (
    "--systemd=false", "--network=none", "--cap-drop=all", "--cgroups=disabled", "--security-opt=mask=/sys/fs/cgroup",
)  # fmt: skip

Say = Callable[[str], None]


def target() -> Target:
    """Python and machine of the container, for the lock's markers and wheels."""
    return Target(PYTHON, platform.machine())


def locked_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of ``names`` in the container, as the lock has them.

    Raises:
        UsageError: the lock has not all of them.
    """
    found = dict(entry.requirement.split("==", 1) for entry in _locked())
    missing = sorted(set(names) - set(found))
    if missing:
        raise UsageError(f"the lock has no {missing[0]}", where=str(LOCK), next_step="make lock")
    return {name: found[name] for name in names}


def digest(locked: Sequence[lock.Locked]) -> str:
    """Hash of everything that the image is made from."""
    parts = [SUITE, PACKAGES, _SETUP, target().name, [entry.line() for entry in locked]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def command(*, say: Say, time_limit_s: float = torch_run.TIME_LIMIT_S) -> Iterator[torch_run.Command]:
    """Yield what runs the worker in the container; the image is built where it is missing (minutes, once).

    Raises:
        UsageError: not root.
        MachineError: a program is missing, or the image cannot be built.
    """
    _check_machine()
    podman = Podman(cache_dir() / "podman")
    try:
        with podman.session():
            image = ensure(podman, cache_dir() / "torch-image", say)
            container = f"hedgerow-torch-run-{secrets.token_hex(4)}"

            def words(asked: Path, answered: Path) -> list[str]:
                own = podman.environment()
                settings = [f"{key}={own[key]}" for key in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "TMPDIR")]
                return ["env", *settings, *podman.command(*run_words(image, container, asked, answered, time_limit_s))]

            try:
                yield words
            finally:
                # Podman can be interrupted, and what it runs goes on.
                podman.run("rm", "--force", "--ignore", "--time=0", container, check=False)
    finally:
        podman.release()


def run_words(image: str, container: str, asked: Path, answered: Path, time_limit_s: float) -> list[str]:
    """Podman's words for one run: what the container may do is what stands here."""
    return [
        "run", "--rm", f"--name={container}", *_CONFINED, "--read-only", "--security-opt=no-new-privileges",
        f"--user={NOBODY}:{NOBODY}", f"--timeout={int(time_limit_s) + GRACE_S}",
        "--env=HOME=/tmp", "--env=CUDA_VISIBLE_DEVICES=",
        f"--volume={asked}:/asked:ro", f"--volume={answered}:/answered:rw",
        f"--volume={torch_run.WORKER}:/worker.py:ro",
        image, "/opt/torch/bin/python", "-I", "/worker.py", "/asked", "/answered",
    ]  # fmt: skip


def ensure(podman: Podman, folder: Path, say: Say) -> str:
    """Make the image exist; return its name. Call it inside a podman session.

    Raises:
        MachineError: mmdebstrap, pip or podman failed; the message has its last words.
    """
    locked = _locked()
    name = f"{REPOSITORY}:{digest(locked)}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if podman.run("image", "exists", name, check=False).returncode != 0:
            say(f"building the container of PyTorch from Debian {SUITE} and {LOCK} (minutes, once)")
            _build(podman, folder, name, locked)
    return name


def _build(podman: Podman, folder: Path, name: str, locked: Sequence[lock.Locked]) -> None:
    wheels = wheelhouse.dependencies(locked, target(), folder)
    container = f"hedgerow-torch-{name.rpartition(':')[2]}"
    base = f"{name}-base"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        mounted = Path(temporary)
        # Of an attempt that was cut off, Debian may be there.
        if podman.run("image", "exists", base, check=False).returncode != 0:
            archive = mounted / "debian.tar"
            _run_mmdebstrap(bootstrap_words(archive))
            podman.run("import", "--quiet", archive, base, timeout=None)
            archive.unlink()
        (mounted / "requirements.txt").write_text("".join(f"{entry.line()}\n" for entry in locked), encoding="utf-8")
        (mounted / "wheels").mkdir()
        for wheel in wheels:
            shutil.copyfile(wheel, mounted / "wheels" / wheel.name)
        podman.run("rm", "--force", "--ignore", container)
        try:
            podman.run(
                "run", "--name", container, *_CONFINED, "--volume", f"{mounted}:/mnt:ro", base, "sh", "-c", _SETUP,
                timeout=None,
            )  # fmt: skip
            podman.run("commit", "--quiet", container, name, timeout=None)
        finally:
            podman.run("rm", "--force", "--ignore", container, check=False)


def bootstrap_words(archive: Path) -> list[str]:
    """Debian's part: mmdebstrap's own default mirror, reached as this machine's apt reaches it."""
    options = sorted(emulated.recipe().apt_options.items())
    return [
        "mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        *(f'--aptopt={key} "{value}"' for key, value in options), SUITE, str(archive),
    ]  # fmt: skip


def _run_mmdebstrap(words: list[str]) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"mmdebstrap failed with exit code {done.returncode}; its last lines above say why",
            where=f"Debian {SUITE}",
            next_step="see that `apt-get update` works on this machine",
        )


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise UsageError("the container is root's, as the emulated hosts are", next_step="run it with sudo")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise MachineError(f"{missing[0]} is not installed", next_step="tools/bootstrap.sh controller installs it")


def _locked() -> list[lock.Locked]:
    return lock.parse((repository_root() / LOCK).read_text(encoding="utf-8"), target(), where=str(LOCK))
