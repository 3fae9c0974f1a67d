"""``hedgerow model import``: one command, one bundle, whatever the checkpoint's format."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hedgerow.commands.model_import_show import Reporter, progress, show
from hedgerow.errors import UsageError
from hedgerow.output import err, json_option

if TYPE_CHECKING:
    from hedgerow.models.describing import Description

_PATH: Final = click.Path(path_type=Path)
SOURCES: Final = ("gguf", "huggingface", "onnx", "pytorch", "tflite", "hef", "genai")
# Which option means something for which source; the others take all of them.
_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "quality": ("recipe", "gguf", "huggingface"),
    "exact": ("recipe", "gguf"),
    "shape": ("onnx", "pytorch"),
    "inputs": ("onnx", "pytorch"),
    "as_it_is": ("onnx", "pytorch"),
    "in_container": ("pytorch",),
    "time_limit": ("pytorch",),
    "hailort": ("hef",),
    "architecture": ("hef",),
    "language_model": ("hef",),
    "golden": ("onnx", "pytorch", "tflite", "hef", "genai"),
    "memory_mb": ("onnx", "pytorch", "tflite", "hef", "genai"),
    "hat": ("onnx", "pytorch", "tflite", "hef", "genai"),
    "description": ("onnx", "pytorch", "tflite", "hef", "genai"),
}


@dataclass(frozen=True)
class _Asked:
    """The source that was named, its path (None of a recipe), and every other option by name."""

    source: str
    path: Path | None
    options: Mapping[str, Any]


@click.command("import")
@click.argument("recipe", required=False, metavar="[SOURCE]")
@click.option("--gguf", type=_PATH, help="A GGUF checkpoint of the llama architecture.")
@click.option("--huggingface", type=_PATH, help="A folder of the Llama family: config.json, safetensors, tokenizer.")
@click.option("--onnx", type=_PATH, help="An ONNX model: simplified, its shapes made static.")
@click.option("--pytorch", type=_PATH, help="A PyTorch program (torch.export.save): converted to ONNX.")
@click.option("--tflite", type=_PATH, help="A TensorFlow Lite model.")
@click.option("--hef", type=_PATH, help="A network that Hailo's Dataflow Compiler compiled.")
@click.option("--genai", type=_PATH, help="A folder that onnxruntime-genai reads.")
@click.option("--name", default="assistant", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Semantic version of the bundle.")
@click.option(
    "--quality",
    metavar="fast|faithful|exact",
    help="fast (default): 4-bit, for speed. faithful: nearly the checkpoint's own answers, about a fifth slower.",
)
@click.option("--exact", is_flag=True, help="Keep a GGUF file's quantized blocks as they are; slower.")
@click.option("--shape", multiple=True, metavar="INPUT=1,3,…", help="Of an input; -1 leaves a dimension free.")
@click.option("--inputs", type=_PATH, help="An .npz with an array an input, to compare and to ask.")
@click.option("--as-it-is", is_flag=True, help="Do not simplify the ONNX model.")
@click.option(
    "--in-container", is_flag=True, help="Convert the PyTorch program in a container of its own (root, podman)."
)
@click.option("--time-limit", type=click.IntRange(min=1), help="Seconds that PyTorch's conversion may take (900).")
@click.option("--hailort", metavar="RANGE", help="Versions of HailoRT that run the HEF, as >=5.1,<5.2.")
@click.option("--architecture", help="The HEF's chip, where the file names one that is not known here: hailo10h …")
@click.option("--language-model", is_flag=True, help="The HEF is a language model.")
@click.option("--golden", type=_PATH, help="Golden questions and answers (JSON), where they cannot be asked here.")
@click.option("--memory-mb", type=click.IntRange(min=1), help="Memory it needs, where you know better.")
@click.option("--hat", multiple=True, help="HAT that it needs; repeatable.")
@click.option("--description", help="A line about it.")
@click.option("--output", type=_PATH, help="Copy the bundle here (default: only the cache).")
@click.option("--license", "license_id", metavar="SPDX-ID", help="License, where the checkpoint does not say it.")
@click.option("--license-file", type=_PATH, help="License text to put into the bundle.")
@json_option
def import_(recipe: str | None, output: Path | None, *, as_json: bool, **options: Any) -> None:
    """Import SOURCE (smollm2), or a checkpoint of a file or folder, as a bundle.

    \b
    Examples:
      hedgerow model import smollm2
      hedgerow model import --gguf tuned.gguf --name assistant --version 1.1.0 --exact
      hedgerow model import --onnx detect.onnx --shape images=1,3,224,224 --license MIT --name detect
      hedgerow model import --pytorch detect.pt2 --license MIT --name detect
      hedgerow model import --hef detect.hef --hailort '>=5.1,<5.2' --golden asked.json --license MIT --name detect

    The bundle lands in var/cache/bundles, named by a hash of all that went into it; a second run answers from there.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    asked = _asked(recipe, options)
    if output is not None:
        output = output.absolute()
    from hedgerow.models import place  # onnx and gguf cost half a second, --help should not

    with progress() as bars:
        found = _import(asked, recipe, Reporter(bars))
    if output is not None:
        found = place.export(found, output)
    show(found, as_json=as_json)


