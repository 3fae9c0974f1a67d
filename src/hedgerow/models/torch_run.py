"""Run the conversion in a process of its own, and read what it left: nothing of it is trusted before it was checked.

The process gets an empty folder as home and working folder, no environment of the operator's, a session that ends with
the time limit, and no network where this machine lets a new network namespace be made (``unshare``, util-linux). Files
of the operator it can still reach; where the model's publisher is not trusted that far, ``hedgerow.models.torch_image``
puts the same process into a container.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from hedgerow.errors import MachineError, PublisherError, UsageError
from hedgerow.models import torch_worker
from hedgerow.models.onnx_probe import Arrays
from hedgerow.models.torch_archive import Archive

WORKER: Final = Path(torch_worker.__file__)
TIME_LIMIT_S: Final = 900
INSTALL: Final = (
    ".venv/bin/pip install --require-hashes -r requirements/torch.txt (docs/building-models.md), or --in-container"
)
_STEPS: Final[Mapping[str, str]] = {
    "load": "PyTorch cannot load the program",
    "convert": "PyTorch cannot convert the program to ONNX",
    "run": "PyTorch cannot run the program on these inputs",
    "write": "the ONNX model cannot be written",
}

Command = Callable[[Path, Path], list[str]]
"""Folders asked and answered → the words of a command that runs the worker on them."""


@dataclass(frozen=True)
class Answer:
    """``model`` is an ONNX file; ``outputs`` PyTorch's own, by the names that the model has; ``facts`` the worker's."""

    model: Path
    outputs: Arrays
    tools: dict[str, str]
    opset: int


def need_torch() -> None:
    """Raise UsageError where the ``torch`` extra is not installed."""
    for name in ("torch", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{name} is not installed here", next_step=INSTALL)


@contextlib.contextmanager
def convert(
    archive: Archive, feeds: Arrays, *, command: Command | None = None, time_limit_s: float = TIME_LIMIT_S
) -> Iterator[Answer]:
    """Yield the conversion of ``archive``, asked with ``feeds``; its files are gone afterwards.

    Raises:
        UsageError: PyTorch cannot load, convert or run the program; its words are in the message.
        PublisherError: the process was ended by the time limit or a signal, or left something else than was asked for.
        MachineError: the command cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="hedgerow-torch-") as temporary:
        asked, answered = Path(temporary) / "asked", Path(temporary) / "answered"
        for folder in (asked, answered):
            folder.mkdir()
        archive.write(asked / "program.pt2")
        # By number: a name such as "file" would be an argument of savez.
        np.savez(asked / "inputs.npz", *(feeds[each.name] for each in archive.inputs))
        # A container runs as somebody else; the folder above both is the operator's alone.
        for path, mode in ((asked, 0o755), (answered, 0o777), *((file, 0o644) for file in asked.iterdir())):
            path.chmod(mode)
        code, words = run((command or here)(asked, answered), cwd=answered, time_limit_s=time_limit_s)
        if code == torch_worker.FAILED:
            raise _told(answered / "error.json", archive.path)
        if code != 0:
            raise PublisherError(
                f"the conversion ended with {_ending(code)}: {words or 'no message'}",
                where=str(archive.path),
                next_step="see that the model fits into memory and time (--time-limit)",
            )
        yield _read(answered, archive.path)


def here(asked: Path, answered: Path) -> list[str]:
    """The worker on this machine, under this Python."""
    return [*no_network(), sys.executable, "-I", str(WORKER), str(asked), str(answered)]


@cache
def no_network() -> tuple[str, ...]:
    """The words before a command that take its network away; none where this machine does not let them.

    An own user namespace where we are not root: kernels and AppArmor may refuse that to others.
    """
    words = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--map-current-user", "--net")
    if shutil.which("unshare") is None:
        return ()
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if tried.returncode == 0 else ()


def run(command: list[str], *, cwd: Path, time_limit_s: float) -> tuple[int, str]:
    """Run ``command`` to its end; its exit code and its last words.

    Raises:
        PublisherError: it took longer than ``time_limit_s``.
        MachineError: there is no such program.
    """
    # Libraries look for configuration and caches in the home folder; this one is as empty as it is short-lived.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(cwd), "TMPDIR": str(cwd), "LANG": "C.UTF-8"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=time_limit_s)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise PublisherError(
                    f"the conversion took longer than {time_limit_s:g} s and was ended",
                    next_step="give it longer: --time-limit SECONDS; a small model takes seconds",
                ) from error
    except FileNotFoundError as error:
        raise MachineError(f"there is no program {command[0]}", next_step="install it") from error
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return process.returncode, " / ".join(lines[-3:])[:2000]


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _told(file: Path, path: Path) -> Exception:
    try:
        said = json.loads(_text(file))
        step, words = str(said["step"]), str(said["words"])[:4000]
    except (OSError, ValueError, KeyError, TypeError):
        return PublisherError("the conversion left no readable error", where=str(path), next_step="try it again")
    return UsageError(
        f"{_STEPS.get(step, step)}: {words}",
        where=str(path),
        next_step="PyTorch says above what is missing; export the model again, without what has no form in ONNX",
    )


def _read(answered: Path, path: Path) -> Answer:
    """What the process left, held to its form."""
    try:
        facts = json.loads(_text(answered / "facts.json"))
        names = [str(name) for name in facts["outputs"]]
        tools = {name: str(facts["tools"][name]) for name in torch_worker.TOOLS}
        with np.load(_plain_file(answered / "outputs.npz"), allow_pickle=False) as archive:
            outputs = {name: archive[f"arr_{number}"] for number, name in enumerate(names)}
        return Answer(_plain_file(answered / "model.onnx"), outputs, tools, int(facts["opset"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        raise PublisherError(
            f"the conversion left something else than was asked for: {error}", where=str(path), next_step="try it again"
        ) from error


def _text(file: Path) -> str:
    return _plain_file(file).read_text(encoding="utf-8")


def _plain_file(file: Path) -> Path:
    """``file``, unless it is a link out of the folder, or a pipe that nobody writes to."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise ValueError(f"{file.name} is no plain file")
    return file
