"""A program of PyTorch's to ONNX, with its own answers beside it: the one place where PyTorch runs.

A script for a process of its own (``hedgerow.models.torch_run``), on this machine or in a container that has nothing
but the ``torch`` extra: it imports nothing of this package, so it may stand anywhere.

    python -I torch_worker.py ASKED ANSWERED

ASKED holds ``program.pt2`` (checked and written anew) and ``inputs.npz`` (the inputs in the program's order). ANSWERED
gets ``model.onnx``, ``outputs.npz`` (what PyTorch itself computes, in the model's order) and ``facts.json``; or, where
a step fails, ``error.json`` with the step and PyTorch's words, and the exit code is 3.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

OPSET = 18  # what onnxscript's operators are written for; any other is a conversion after the conversion
FAILED = 3
TOOLS = ("torch", "onnxscript", "onnx-ir", "onnx", "numpy")


class StepError(Exception):
    """``args``: the step's name, and what PyTorch said."""


def main(asked: Path, answered: Path) -> int:
    """Convert; return the exit code."""
    try:
        facts = convert(asked, answered)
    except StepError as error:
        step, words = error.args
        (answered / "error.json").write_text(json.dumps({"step": step, "words": words}), encoding="utf-8")
        return FAILED
    (answered / "facts.json").write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    return 0


def convert(asked: Path, answered: Path) -> dict[str, Any]:
    """Write the model and its answers; return what is said of them: versions, opset, names of outputs."""
    import numpy as np
    import torch

    # One thread and no free choice of algorithms: the same program gives the same answers.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    program = _step("load", lambda: torch.export.load(str(asked / "program.pt2")))
    with np.load(asked / "inputs.npz", allow_pickle=False) as archive:
        flat = [torch.from_numpy(archive[f"arr_{number}"]) for number in range(len(archive.files))]
    args, kwargs = torch.utils._pytree.tree_unflatten(flat, program.call_spec.in_spec)  # noqa: SLF001 -- no public way
    # Converted before it is run: what has no form in ONNX is refused without running anything.
    model = _step("convert", lambda: _to_onnx(torch, program, args, kwargs))
    with torch.no_grad():
        answers = _step("run", lambda: program.module()(*args, **kwargs))
    values = torch.utils._pytree.tree_leaves(answers)  # noqa: SLF001 -- as above
    names = [value.name for value in model.model.graph.outputs]
    if len(names) != len(values) or not all(isinstance(value, torch.Tensor) for value in values):
        raise StepError("run", f"{len(values)} outputs, of which {len(names)} are tensors in ONNX")
    _step("write", lambda: model.save(answered / "model.onnx", external_data=False))
    arrays = _step("run", lambda: [value.detach().numpy() for value in values])
    np.savez(answered / "outputs.npz", *arrays)
    return {"tools": {name: version(name) for name in TOOLS}, "opset": OPSET, "outputs": names}


def _to_onnx(torch: Any, program: Any, args: Any, kwargs: Any) -> Any:
    return torch.onnx.export(
        program,
        args,
        kwargs=kwargs,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(program.graph_signature.user_inputs),
        output_names=_output_names(torch, program),
        optimize=True,
        verbose=False,
    )


def _output_names(torch: Any, program: Any) -> list[str] | None:
    """The keys, where a program answers with a dictionary of tensors; else None, and the exporter finds names."""
    spec = program.call_spec.out_spec
    places = torch.utils._pytree.tree_unflatten(list(range(spec.num_leaves)), spec)  # noqa: SLF001 -- as above
    if not isinstance(places, dict) or not all(isinstance(place, int) for place in places.values()):
        return None
    names = sorted(places, key=places.__getitem__)
    return None if set(names) & set(program.graph_signature.user_inputs) else names


def _step(name: str, run: Any) -> Any:
    try:
        return run()
    except Exception as error:  # PyTorch's errors have no common base but this
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error}"[:4000] + f" ({Path(last.filename).name}, line {last.lineno})"
        raise StepError(name, words) from error


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
