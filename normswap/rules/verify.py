"""Judge a rule by its own example: it must apply there, compute the same, and the example must be able to tell.

A rule that an example exercises with everyday values verifies whatever it does with them: every attribute must differ
from its default and weigh enough to be seen, and the output must vary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir

from normswap import reference
from normswap.emit import Emitter
from normswap.facts import Facts
from normswap.learn import learn
from normswap.reference import Array, Floats
from normswap.rules.execute import execute, relative
from normswap.rules.pattern import Captured, find, is_constant, plain, schema_defaults
from normswap.rules.read import (
    DOMAIN,
    NORMS,
    Complaint,
    Definitions,
    Rule,
    RuleError,
    complain,
    definitions,
    fill,
    norms_of,
    parse,
    read,
)
from normswap.rules.replacement import Emitted, Inapplicable, emit, fits, literal, new_constant, substitute

# Largest relative difference that float64 may make between `match` and `replace`.
TOLERANCE = 1e-9
# A captured float below this would not be missed: the example cannot tell 1e-5 from 1e-6 at inputs near 1.
VISIBLE = 1e-2
# The least spread of the example's output, relative to its size.
SPREAD = 1e-3
SEED = 7
# Where the operators of a runtime that onnx does not know are put out of the sight of its checker.
BEYOND = "beyond.onnx"
# What onnx and numpy raise at examples that are too large, empty, or call themselves.
BROKEN = (MemoryError, RuntimeError, TypeError, ValueError, onnx.checker.ValidationError)


def verify_file(path: Path, norms: Definitions | None = None) -> list[Complaint]:
    """What is wrong with one file of rules, or of a norm: that it cannot be read, or what the others here say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, of examples without elements: they get a complaint
            if norms_of(path):
                return verify_norm(path, norms)
            return [complaint for rule in read(path) for complaint in verify(rule, norms)]
    except RuleError as error:
        return [error.complaint]
    except BROKEN as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return [Complaint(path, 1, 1, f"it cannot be run: {said[0]}")]


def verify(rule: Rule, norms: Definitions | None = None) -> list[Complaint]:
    """What is wrong with `rule`: lints of its text, then its example through the real engine. Empty if nothing."""
    complaints = [*_unused(rule), *_everyday(rule), *_reads_itself(rule)]
    return complaints or list(_run(rule, definitions() if norms is None else norms))


def verify_norm(path: Path, norms: Definitions | None = None) -> list[Complaint]:
    """What is wrong with the definition of a norm: its example must call it, run, and vary. Empty if nothing."""
    try:
        text, proto = parse(path)
        known = {**(definitions() if norms is None else norms), **norms_of(path)}
    except RuleError as error:
        return [error.complaint]
    if proto.graph.name != "example":
        said = f"the main graph is `{proto.graph.name}`; it must be named `example`"
        return [complain(path, text, said, proto.graph.name)]
    called = {(node.op_type, len(node.input)) for node in proto.graph.node if node.domain == NORMS}
    missing = sorted(norms_of(path).keys() - called)
    if missing:
        name, count = missing[0]
        return [complain(path, text, f"the example does not call {name} with {count} inputs", "example")]
    fill(proto, SEED)
    model = ir.from_proto(proto)
    try:
        outputs = _outputs(model, _inputs(model, learn(model)), known, {})
    except reference.Unexecutable as error:
        return [complain(path, text, f"the example cannot be run: {error}", "example")]
    return [complain(path, text, f"output `{name}` {said}", "example") for name, said in _flat(outputs)]


# --- lints ----------------------------------------------------------------------------------------------------------


def _unused(rule: Rule) -> Iterator[Complaint]:
    """Everything that `match` binds must matter to `replace`: a captured ε that is not used is a hard-coded one."""
    for place, function in (("match", rule.match.function), ("replace", rule.replace)):
        referred = {attribute.ref_attr_name for node in function for attribute in node.attributes.values()}
        for name in function.attributes:
            if name not in referred:
                yield rule.complaint(f"attribute `{name}` is not used by `{place}`", place)
        for value in function.inputs:
            if not value.uses():
                yield rule.complaint(f"input `{value.name}` is not used by `{place}`", place)


def _everyday(rule: Rule) -> Iterator[Complaint]:
    """Every attribute must have a value in the example that could not be there by accident."""
    calls = _calls(rule)
    for name in rule.match.function.attributes:
        written = [call.attributes[name] for call in calls if name in call.attributes]
        if not written:
            yield rule.complaint(f"the example does not give attribute `{name}` a value")
        for value in map(plain, written):
            if isinstance(value, float) and abs(value) < VISIBLE:
                said = f"`{name}` = {value:g} in the example is too small for an error in it to show"
                yield rule.complaint(f"{said}; use {VISIBLE:g} or more")
            for node, attribute, default in _defaults(rule, name):
                if value == default:
                    yield rule.complaint(f"`{name}` = {value} in the example is the default of {node}.{attribute}")


def _defaults(rule: Rule, name: str) -> Iterator[tuple[str, str, Captured | None]]:
    """The operators' attributes that refer to attribute `name` of the rule, with their defaults."""
    for function in (rule.match.function, rule.replace):
        for node in function:
            defaults = schema_defaults(node.domain, node.op_type, function.opset_imports.get(node.domain, 1))
            for attribute in node.attributes.values():
                if attribute.is_ref() and attribute.ref_attr_name == name and not is_constant(node):
                    yield node.op_type, attribute.name, defaults.get(attribute.name)


def _reads_itself(rule: Rule) -> Iterator[Complaint]:
    """A further output must depend on every run-time input, or what reads it may be what computes another input."""
    run_time = {value for value in rule.match.function.inputs if value.name not in rule.match.constants}
    for output in rule.match.function.outputs[1:]:
        free = run_time - _ancestors(output)
        for value in free:
            yield rule.complaint(f"output `{output.name}` does not depend on input `{value.name}`", "match")


