"""The program of a ``torch.export`` archive: JSON, held to lists before PyTorch sees it.

PyTorch's reader trusts this text (torch 2.13): an operator's name is looked up attribute by attribute in ``torch``, so
it may be any function there; sizes are expressions that SymPy evaluates as Python; names of nodes become variables of
generated Python source; guards are Python source as they are; an enumeration in a tree's description imports the
module that it names. Each of them has a list here, and what is on none is refused. Source lines, module names and other
remarks are taken out: nothing needs them, and they name paths of the machine that exported.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from hedgerow.errors import RefusedError, UsageError

SCHEMA: Final = 8
"""Major version of the schema that PyTorch 2.9 and later write (``torch._export.serde.schema.SCHEMA_VERSION``)."""
# ATen's operators are computation, but for those that take a file's name.
_ATEN: Final = re.compile(r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+\.\w+", re.ASCII)
_PLAIN: Final = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|not|max|min|sum|sqrt|ite)"
    r"|torch\.ops\.higher_order\.wrap_with_set_grad_enabled"
)
_SYMBOL: Final = re.compile(r"(?:s|u|zf|zuf|z)[0-9]{1,9}")
_FUNCTIONS: Final = frozenset(
    {
        "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "False", "FloatPow", "FloatTrueDiv",
        "FloorDiv", "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity", "IntTrueDiv", "Integer",
        "IsNonOverlappingAndDenseIndicator", "LShift", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "ModularIndexing",
        "Mul", "Ne", "Not", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod", "RShift", "Rational",
        "RoundDecimal", "RoundToInt", "StrictGreaterThan", "StrictLessThan", "ToFloat", "True", "TruncToFloat",
        "TruncToInt", "Unequality", "Where",
    }
)  # fmt: skip
_EXPRESSION: Final = re.compile(r"[-+*/%(),<>=&|~ .\w]{1,1000}", re.ASCII)
# As SymPy writes a symbol out; the only quotes that an expression may have.
_SYMBOL_CALL: Final = re.compile(r"Symbol\('((?:s|u|zf|zuf|z)[0-9]{1,9})'(?:, [a-z]{1,20}=(?:True|False)){0,9}\)")
_ATTRIBUTE: Final = re.compile(r"\.(?![0-9])|(?<![0-9])\.")
# Of everything that has no list of its own: names with dots (weights), devices, versions.
_WORD: Final = re.compile(r"[\w.+-]{0,500}", re.ASCII)
# Text that an operator takes: a mode, or einsum's equation.
_TEXT: Final = re.compile(r"[\w.,:>+ -]{0,500}", re.ASCII)
_TREES: Final = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
# PyTorch's numbers of types (schema.ScalarType) → ONNX's (TensorProto.DataType).
DTYPES: Final[Mapping[int, int]] = {
    1: 2, 2: 3, 3: 5, 4: 6, 5: 7, 6: 10, 7: 1, 8: 11, 12: 9, 28: 4, 34: 12, 35: 13,
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """A tensor that the program is asked with: ONNX's number of its type; of a free dimension, the name."""

    name: str
    dtype: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Program:
    """The cleaned document, its inputs in order, and the least and largest size of each free dimension by name."""

    document: Any
    inputs: tuple[Input, ...]
    ranges: Mapping[str, tuple[int | None, int | None]]
    torch: str


def check(document: Any, path: Path) -> Program:
    """Hold the program to the lists, take remarks out (in place), and read its inputs.

    Raises:
        RefusedError: something is on no list; the message names it and the rule.
        UsageError: no program, one of another schema, or an input that is no tensor.
    """
    try:
        found = msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise UsageError(f"the program is none: {error}", where=str(path), next_step=_AGAIN) from error
    if found.schema_version.major != SCHEMA:
        raise UsageError(
            f"the program has schema {found.schema_version.major}; schema {SCHEMA} is read here",
            where=str(path),
            next_step="export it again with PyTorch 2.9 or later",
        )
    foreign = sorted(set(found.opset_version) - {"aten"})
    if foreign:
        raise _unknown(f"the program needs the operators of {', '.join(map(repr, foreign))}", path)
    _clean(document)
    try:
        check_words(document, path)
        inputs = _inputs(document["graph_module"], path)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"the program is none: {error!r}", where=str(path), next_step=_AGAIN) from error
    ranges = {name: (each.min_val, each.max_val) for name, each in found.range_constraints.items()}
    return Program(document, inputs, ranges, found.torch_version)


_AGAIN: Final = "export it again: torch.export.save"


class _Version(msgspec.Struct):
    major: int
    minor: int


class _Range(msgspec.Struct):
    min_val: int | None
    max_val: int | None


class _Document(msgspec.Struct):
    """What of a program is read or changed here; further fields are held to ``_WORD``."""

    graph_module: dict[str, Any]
    opset_version: dict[str, int]
    range_constraints: dict[str, _Range]
    schema_version: _Version
    torch_version: str