def _asked(recipe: str | None, options: dict[str, Any]) -> _Asked:
    named = [source for source in SOURCES if options[source] is not None]
    if len(named) + (recipe is not None) != 1:
        raise UsageError(
            f"name a known model, or one of {', '.join('--' + source for source in SOURCES)}",
            next_step="run: hedgerow model import smollm2",
        )
    source = named[0] if named else "recipe"
    for option, sources in _OF.items():
        if options[option] and source not in sources:
            flag = "--" + option.replace("_", "-")
            meant = ", ".join("--" + each for each in sources if each != "recipe")
            raise UsageError(
                f"{flag} means nothing for {'a known model' if source == 'recipe' else '--' + source}",
                next_step=f"leave {flag} away; it is for {meant}",
            )
    if options["exact"] and options["quality"] not in {None, "exact"}:
        raise UsageError("--exact is a quality of its own", next_step="leave --quality away")
    return _Asked(source, options.get(source), options)


def _import(asked: _Asked, recipe: str | None, report: Reporter) -> Path:
    if asked.source in {"recipe", "gguf", "huggingface"}:
        return _import_decoder(asked, recipe, report)
    from hedgerow.models import file_imports

    said = _description(asked)
    options = asked.options
    path = asked.path or Path()
    match asked.source:
        case "onnx":
            from hedgerow.models.onnx_import import OnnxRequest, import_onnx

            shapes = dict(_shape(text) for text in options["shape"])
            request = OnnxRequest(path, said, shapes, options["inputs"], simplify=not options["as_it_is"])
            return import_onnx(request, progress=report)
        case "pytorch":
            return _import_pytorch(path, said, options, report)
        case "tflite":
            return file_imports.import_tflite(path, said)
        case "genai":
            return file_imports.import_genai(path, said)
        case _:
            if options["hailort"] is None:
                raise UsageError(
                    "a HEF does not say which HailoRT runs it",
                    next_step="say it: --hailort '>=5.1,<5.2' (the Dataflow Compiler's release notes name it)",
                )
            hef = file_imports.HefRequest(path, options["hailort"], options["architecture"], options["language_model"])
            return file_imports.import_hef(hef, said)


def _import_pytorch(path: Path, said: Description, options: Mapping[str, Any], report: Reporter) -> Path:
    from hedgerow.models import place, pytorch_import, torch_archive, torch_image, torch_run, torch_worker

    torch_archive.read(path)  # what is wrong with the file is said before anything has to be installed or built
    limit = options["time_limit"] or torch_run.TIME_LIMIT_S
    with contextlib.ExitStack() as held:
        command: torch_run.Command | None = None
        if options["in_container"]:
            command = held.enter_context(torch_image.command(say=err.print, time_limit_s=limit))
            tools = torch_image.locked_versions(torch_worker.TOOLS)
        else:
            torch_run.need_torch()
            tools = place.versions_of(*torch_worker.TOOLS)
        request = pytorch_import.PyTorchRequest(
            path,
            said,
            tools,
            dict(_shape(text) for text in options["shape"]),
            options["inputs"],
            simplify=not options["as_it_is"],
            command=command,
            time_limit_s=limit,
        )
        return pytorch_import.import_pytorch(request, progress=report)


def _import_decoder(asked: _Asked, recipe: str | None, report: Reporter) -> Path:
    from hedgerow.models import importer

    options = asked.options
    quality = "exact" if options["exact"] else options["quality"] or "fast"
    if asked.path is None:
        return importer.import_recipe(
            str(recipe), name=options["name"], version=options["version"], quality=quality, progress=report
        )
    describe = importer.request_for_file if asked.source == "gguf" else importer.request_for_folder
    request = describe(
        asked.path,
        name=options["name"],
        version=options["version"],
        quality=quality,
        license_id=options["license_id"],
        license_file=options["license_file"],
    )
    return importer.import_gguf(request, progress=report)


def _description(asked: _Asked) -> Description:
    from hedgerow.models.describing import HATS, Description, need_license

    options = asked.options
    requires: dict[str, Any] = {}
    if options["memory_mb"] is not None:
        requires["memory_mb"] = options["memory_mb"]
    if options["hat"]:
        unknown = sorted(set(options["hat"]) - set(HATS))
        if unknown:
            raise UsageError(f"no HAT is called {unknown[0]!r}", next_step=f"choose of: {', '.join(HATS)}")
        requires["hat"] = tuple(options["hat"])
    return Description(
        name=options["name"],
        version=options["version"],
        license=need_license(options["license_id"], f"--{asked.source}"),
        license_file=options["license_file"],
        description=options["description"] or "",
        golden=options["golden"],
        requires=requires,
    )


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not separator or not name or not shape or any(size < 1 and size != -1 for size in shape):
        raise UsageError(f"{text!r} is no shape", next_step="write it like: --shape images=1,3,224,224")
    return name, shape
