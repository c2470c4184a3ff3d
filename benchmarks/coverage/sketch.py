"""A graph in the making: operators and constants are put down one by one, and come out as ONNX text.

What changes between opsets, element types and ways to hold a constant is known here alone, so that a piece of a norm is
written once. Constants are drawn by name, and told back as the type holds them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx

Floats = npt.NDArray[np.float64]
Feeds = Mapping[str, npt.NDArray[np.generic]]

DTYPES: Mapping[str, npt.DTypeLike] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "bool": np.bool_,
}
NUMBERS = {"float": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "double": 11, "bfloat16": 16}
# What free dimensions are bound to where a graph is run: no two alike, and none that a graph fixes.
SIZES = {"B": 2, "T": 5, "H": 3, "W": 7, "N": 10}
# The opsets since which axes are an input, and the bounds of Clip are.
AXES_ARE_INPUTS = {"ReduceSum": 13, "Unsqueeze": 13, "Squeeze": 13, "Pad": 11}
REDUCTION_AXES_ARE_INPUTS = 18
# The opsets that torch exports to since axes are an input; it writes attributes that have their default.
OF_EXPORTERS = (18, 20, 23)
CLIP_BOUNDS_ARE_INPUTS = 11
# Initializers of older files must be inputs too, and are constant all the same.
INPUTS_HOLD_INITIALIZERS = 3


@dataclass(frozen=True, eq=False)
class Parameter:
    """A constant: its name in the graph, and its numbers as the graph's type holds them."""

    name: str
    values: Floats