def _clean(document: dict[str, Any]) -> None:
    """Take out what no conversion needs."""
    document["guards_code"] = []
    module = document["graph_module"]
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    # The first entry is the whole program; the others name the parts it was written in.
    module["module_call_graph"] = module.get("module_call_graph", [])[:1]
    waiting: list[Any] = [module.get("graph")]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if "target" in found and "metadata" in found:
                found["metadata"] = {}
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def check_words(found: Any, path: Path, key: str = "") -> None:
    """Hold every text below ``found`` to the list of its ``key``. Raises as ``check``."""
    if isinstance(found, dict):
        for name, value in found.items():
            _check_word(name, "expr_str" if key == "range_constraints" else "", path)
            if name in {"device", "as_device"}:
                _check_device(value, path)
            check_words(value, path, name)
    elif isinstance(found, list):
        for value in found:
            check_words(value, path, key)
    elif isinstance(found, str):
        _check_word(found, key, path)


def _check_word(text: str, key: str, path: Path) -> None:
    match key:
        case "target" | "as_operator":
            if not _ATEN.fullmatch(text) and not _PLAIN.fullmatch(text):
                raise _unknown(f"the program uses {text!r}", path)
        case "expr_str":
            plain = _plain(text)
            names = set(re.findall(r"[A-Za-z_]\w*", plain)) - _FUNCTIONS
            fits = _EXPRESSION.fullmatch(plain) and not _ATTRIBUTE.search(plain)
            if not fits or not all(_SYMBOL.fullmatch(name) for name in names):
                raise _refused(
                    f"a size of the program is {text[:80]!r}, no plain arithmetic", "known-expressions", path
                )
        case "in_spec" | "out_spec":
            _check_tree(text, path)
        case "name" | "as_name" | "forward_arg_names":
            # An empty name is that of an argument without one.
            if text and (not _WORD.fullmatch(text) or not text.isidentifier() or keyword.iskeyword(text)):
                raise _refused(f"the program has something named {text[:80]!r}", "known-names", path)
        case _:
            if not (_TEXT if key in {"as_string", "as_strings"} else _WORD).fullmatch(text):
                raise _refused(f"the program has the text {text[:80]!r}", "known-names", path)


def _plain(expression: str) -> str:
    """``expression`` with bare names for its symbols: ``Symbol('s0', integer=True)`` is ``s0``."""
    return _SYMBOL_CALL.sub(r"\1", expression)


def _check_device(found: Any, path: Path) -> None:
    kind = found.get("type") if isinstance(found, dict) else None
    if kind not in {None, "cpu"}:
        raise UsageError(
            f"the model was exported on {str(kind)[:40]!r}; it is converted on the processor",
            where=str(path),
            next_step="export it again with the model and its inputs on the processor: model.cpu()",
        )


def _check_tree(text: str, path: Path) -> None:
    """Hold the description of nested inputs or outputs to tuples, lists and dictionaries of text."""
    try:
        _, spec = json.loads(text)
        waiting = [spec]
        while waiting:
            each = waiting.pop()
            kind, context = each["type"], each["context"]
            keys = [] if context is None else (json.loads(context) if isinstance(context, str) else context)
            plain = keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))
            if (kind is not None and kind not in _TREES) or not plain:
                raise _refused(f"inputs or outputs of the program are a {kind}", "known-names", path)
            for key in keys or []:
                _check_word(key, "", path)
            waiting += each["children_spec"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"the program's inputs are no tree: {error!r}", where=str(path), next_step=_AGAIN) from error


def _inputs(module: dict[str, Any], path: Path) -> tuple[Input, ...]:
    values = module["graph"]["tensor_values"]
    found = []
    for spec in module["signature"]["input_specs"]:
        if "user_input" not in spec:
            continue
        argument = spec["user_input"]["arg"]
        if "as_tensor" not in argument:
            raise UsageError(
                f"an input of the program is no tensor ({', '.join(argument)})",
                where=str(path),
                next_step="export a module whose inputs are tensors alone",
            )
        name = argument["as_tensor"]["name"]
        meta = values[name]
        if meta["dtype"] not in DTYPES:
            raise UsageError(
                f"input {name!r} has a type (number {meta['dtype']}) that cannot be imported",
                where=str(path),
                next_step="export the model with float32 or whole numbers as inputs",
            )
        sizes = [size["as_int"] if "as_int" in size else _plain(size["as_expr"]["expr_str"]) for size in meta["sizes"]]
        if not all(isinstance(size, str) or (type(size) is int and size >= 0) for size in sizes):
            raise TypeError(sizes)
        found.append(Input(name, DTYPES[meta["dtype"]], tuple(sizes)))
    if not found:
        raise UsageError(
            "the program has no inputs", where=str(path), next_step="export a module that is asked something"
        )
    return tuple(found)


def _unknown(what: str, path: Path) -> RefusedError:
    return RefusedError(
        f"{what}; only PyTorch's own ATen operators that take no file are converted (rule: known-operators)",
        where=str(path),
        next_step="export the model without it, or with run_decompositions() before torch.export.save",
    )


def _refused(what: str, rule: str, path: Path) -> RefusedError:
    return RefusedError(
        f"{what} (rule: {rule})", where=str(path), next_step="export the model again from its source, with plain names"
    )
