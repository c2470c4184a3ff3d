"""Read rules: each is one ONNX text model with functions `match` and `replace` and a main graph `example`.

The folder says for which runtime, the header says how exact and from which opset on. Nothing here is code of the
rule's author: a rule is data, and a bad one is refused with file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

import normswap
from normswap.errors import InputRefused
from normswap.rules.pattern import Pattern, is_constant

# The definition of a norm by its name and its number of inputs: without a bias there is one input less.
Definitions = Mapping[tuple[str, int], ir.Function]

DOMAIN = "rule"
NORMS = "normswap"
EXACTNESS = ("exact", "approximate")
# What a header may say; anything else is a slip of the pen.
KEYS = frozenset(
    {"exactness", "since_opset", "until_opset", "types", "ranks", "same_shape", "along_last", "beyond_onnx"}
)
# Constants of an example that have no value are drawn from N(0, 1) with this seed.
SEED = 20


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a rule, and where; `str` gives `file:line:column: message`."""

    path: Path
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class RuleError(InputRefused):
    """A rule file that cannot be used."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(str(complaint))
        self.complaint = complaint


@dataclass(frozen=True, eq=False)
class Rule:
    """One `match` → `replace`, with the model `example` that calls `match`; a file has one rule per overload.

    `ranks` are those that its first input may have, `same_shape` the inputs that must agree in their shape,
    `along_last` those with one element for each of the last axis of the first; empty: any. `beyond_onnx` are operators
    that the runtime knows in the default domain though onnx has none of these names.
    """

    name: str
    runtime: str
    path: Path
    match: Pattern
    replace: ir.Function
    example: onnx.ModelProto
    exact: bool
    since_opset: int
    until_opset: int | None
    types: frozenset[ir.DataType]
    ranks: frozenset[int] = frozenset()
    same_shape: frozenset[str] = frozenset()
    along_last: frozenset[str] = frozenset()
    beyond_onnx: frozenset[str] = frozenset()

    @property
    def norm(self) -> str:
        """The norm that it writes, "" where it is about other operators."""
        return self.match.root.op_type if self.match.root.domain == NORMS else ""

    @property
    def takes_more(self) -> bool:
        """Whether it takes operators around the norm, too."""
        return sum(not is_constant(node) for node in self.match.function) > 1

    def covers(self, opset: int) -> bool:
        """Whether `replace` is valid and means the same under `opset` of the default domain."""
        return self.since_opset <= opset <= (self.until_opset or opset)

    def complaint(self, message: str, place: str = "example") -> Complaint:
        """`message` about `place`, at the line where a function or the graph of that name begins."""
        return complain(self.path, self.path.read_text(encoding="utf-8"), message, place)


def rules_directory() -> Path:
    """The folder of the rules that come with normswap: inside the wheel, or beside the package in a checkout."""
    package = Path(normswap.__file__).parent
    found = [path for path in (package / "_rules", package.parent / "rules") if (path / "norms").is_dir()]
    if not found:
        raise InputRefused(f"{package}: the rules that belong to normswap are missing; install it again")
    return found[0]


def load(directory: Path | None = None) -> tuple[Rule, ...]:
    """The rules under `directory`/spell/<runtime>, the most specific first. Raises `RuleError` for a bad one."""
    root = (directory or rules_directory()) / "spell"
    if not root.is_dir():
        raise InputRefused(f"{root}: no such folder; rules are files spell/<runtime>/*.onnxtxt")
    rules = [rule for path in sorted(root.glob("*/*.onnxtxt")) for rule in read(path)]
    return tuple(sorted(rules, key=_specificity))


def _specificity(rule: Rule) -> tuple[int, int, str]:
    """The larger pattern first, then the newer rule."""
    return -len(rule.match.function), -rule.since_opset, rule.name


def read(path: Path) -> tuple[Rule, ...]:
    """The rules of one file, one per overload of `match`. Raises `RuleError`."""
    text, proto = parse(path)

    def check(condition: bool, message: str, place: str = "") -> None:
        if not condition:
            raise RuleError(complain(path, text, message, place))

    check(proto.graph.name == "example", f"the main graph is `{proto.graph.name}`; it must be named `example`")
    header = {entry.key: entry.value for entry in proto.metadata_props}
    wrong_key = next(iter(sorted(header.keys() - KEYS)), "")
    check(not wrong_key, f"`{wrong_key}` in the header is none of {', '.join(sorted(KEYS))}")
    check(header.get("exactness") in EXACTNESS, f"the header must say exactness: one of {', '.join(EXACTNESS)}")
    check(header.get("since_opset", "").isdecimal(), "the header must say since_opset: a number")
    check(header.get("until_opset", "1").isdecimal(), "until_opset in the header must be a number")
    types = header.get("types", "").split()
    for name in types:
        check(name.upper() in ir.DataType.__members__, f"`{name}` in types of the header is not an element type")
    ranks = header.get("ranks", "").split()
    check(all(rank.isdecimal() for rank in ranks), "ranks in the header must be numbers, separated by spaces")
    for item in proto.functions:
        wrong = loose_name(item)
        check(not wrong, wrong, item.name)
    fill(proto, SEED)
    model = ir.from_proto(proto)
    functions = {
        (name, overload): item for (domain, name, overload), item in model.functions.items() if domain == DOMAIN
    }
    check(any(name == "match" for name, _ in functions), f"there is no function `match` in domain `{DOMAIN}`")
    rules = []
    for overload, match in [(overload, item) for (name, overload), item in functions.items() if name == "match"]:
        suffix = f":{overload}" if overload else ""
        check(("replace", overload) in functions, f"`match{suffix}` has no `replace{suffix}`", "match")
        replace = functions["replace", overload]
        theirs = _signature(replace)
        for what, names in _signature(match).items():
            said = f"`match` and `replace` differ in their {what}: {names}, {theirs[what]}"
            check(names == theirs[what], said, "replace")
        shaped = {key: frozenset(header.get(key, "").split()) for key in ("same_shape", "along_last")}
        for key, wanted in shaped.items():
            strangers = sorted(wanted - {str(value.name) for value in match.inputs})
            check(not strangers or bool(suffix), f"{key} in the header: no input is called `{''.join(strangers[:1])}`")
        calls = [node for node in model.graph if node.op_identifier() == match.identifier()]
        check(bool(calls), f"the example does not call `{DOMAIN}.match{suffix}`", "example")
        operands = zip(match.inputs, calls[0].inputs, strict=False)
        constants = frozenset(str(own.name) for own, value in operands if value is not None and value.is_initializer())
        rules.append(
            Rule(
                name=f"{path.parent.name}/{path.stem}{suffix}",
                runtime=path.parent.name,
                path=path,
                match=Pattern(match, constants),
                replace=replace,
                example=proto,
                exact=header["exactness"] == "exact",
                since_opset=int(header["since_opset"]),
                until_opset=int(header["until_opset"]) if "until_opset" in header else None,
                types=frozenset(ir.DataType[name.upper()] for name in types),
                ranks=frozenset(map(int, ranks)),
                same_shape=shaped["same_shape"],
                along_last=shaped["along_last"],
                beyond_onnx=frozenset(header.get("beyond_onnx", "").split()),
            )
        )
    return tuple(rules)


def _signature(function: ir.Function) -> Mapping[str, list[str]]:
    return {
        "inputs": [str(value.name) for value in function.inputs],
        "outputs": [str(value.name) for value in function.outputs],
        "attributes": sorted(function.attributes),
    }


def loose_name(function: onnx.FunctionProto) -> str:
    """What is wrong with the first name that is read before it is made, or made twice; the parser minds neither."""
    made = set(function.input)
    for node in function.node:
        loose = [name for name in node.input if name and name not in made]
        twice = [name for name in node.output if name in made]
        if loose or twice:
            return _loose(function, (loose + twice)[0])
        made.update(node.output)
    return next((_loose(function, name) for name in function.output if name not in made), "")


def _loose(function: onnx.FunctionProto, name: str) -> str:
    return f"`{function.name}` reads `{name}` before it is made, or makes it twice"


def definitions(directory: Path | None = None) -> Definitions:
    """What each norm means: the functions of domain `normswap` in `directory`/norms. Raises `RuleError`."""
    found: dict[tuple[str, int], ir.Function] = {}
    for path in sorted(((directory or rules_directory()) / "norms").glob("*.onnxtxt")):
        found.update(norms_of(path))
    return found


def norms_of(path: Path) -> Definitions:
    """What the functions of domain `normswap` in one file mean. Raises `RuleError`."""
    text, proto = parse(path)
    found: dict[tuple[str, int], ir.Function] = {}
    for function in proto.functions:
        if function.domain == NORMS:
            wrong = loose_name(function)
            if wrong:
                raise RuleError(complain(path, text, wrong, function.name))
            found[function.name, len(function.input)] = ir.serde.deserialize_function(function)
    return found


def fill(proto: onnx.ModelProto, seed: int) -> None:
    """Give every constant that the graph declares without a value (in <...>) one: normal, or ones if not a float."""
    generator = np.random.default_rng(seed)
    graph = proto.graph
    made = {name for node in graph.node for name in node.output} | {item.name for item in graph.initializer}
    for info in [info for info in graph.value_info if info.name not in made]:
        tensor = info.type.tensor_type
        shape = [dimension.dim_value for dimension in tensor.shape.dim]
        dtype = ir.DataType(tensor.elem_type)
        array = generator.normal(size=shape) if dtype.is_floating_point() else np.ones(shape)
        graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype.numpy()), info.name))
        graph.value_info.remove(info)


def parse(path: Path) -> tuple[str, onnx.ModelProto]:
    """The text of a rule file and the model that it is. Raises `RuleError`."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, onnx.parser.parse_model(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(Complaint(path, 1, 1, f"cannot be read: {error}")) from error
    except onnx.parser.ParseError as error:
        raw = error.args[0]
        detail = raw.decode() if isinstance(raw, bytes) else str(raw)
        place = re.search(r"line: (\d+) column: (\d+)", detail)
        line, column = (int(place[1]), int(place[2])) if place else (1, 1)
        said = detail.strip().splitlines()[-1]
        raise RuleError(Complaint(path, line, column, said)) from error


def complain(path: Path, text: str, message: str, place: str) -> Complaint:
    """`message` at the line on which the function or graph `place` begins, or at the header."""
    begin = rf"^\s*{re.escape(place)}\s*[<(]" if place else r"^\s*<"
    for number, line in enumerate(text.splitlines(), start=1):
        if re.search(begin, line):
            return Complaint(path, number, len(line) - len(line.lstrip()) + 1, message)
    return Complaint(path, 1, 1, message)