@dataclass(eq=False)
class Sketch:
    """One graph. `work` is the type of the constants that come next, `form` the way in which they are held."""

    opset: int
    dtype: str
    form: str = "initializer"
    negative: bool = True  # whether axes are counted from the end
    work: str = ""
    lines: list[str] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    constants: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    formula: Callable[[Feeds], Sequence[Floats]] | None = None
    outer: Sketch | None = None
    names: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.work or self.dtype

    # --- operators ---------------------------------------------------------------------------------------------------

    def __call__(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Put down an operator with one output, and give back the name of that."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, outputs: int, operator: str, *inputs: str, **attributes: object) -> list[str]:
        """Put down an operator with several outputs."""
        label = operator.rpartition(".")[2]
        names = [self.fresh(label.lower()) for _ in range(outputs)]
        options = ", ".join(f"{name} = {_attribute(value)}" for name, value in attributes.items())
        self.lines.append(
            f"[{self.fresh(label)}] {', '.join(names)} = {operator} <{options}> ({', '.join(inputs)})"
            if options
            else f"[{self.fresh(label)}] {', '.join(names)} = {operator} ({', '.join(inputs)})"
        )
        return names

    def reduce(self, operator: str, x: str, axes: Sequence[int], *, keepdims: bool = True) -> str:
        """A reduction, or Unsqueeze, Squeeze; axes are an attribute or an input, as the opset wants them."""
        options: dict[str, object] = {"keepdims": int(keepdims)} if operator.startswith("Reduce") else {}
        if options and self.opset in OF_EXPORTERS:
            options["noop_with_empty_axes"] = 0
        if self.opset >= AXES_ARE_INPUTS.get(operator, REDUCTION_AXES_ARE_INPUTS):
            return self(operator, x, self.ints(axes), **options)
        return self(operator, x, axes=list(axes), **options)

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        """Clip; its bounds are attributes or inputs."""
        if self.opset < CLIP_BOUNDS_ARE_INPUTS:
            given = {"min": low, "max": high}
            return self("Clip", x, **{name: bound for name, bound in given.items() if bound is not None})
        bounds = ["" if bound is None else self.number(bound) for bound in (low, high)]
        return self("Clip", x, *bounds) if bounds[1] else self("Clip", x, bounds[0])

    def cast(self, x: str, dtype: str) -> str:
        """A Cast; constants that come next are of the new type."""
        self.work = dtype
        return self("Cast", x, to=NUMBERS[dtype])

    @property
    def wide(self) -> str:
        """The type that statistics are taken in where the graph's own is narrow."""
        return "double" if self.dtype in ("float", "double") else "float"

    # --- constants ---------------------------------------------------------------------------------------------------

    def number(self, value: float, dtype: str = "") -> str:
        """A scalar constant."""
        return self._hold(np.asarray(value, np.float64), dtype or self.work)

    def ints(self, values: Sequence[int] | int) -> str:
        """Integers: axes, shapes, positions."""
        return self._hold(np.asarray(values, np.int64), "int64")

    def array(self, values: npt.ArrayLike, dtype: str = "") -> Parameter:
        """A constant of these numbers."""
        array = np.asarray(values, np.float64)
        return Parameter(self._hold(array, dtype or self.work), self.rounded(array, dtype))

    def drawn(self, name: str, shape: Sequence[int], *, mean: float = 1.0, spread: float = 0.4) -> Parameter:
        """A constant whose numbers belong to its name, none of them near zero unless `mean` is."""
        random = np.random.default_rng(zlib.crc32(name.encode()))
        return self.array(mean + spread * np.clip(random.normal(size=tuple(shape)), -2, 2))

    def rounded(self, values: npt.ArrayLike, dtype: str = "") -> Floats:
        """Numbers as the type holds them."""
        return np.asarray(values, np.float64).astype(DTYPES[dtype or self.work]).astype(np.float64)

    def _hold(self, array: npt.NDArray[np.generic], dtype: str) -> str:
        name = self.fresh("c")
        uniform = array.size > 0 and bool((array == array.flat[0]).all())
        if self.form == "ConstantOfShape" and uniform and dtype not in ("bfloat16",):
            value = literal("", array.reshape(-1)[:1], dtype)
            shape = literal("", np.asarray(array.shape, np.int64), "int64")
            shaped = self.fresh("shape")
            self.lines.append(f"{shaped} = Constant <value = {shape}> ()")
            self.lines.append(f"{name} = ConstantOfShape <value = {value}> ({shaped})")
        elif self.form == "Constant":
            self.lines.append(f"{name} = Constant <value = {literal('', array, dtype)}> ()")
        else:
            root = self
            while root.outer is not None:
                root = root.outer
            root.constants.append(literal(name, array, dtype))
            if self.form == "Identity":
                return self("Identity", name)
        return name

    def fresh(self, stem: str) -> str:
        """A name that is not taken."""
        self.names[stem] = self.names.get(stem, 0) + 1
        return f"{stem}_{self.names[stem]}"

    # --- the whole ---------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: str, dtype: str = "") -> str:
        """An input of the graph."""
        self.inputs[name] = _type(dtype or self.dtype, shape)
        return name

    def output(self, value: str, shape: str, dtype: str = "") -> None:
        """An output of the graph."""
        self.outputs[value] = _type(dtype or self.dtype, shape)

    def body(self, form: str = "") -> Sketch:
        """A graph within this one; what it captures keeps its name."""
        return Sketch(self.opset, self.dtype, form or self.form, self.negative, self.work, outer=self, names=self.names)

    def text(self, name: str) -> str:
        """The graph itself."""
        inputs = ", ".join(f"{kind} {name}" for name, kind in self.inputs.items())
        outputs = ", ".join(f"{kind} {name}" for name, kind in self.outputs.items())
        constants = f" <{', '.join(self.constants)}>" if self.constants else ""
        lines = "\n  ".join(self.lines)
        return f"{name} ({inputs}) => ({outputs}){constants} {{\n  {lines}\n}}"

    def function(self, name: str, inputs: Sequence[str], output: str) -> str:
        """This graph as a function of the domain `local`; its constants are nodes."""
        header = f'<domain: "local", opset_import: ["" : {self.opset}]>'
        lines = "\n  ".join(self.lines)
        return f"{header}\n{name} ({', '.join(inputs)}) => ({output}) {{\n  {lines}\n}}"

    def model_text(self) -> str:
        """The model."""
        domains = {"": self.opset}
        whole = "\n".join([self.text("main"), *self.functions])
        domains.update({name: 1 for name in ("com.microsoft", "local") if f"{name}." in whole})
        imports = ", ".join(f'"{name}" : {version}' for name, version in domains.items())
        return f"<ir_version: {ir_version(self.opset)}, opset_import: [{imports}]>\n{whole}"

    def model(self) -> onnx.ModelProto:
        """The model, parsed."""
        model = onnx.parser.parse_model(self.model_text())
        if model.ir_version <= INPUTS_HOLD_INITIALIZERS:
            for tensor in model.graph.initializer:
                model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        return model


def _type(dtype: str, shape: str) -> str:
    return f"{dtype}[{shape}]" if shape else dtype


def ir_version(opset: int) -> int:
    """The version of the file format that came with an opset: from 3 up."""
    return next(row[1] for row in onnx.helper.VERSION_TABLE if row[2] >= opset and row[1] >= INPUTS_HOLD_INITIALIZERS)


def literal(name: str, array: npt.NDArray[np.generic], dtype: str) -> str:
    """A tensor in ONNX text; the 16-bit floats are written as their bits."""
    typed = np.asarray(array).astype(DTYPES[dtype])
    if dtype in ("float16", "bfloat16"):
        typed = typed.view(np.uint16)
    shape = f"[{','.join(map(str, typed.shape))}]" if typed.ndim else ""
    numbers = ", ".join(_number(item.item()) for item in typed.reshape(-1))
    return f"{dtype}{shape} {name}{' =' if name else ''} {{{numbers}}}"


def _number(value: float | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)


def _attribute(value: object) -> str:
    if isinstance(value, Sketch):
        return value.text(value.fresh("body"))
    if isinstance(value, list):
        return f"[{', '.join(map(_attribute, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no literal")
    return repr(value).replace("'", '"')
