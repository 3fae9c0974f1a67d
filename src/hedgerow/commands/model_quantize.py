"""``hedgerow model quantize``: smaller builds of a model, several in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from hedgerow.errors import UsageError
from hedgerow.output import err, json_option, print_json, print_table, step

if TYPE_CHECKING:
    from hedgerow.models.quantize_calibration import Inputs
    from hedgerow.models.quantize_onnx import Options, Result, Scheme
    from hedgerow.models.variants import Wanted

_NUMBERS = {"prune": float, "block": int}
_REQUIRES = {"memory_mb": int, "hat": str, "board": str, "machine": str, "hailort": str}


@click.command("quantize")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New bundle's folder, or .onnx file.")
@click.option("--scheme", metavar="SCHEME", help="dynamic-int8, static-qdq, int4-weights or float32: one variant.")
@click.option("--variant", "variants", multiple=True, metavar="NAME=SCHEME[,KEY=VALUE]…", help="A variant; repeat it.")
@click.option("--calibration", type=click.Path(path_type=Path, exists=True), help="Inputs for static-qdq: .npz files.")
@click.option("--prune", type=float, default=0.0, help="Share of the smallest weights to set to zero, 0 to 0.95.")
@click.option("--block", type=int, default=32, show_default=True, help="Weights a block, for int4-weights.")
@click.option("--keep", multiple=True, metavar="NODE", help="A node that stays as it is; repeat it.")
@click.option("--version", help="Version of the new bundle (default: the source's).")
@json_option
def quantize(  # noqa: PLR0917 -- click passes them by name
    source: Path,
    output: Path,
    scheme: str | None,
    variants: tuple[str, ...],
    calibration: Path | None,
    prune: float,
    block: int,
    keep: tuple[str, ...],
    version: str | None,
    *,
    as_json: bool,
) -> None:
    """Quantize SOURCE: a bundle with an ONNX model, or a bare .onnx file.

    \b
    Examples:
      hedgerow model quantize bundles/classifier --scheme static-qdq --calibration samples/ --output bundles/small
      hedgerow model quantize bundles/classifier --output bundles/both --calibration samples/ \\
        --variant int8=static-qdq --variant full=float32,memory_mb=900

    A variant's keys: prune, block; memory_mb, hat, board, machine, hailort say what its host must have. The first
    variant is the default. Convolutions are never quantized dynamically; what stayed in float is said.
    """  # noqa: D301 -- click's mark for a paragraph as it stands
    if (scheme is None) == (not variants):
        raise UsageError("give --scheme or --variant, one of the two", next_step="--scheme dynamic-int8")
    from hedgerow.models import quantize_calibration  # numpy, onnx: --help must not pay for them

    inputs = quantize_calibration.load(calibration) if calibration is not None else None
    defaults = {"prune": prune, "block": block}
    wanted = [_wanted(each, inputs, keep, defaults) for each in variants or (f"default={scheme}",)]
    if source.is_dir():
        _bundle(source, output, wanted, version=version, as_json=as_json)
        return
    if variants or version:
        raise UsageError(
            "a bare .onnx file has no version and no variants",
            where=str(source),
            next_step=f"make a bundle first: hedgerow model import --onnx {source}",
        )
    _file(source, output, wanted[0].options, as_json=as_json)


def _wanted(text: str, inputs: Inputs | None, keep: tuple[str, ...], defaults: dict[str, Any]) -> Wanted:
    """Read ``NAME=SCHEME[,KEY=VALUE]…``."""
    from hedgerow.models.quantize_onnx import Options
    from hedgerow.models.variants import Wanted
    from hedgerow.registry.manifest import is_name

    name, _, rest = text.partition("=")
    scheme, *pairs = rest.split(",")
    if not is_name(name) or not scheme:
        raise UsageError(f"--variant {text!r} is not NAME=SCHEME", next_step="--variant small=int4-weights,block=64")
    numbers, requires = dict(defaults), {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            if key in _NUMBERS:
                numbers[key] = _NUMBERS[key](value)
            elif key in {"hat", "board"}:
                requires[key] = tuple(value.split("|"))
            else:
                requires[key] = _REQUIRES[key](value)
        except (KeyError, ValueError) as error:
            known = ", ".join([*_NUMBERS, *_REQUIRES])
            raise UsageError(f"--variant {text!r}: {pair!r} cannot be used", next_step=f"keys: {known}") from error
    options = Options(
        scheme=cast("Scheme", scheme),  # Options says which there are
        prune=numbers["prune"],
        calibration=inputs,
        block_size=numbers["block"],
        keep=keep,
    )
    return Wanted(name, options, requires)


def _bundle(source: Path, output: Path, wanted: list[Wanted], *, version: str | None, as_json: bool) -> None:
    from hedgerow.models import variants

    built = variants.build(source, output, wanted, version=version, progress=step)
    names = [each.name for each in wanted]
    if as_json:
        facts = [_facts(result) | {"variant": name} for name, result in zip(names, built.results, strict=True)]
        print_json({"path": str(output), "reference": built.document.reference, "variants": facts})
        return
    print_table(
        str(built.document.reference), _COLUMNS, [_row(*each) for each in zip(names, built.results, strict=True)]
    )
    _warn(dict(zip(names, built.results, strict=True)))


def _file(source: Path, output: Path, options: Options, *, as_json: bool) -> None:
    from hedgerow.models.quantize_onnx import quantize_model

    if output.exists():
        raise UsageError("the output is there already", where=str(output), next_step="name another one, or remove it")
    result = quantize_model(source, output, options)
    if as_json:
        print_json(_facts(result) | {"path": str(output)})
        return
    print_table(None, _COLUMNS, [_row(output.name, result)])
    _warn({output.name: result})


_COLUMNS = ("variant", "scheme", "weights before", "after", "quantized", "left in float", "zeros")


def _row(name: str, result: Result) -> tuple[Any, ...]:
    return (
        name,
        result.scheme,
        f"{result.size_before / 1e6:.2f} MB",
        f"{result.size_after / 1e6:.2f} MB",
        ", ".join(f"{count} {kind}" for kind, count in result.quantized.items()) or None,
        ", ".join(f"{count} {kind}" for kind, count in result.left.items()) or None,
        f"{result.sparsity:.0%}" if result.sparsity else None,
    )


def _facts(result: Result) -> dict[str, Any]:
    import msgspec

    return {
        "scheme": result.scheme,
        "quantization": msgspec.to_builtins(result.quantization),
        "quantized": result.quantized,
        "left": result.left,
        "sparsity": result.sparsity,
        "weight_bytes_before": result.size_before,
        "weight_bytes_after": result.size_after,
        "warnings": list(result.warnings),
        "tools": result.tools,
    }


def _warn(results: dict[str, Result]) -> None:
    for name, result in results.items():
        for text in result.warnings:
            err.print(f"[yellow]{name}:[/yellow] {text}", highlight=False)