def _ancestors(value: ir.Value) -> set[ir.Value]:
    producer = value.producer()
    inputs = [] if producer is None else [item for item in producer.inputs if item is not None]
    return {value}.union(*map(_ancestors, inputs))


def _calls(rule: Rule) -> list[ir.Node]:
    model = ir.from_proto(rule.example)
    return [node for node in model.graph if node.op_identifier() == rule.match.function.identifier()]


# --- the example ----------------------------------------------------------------------------------------------------


def _run(rule: Rule, norms: Definitions) -> Iterator[Complaint]:
    """Inline the example, apply the rule as `spell` does, and compare; then check the result as an ONNX model."""
    try:
        model = ir.from_proto(onnx.inliner.inline_local_functions(_own_part(rule)))
        _lift_literals(model)
        facts = learn(model)
        inputs = _inputs(model, facts)
        before = _outputs(model, inputs, norms, {})
    except reference.Unexecutable as error:
        yield rule.complaint(f"the example cannot be run: {error}")
        return
    for name, said in _flat(before):
        yield rule.complaint(f"output `{name}` {said}")
        return
    applied = _apply(rule, facts)
    if not applied:
        yield rule.complaint("the rule does not apply to its own example", "match")
        return
    try:
        after = _outputs(model, inputs, norms, {key: array for item in applied for key, array in item.arrays.items()})
    except reference.Unexecutable as error:
        yield rule.complaint(f"`replace` cannot be run: {error}", "replace")
        return
    for name, array in before.items():
        if not relative(after[name], array) <= TOLERANCE:
            said = f"relative error {relative(after[name], array):.1e} at `{name}` of the example"
            yield rule.complaint(f"`replace` computes something else than `match`: {said}", "replace")
    yield from _valid(rule, model)


def _flat(outputs: Mapping[str, Floats]) -> Iterator[tuple[str, str]]:
    """The outputs of an example that cannot tell right from wrong."""
    for name, array in outputs.items():
        if not np.isfinite(array).all() or np.std(array) <= SPREAD * np.abs(array).max():
            yield name, "of the example does not vary, or is not finite"


def _own_part(rule: Rule) -> onnx.ModelProto:
    """The example without the calls of other overloads."""
    proto = onnx.ModelProto()
    proto.CopyFrom(rule.example)
    graph, overload = proto.graph, rule.match.function.overload
    others = [node for node in graph.node if node.domain == DOMAIN and node.overload != overload]
    gone = {name for node in others for name in node.output}
    for node in others:
        graph.node.remove(node)
    for output in [output for output in graph.output if output.name in gone]:
        graph.output.remove(output)
    return proto


def _lift_literals(model: ir.Model) -> None:
    """Constants of a rule are literals in whatever form, also one that its opset does not know yet."""
    for node in [node for node in model.graph if is_constant(node)]:
        value = new_constant(str(node.outputs[0].name), literal(node, {}), ir.DataType.FLOAT)
        node.outputs[0].replace_all_uses_with(value)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)


def _inputs(model: ir.Model, facts: Facts) -> dict[str, Array]:
    generator = np.random.default_rng(SEED)
    given: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape, dtype = facts.shape(value), facts.dtype(value)
        if shape is None or dtype is None or not dtype.is_floating_point():
            raise reference.Unexecutable(f"input `{value.name}` must be a float of known shape")
        given[str(value.name)] = generator.normal(size=shape) + 0.5
    return given


def _outputs(
    model: ir.Model, inputs: Mapping[str, Array], norms: Definitions, unrounded: Mapping[ir.Value, Array]
) -> dict[str, Floats]:
    """The outputs of the graph by name, in float64, with new constants before their rounding."""
    graph = model.graph
    arrays: dict[ir.Value, Array] = {value: inputs[str(value.name)] for value in graph.inputs}
    for value in graph.initializers.values():
        if value.const_value is not None:
            arrays[value] = reference.promote(np.asarray(value.const_value.numpy()))
    known = execute(graph, {**arrays, **unrounded}, lambda node: graph.opset_imports.get(node.domain, 1), norms)
    return {str(value.name): known[value].astype(np.float64) for value in graph.outputs}


def _apply(rule: Rule, facts: Facts) -> list[Emitted]:
    """Apply the rule wherever it matches; what was put in."""
    names, applied = Emitter.of(facts), list[Emitted]()
    for node in list(facts.model.graph):
        match = None if node.graph is None else find(rule.match, node, facts)
        if match is None or not fits(rule, match, facts):
            continue
        try:
            emitted = emit(rule, match, facts, f"site{len(applied)}", names.name)
        except Inapplicable:
            continue
        substitute(rule, match, emitted, facts)
        applied.append(emitted)
    return applied


def _valid(rule: Rule, model: ir.Model) -> Iterator[Complaint]:
    """The result must be valid ONNX under every opset for which the rule says it is."""
    proto = ir.to_proto(model)
    for node in proto.graph.node:
        if node.domain == "" and node.op_type in rule.beyond_onnx:  # the checker takes what it does not know
            node.domain = BEYOND
    proto.opset_import.append(onnx.helper.make_opsetid(BEYOND, 1))
    until = rule.until_opset or max(rule.since_opset, onnx.defs.onnx_opset_version())
    for opset in range(rule.since_opset, until + 1):
        for entry in proto.opset_import:
            if entry.domain == "":
                entry.version = opset
        try:
            onnx.checker.check_model(proto, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            said = " ".join(str(error).split())
            yield rule.complaint(f"`replace` is not valid under opset {opset}: {said}", "replace")
            return
