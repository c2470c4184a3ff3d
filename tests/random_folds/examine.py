"""What must hold of every graph: the folded one computes the same, and each of its norms is gone, combined or refused.

Whole runs are onnx's evaluator in float64, or where that is wrong the program's own; some are onnxruntime in float32.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

import normswap
from normswap.check.truth import Evaluator, Noise
from normswap.goals import has_affine
from normswap.ledger import Conversion
from normswap.model import open_model
from normswap.session import Session
from tests.graphs import AGREEMENT, Array
from tests.operators import ConvTranspose
from tests.random_folds.draft import OTHER_SIZES, SIZES, Unfit, feeds, parsed
from tests.random_folds.growth import Drawn

# What cancels leaves rounding noise of its operands, which no two spellings share: of an output that is smaller than
# this, the error is taken relative to this.
SIGNAL = 1e-3
# An output that one more rounding at every node moves by some amount may differ by this many times as much.
AMPLIFIED = 30
# An ε that took a scale in is stored as a float32, whatever the type of the model.
STORED = float(np.finfo(np.float32).eps)
# In float32 a few sums of a few terms are off by less than this.
ROUNDED = 3e-5
# Operators that onnx 1.23.2's evaluator has wrong: Resize and GroupNormalization compute in float32, GlobalMaxPool
# keeps an axis, AveragePool forgets its dilations under VALID, MaxPool pads one axis as another, LSTM and RNN take
# every sequence for full (MATH.md §11).
MISJUDGED = re.compile(
    r'= (Resize|GroupNormalization|GlobalMaxPool|MaxPool)\b|AveragePool <[^>]*"VALID"'
    r"|(LSTM|RNN) [^()]*\((\w*, ?){4}\w"
)

Run = tuple[Mapping[str, Array], dict[str, Array]]  # what goes in, what comes out


class Wrong(Exception):
    """The property does not hold."""


@dataclass
class Outcome:
    """Of one graph or many: norms, those that are gone or combined, moves and refusals, and who ran it."""

    norms: int = 0
    gone: int = 0
    combined: int = 0
    moves: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    evaluators: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Count another one in."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def examined(graph: Drawn) -> Outcome:
    """The outcome of one graph. Raises `Wrong`, `Unfit` where nobody can run it, and what the program raises."""
    model = parsed(graph.text)
    onnx.checker.check_model(model)
    by_onnx, runs = _judged(graph.text, model)
    given = model.SerializeToString(deterministic=True)
    result = normswap.convert(model, list(graph.targets), check=False, **graph.options)
    if model.SerializeToString(deterministic=True) != given:
        raise Wrong("the model that was given has changed")
    _agrees(model, runs, result, by_onnx=by_onnx)
    again = normswap.convert(_model(result), list(graph.targets), check=False, **graph.options)
    _agrees(model, runs, again, by_onnx=by_onnx)
    before, after = _norms(model), _norms(_model(result))
    names, left = before.keys(), {name for name, kind in before.items() if after.get(name) == kind}
    combined = {rewrite.site for rewrite in result.rewrites if rewrite.rule == "combine"}
    silent = left - combined - {refusal.site for refusal in result.refused}
    if silent:
        raise Wrong(f"neither gone nor refused: {sorted(silent)}")
    return Outcome(
        len(names),
        len(names - left),
        len(left & combined),
        Counter(rewrite.rule for rewrite in result.rewrites),
        Counter(refusal.reason_id for refusal in result.refused),
        Counter(["onnx" if by_onnx else "normswap"]),
    )


def _model(result: Conversion) -> onnx.ModelProto:
    assert isinstance(result.model, onnx.ModelProto)
    return result.model


def _norms(model: onnx.ModelProto) -> dict[str, str]:
    """The kind of each norm with an Affine, by name."""
    session = Session.of(open_model(model).model, proving=False)
    return {norm.name: norm.kind for norm in (*session.norms, *session.affines) if has_affine(norm)}


# --- whole runs -----------------------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def run(model: onnx.ModelProto, given: Mapping[str, Array], *, by_onnx: bool) -> dict[str, Array]:
    """The outputs of a model, by name; by onnx's evaluator, or by the program's own."""
    if by_onnx:
        flat = inline_local_functions(model) if model.functions else model  # what is new is not known in functions
        results = ReferenceEvaluator(flat, new_ops=[ConvTranspose]).run(None, dict(given))
    else:
        results = Evaluator.open(ir.from_proto(model)).run(given)
    return {output.name: np.asarray(result) for output, result in zip(model.graph.output, results, strict=True)}


def _judged(text: str, model: onnx.ModelProto) -> tuple[bool, Sequence[Run]]:
    """Whether onnx's evaluator runs the model, or the program's own, and what it gives under both bindings."""
    problem: Exception | None = None
    for by_onnx in (False,) if MISJUDGED.search(text) else (True, False):
        try:
            given = [feeds(model, sizes) for sizes in (SIZES, OTHER_SIZES)]
            runs = [(each, run(model, each, by_onnx=by_onnx)) for each in given]
        except Exception as error:  # noqa: BLE001, PERF203  # evaluators raise many kinds
            problem = error
        else:
            if not all(np.isfinite(array).all() for _, outputs in runs for array in outputs.values()):
                raise Unfit("not finite")
            return by_onnx, runs
    raise Unfit(f"nobody runs it: {problem}")


def _agrees(original: onnx.ModelProto, runs: Sequence[Run], result: Conversion, *, by_onnx: bool) -> None:
    """Raises `Wrong` where a proof failed, or the result computes something else."""
    failed = next((refusal.reason for refusal in result.refused if refusal.reason_id == "proof-failed"), None)
    if failed is not None:
        raise Wrong(f"a proof failed: {failed}")
    model = _model(result)
    onnx.checker.check_model(model)
    agreement = AGREEMENT if _epsilons(model) <= _epsilons(original) else STORED
    for given, expected in runs:
        error = apart(expected, run(model, given, by_onnx=by_onnx))
        if not error <= agreement and not error <= AMPLIFIED * amplified(original, given):
            raise Wrong(f"the result differs by {error:.2e}: {Counter(rewrite.rule for rewrite in result.rewrites)}")


def _epsilons(model: onnx.ModelProto) -> set[float]:
    """Every ε that an operator has, in bodies too; one of zero, as a combined BatchNormalization has it, is exact."""
    nodes = (node for graph in ir.from_proto(model).graphs() for node in graph)
    written = (node.attributes.get("epsilon") for node in nodes)
    return {attribute.as_float() for attribute in written if attribute is not None} - {0.0}


def apart(before: Mapping[str, Array], after: Mapping[str, Array]) -> float:
    """How far two runs are apart, relative to the largest number of each output; infinite where type or shape differ."""
    worst = 0.0
    for name, left in before.items():
        right = after[name]
        if left.shape != right.shape or left.dtype != right.dtype or not np.isfinite(right).all():
            return np.inf
        size = max(float(np.abs(left).max(initial=0.0)), SIGNAL)
        worst = max(worst, float(np.abs(left - right).max(initial=0.0)) / size)
    return worst


def amplified(model: onnx.ModelProto, given: Mapping[str, Array]) -> float:
    """How far one more rounding at every node moves the outputs: that closely no two spellings agree."""
    evaluator = Evaluator.open(ir.from_proto(model))
    names = [output.name for output in model.graph.output]
    exact = dict(zip(names, evaluator.run(given), strict=True))
    disturbed = (evaluator.run(given, Noise(np.random.default_rng(seed))) for seed in range(5))
    return max(apart(exact, dict(zip(names, outputs, strict=True))) for outputs in disturbed)


# --- in float32, by onnxruntime -------------------------------------------------------------------------------------


def second_opinion(graph: Drawn) -> bool:
    """Whether onnxruntime runs the graph in float32; then the result must run, too, and be no further from the truth.

    Raises `Wrong`.
    """
    model = parsed(in_float32(graph.text))
    given = feeds(model)
    own = _by_onnxruntime(model, given)
    if own is None or not all(np.isfinite(array).all() for array in own.values()):
        return False
    result = normswap.convert(model, list(graph.targets), check=False, **graph.options)
    _agrees(model, (), result, by_onnx=False)
    found = _by_onnxruntime(_model(result), given)
    if found is None:
        raise Wrong("onnxruntime runs the model, but not the result")
    truth = run(model, given, by_onnx=False)
    error, before = (apart(truth, outputs) for outputs in (found, own))
    if not error <= max(ROUNDED, 2 * before) and not error <= AMPLIFIED * amplified(model, given):
        raise Wrong(f"in onnxruntime and float32 the result is off by {error:.2e}, the model by {before:.2e}")
    return True


def in_float32(text: str) -> str:
    """The same model in float32."""
    return re.sub(r"\bdouble\b", "float", text).replace("Cast <to = 11>", "Cast <to = 1>")


def _by_onnxruntime(model: onnx.ModelProto, given: Mapping[str, Array]) -> dict[str, Array] | None:
    """The outputs in float64; None where it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(None, {item.name: given[item.name] for item in session.get_inputs()})
    except Exception:  # noqa: BLE001  # onnxruntime raises many kinds
        return None
    return {
        output.name: np.asarray(array, dtype=np.float64)
        for output, array in zip(model.graph.output, results, strict=True)
    }
