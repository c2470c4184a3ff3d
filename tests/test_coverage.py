"""The coverage matrix: every graph is what it is said to be, normswap says so too, and the judges see what is wrong.

normswap is asked about one graph of every spelling; `python -m benchmarks.coverage` asks about all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.coverage import judge, own
from benchmarks.coverage.cases import OPSETS, Case, load
from benchmarks.coverage.cell import CRASHED, LEFT, RECOGNIZED, WRONG, Cell
from benchmarks.coverage.evaluate import all_nodes, run
from benchmarks.coverage.page import page
from benchmarks.coverage.peers import Column
from benchmarks.coverage.spelling import ALL_DTYPES
from benchmarks.coverage.tools import UNSUPPORTED
from benchmarks.coverage.truth import CENTERED, DRAWS, EXTREMES, STATISTICAL, Trap, Truth, scaled_apart
from normswap import inspection
from normswap.reasons import REASONS
from normswap.targets import TARGETS

CASES = load()
NORMS = [case for case in CASES if not case.is_trap]
TRAPS = [case for case in CASES if case.is_trap]
ONE_EACH = list({case.spelling: case for case in reversed(CASES)}.values())[::-1]
NEWEST = onnx.defs.onnx_opset_version()
# Rounding in float64, and of what onnx's own operators hold in float32.
TOLERANCE = 1e-6
# A trap that differs by less from what it imitates is none.
BITES = 1e-2
# Before these opsets, onnxruntime has the operator in onnx's own domain, or onnx had it and took it back.
UNREGISTERED = {"SimplifiedLayerNormalization": 99, "LayerNormalization": 17, "GroupNormalization": 21}


def ids(case: Case) -> str:
    return case.name


def named(name: str) -> Case:
    return next(case for case in CASES if case.name.startswith(name))


def worst(case: Case, norms: tuple[Truth, ...] | None = None, *, centered: bool = False) -> float:
    """How far a graph is from its formula, or from the first of other norms of x."""
    feeds = [
        case.feeds(draw, seed)
        for seed, draw in enumerate(case.draws)
        if not (centered and (draw.offset or draw.constant))
    ]
    expected = [case.expected(given) if norms is None else [norms[0](given["x"])] for given in feeds]
    results = run(case.model, feeds)
    return max(
        scaled_apart(np.asarray(want), got)
        for wanted, outputs in zip(expected, results, strict=True)
        for want, got in zip(wanted, outputs, strict=norms is None)
    )


# --- the graphs are what they are said to be ------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_graph_is_valid(case: Case) -> None:
    unknown = any(case.opset < UNREGISTERED.get(node.op_type, 0) and not node.domain for node in all_nodes(case.model))
    if unknown:
        with pytest.raises(onnx.checker.ValidationError, match=r"No Op registered|is deprecated"):
            onnx.checker.check_model(case.model)
    else:
        onnx.checker.check_model(case.model, full_check=True)


@pytest.mark.parametrize("case", NORMS, ids=ids)
def test_a_graph_computes_its_formula(case: Case) -> None:
    """In float64, with constants that no narrower type has rounded."""
    assert worst(Case(case.spelling, case.opset, "double")) < TOLERANCE


@pytest.mark.parametrize("case", NORMS, ids=ids)
def test_a_graph_in_its_own_type_computes_its_formula(case: Case) -> None:
    """Rounded constants make a difference (a rounded 1/N a large one, on an offset), and not that of another function."""
    assert worst(case, centered=True) < judge.tolerance(case.dtype)


@pytest.mark.parametrize("case", TRAPS, ids=ids)
def test_a_trap_is_none_of_what_it_imitates(case: Case) -> None:
    trap = case.truth
    assert isinstance(trap, Trap)
    assert trap.imitates
    assert trap.reasons <= REASONS.keys()
    feeds = [case.feeds(draw, seed) for seed, draw in enumerate((*DRAWS, *EXTREMES))]
    results = [outputs[0] for outputs in run(case.model, feeds)]
    for imitated in trap.imitates:
        assert max(scaled_apart(imitated(given), got) for given, got in zip(feeds, results, strict=True)) > BITES


PLAIN = [
    case
    for case in NORMS
    if case.spelling.group in ("plain", "mixture", "decomposed", "divided") and len(case.norms) == 1
]


@pytest.mark.parametrize("case", PLAIN[::7], ids=ids)
def test_another_norm_is_seen(case: Case) -> None:
    """A formula with another ε, over another axis, centered or not, is not what the graph computes."""
    exact = Case(case.spelling, case.opset, "double")
    norm = exact.norms[0]
    if norm.function is None and norm.epsilon:
        assert worst(exact, (replace(norm, epsilon=norm.epsilon * 1.5),)) > TOLERANCE
    if norm.function is None:
        other = "RMSNorm" if norm.kind in CENTERED else "LayerNorm"
        assert worst(exact, (replace(norm, kind=other),)) > BITES
        assert worst(exact, (replace(norm, axes=(0,), groups=1),)) > BITES


# --- all that is to vary varies -------------------------------------------------------------------------------------


def test_every_axis_of_variation_occurs() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.opset for case in CASES} == {opset for opset in OPSETS if opset <= NEWEST}
    assert {case.dtype for case in CASES} == set(ALL_DTYPES)
    assert {case.model.ir_version for case in CASES} >= {3, 4, 8, 10}
    for kind in ("LayerNorm", "RMSNorm", "Trap"):
        members = [case for case in CASES if case.kind == kind]
        assert {(case.dtype, case.opset >= 18) for case in members} == {(t, new) for t in ALL_DTYPES for new in (0, 1)}


def words(text: str) -> list[str]:
    return text.split()


KINDS = words("""LayerNorm RMSNorm InstanceNorm GroupNorm BatchNorm MeanVarianceNorm L2Norm ScaleNorm PowerNorm PartialRMSNorm
    WeightNorm WeightStandardization SpectralNorm Affine""")
OPERATORS = words("""Pow Mul Div Reciprocal Sqrt Sub Add Neg Max Relu Abs Clip Sum ReduceMean ReduceSum ReduceSumSquare ReduceL2
    GlobalAveragePool MatMul Cast Expand Tile Reshape Shape Transpose Identity Constant ConstantOfShape Slice Split
    InstanceNormalization LayerNormalization RMSNormalization GroupNormalization BatchNormalization LpNormalization
    MeanVarianceNormalization SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
    EmbedLayerNormalization GroupNorm SkipGroupNorm If Loop Scan norm""")
NAMES = words("""two-subs e-x2-minus-mean2 guard-max guard-relu guard-abs guard-clip 1/n-times-sum sample-variance tensorflow
    mean-matrix eps-left eps-absent one-over pow-minus-half cast-around cast-gain-within cast-statistics gain-1-1-d
    1-d-1-1 gain-scalar channels-first by-transposes dynamic negative positive no-axes-are-all one-plus-weight
    intermediate-is-output intermediate-is-read AdaLN FiLM style of-queries LSTM RepBN
    unified-normalization power-norm""")
TRAPS_OF_THE_ISSUE = words("""mean-minus-x exponent keepdims0 axes/variance-over-another-axis epsilon/outside max-instead-of-add
    piecewise/min piecewise/clip piecewise/where size/sample-variance gain/along-the-wrong-axis gain/expands-the-rank
    groups partial mean-of-something-else softmax root-of-x-divides-y""")


def test_every_item_of_the_issue_occurs() -> None:
    assert {case.kind for case in CASES} == {*KINDS, "Trap"}
    used = {node.op_type for case in CASES for node in all_nodes(case.model)}
    assert used >= set(OPERATORS)
    names = "\n".join(case.name for case in NORMS)
    assert [name for name in NAMES if name not in names] == []
    assert [name for name in TRAPS_OF_THE_ISSUE if not any(name in case.name for case in TRAPS)] == []


# --- normswap ------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every norm can become is asked elsewhere; here, what it is."""
    monkeypatch.setattr(inspection, "TARGETS", {"folded": TARGETS["folded"]})


@pytest.mark.usefixtures("one_trial")
@pytest.mark.parametrize("case", ONE_EACH, ids=ids)
def test_normswap(case: Case) -> None:
    assert own.judged(case) == Cell(LEFT if case.is_trap else RECOGNIZED)


class Claimed(Case):
    """A case that is said to be something else than it is."""

    claim: tuple[Truth, ...] | Trap

    @property
    def truth(self) -> tuple[Truth, ...] | Trap:
        return self.claim


def claimed(case: Case, claim: tuple[Truth, ...] | Trap) -> Case:
    other = Claimed(case.spelling, case.opset, case.dtype)
    object.__setattr__(other, "claim", claim)
    return other


def otherwise(norm: Truth) -> Iterator[Truth]:
    """Norms of which a row of this one would be wrong."""
    yield replace(norm, kind="RMSNorm")
    yield replace(norm, axes=(1,))
    yield replace(norm, epsilon=norm.epsilon * 1.001)
    yield replace(norm, groups=2)


def test_a_wrong_row_is_seen() -> None:
    case = named("LayerNorm/plain")
    (norm,) = case.norms
    assert own.judged(case).word == RECOGNIZED
    for other in otherwise(norm):
        assert own.judged(claimed(case, (other,))).word == WRONG, other
    assert own.judged(claimed(case, (replace(norm, kind="InstanceNorm"),))).word == LEFT
    assert own.judged(claimed(case, (replace(norm, runtime=frozenset({"gain"})),))).word == LEFT
    assert own.judged(claimed(case, (norm, norm))).word == LEFT
    assert own.judged(claimed(case, ())).word == WRONG
    assert own.judged(claimed(case, Trap((), frozenset({"negated"})))).word == WRONG


def test_a_wrong_reason_is_seen() -> None:
    case = named("Trap/sign/mean-minus-x")
    assert own.judged(case) == Cell(LEFT)
    assert own.judged(claimed(case, Trap((), frozenset({"piecewise"})))).note.endswith("got negated")


# --- peers ---------------------------------------------------------------------------------------------------------


def judged(case: Case, model: onnx.ModelProto, folder: Path) -> Cell:
    onnx.save(model, folder / "result.onnx")
    return judge.judged(case, folder / "result.onnx", "")


def test_what_is_the_same_is_left(tmp_path: Path) -> None:
    for name in ("LayerNorm/plain", "Trap/piecewise/min", "ScaleNorm/divided", "PartialRMSNorm"):
        assert judged(named(name), named(name).model, tmp_path) == Cell(LEFT)


def test_an_operator_is_recognized(tmp_path: Path) -> None:
    for name in (
        "LayerNorm/operator",
        "GroupNorm/operator/GroupNormalization-3",
        "BatchNorm/operator",
        "L2Norm/operator",
    ):
        assert judged(named(name), named(name).model, tmp_path) == Cell(RECOGNIZED)


def fused(case: Case, epsilon: float, axis: int = -1) -> onnx.ModelProto:
    """What a tool may make of a norm over the last axis with a gain and a bias."""
    (norm,) = case.norms
    kind = {"float": 1, "double": 11}[case.dtype]
    parameters = [
        onnx.numpy_helper.from_array(np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind)), name)
        for name, array in (("gain", norm.gain), ("bias", norm.bias))
    ]
    node = onnx.helper.make_node("LayerNormalization", ["x", "gain", "bias"], ["y"], axis=axis, epsilon=epsilon)
    x, y = case.model.graph.input[0], onnx.ValueInfoProto()
    y.CopyFrom(case.model.graph.output[0])
    y.name = "y"
    graph = onnx.helper.make_graph([node], "main", [x], [y], parameters)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_a_fusion_is_judged_by_its_numbers(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name.startswith("LayerNorm/plain") and case.dtype == "float")
    assert judged(case, fused(case, 1e-5), tmp_path) == Cell(RECOGNIZED)
    assert judged(case, fused(case, 2e-5), tmp_path).word == WRONG
    assert judged(case, named("RMSNorm/plain").model, tmp_path).word == WRONG


def test_failures_are_told_apart(tmp_path: Path) -> None:
    case = named("LayerNorm/plain")
    assert judge.judged(case, tmp_path / "none.onnx", "exit code -11") == Cell(CRASHED, "exit code -11")
    assert judge.judged(case, tmp_path / "none.onnx", f"{UNSUPPORTED}no kernel").word == LEFT
    assert judge.judged(case, tmp_path / "none.onnx", "").word == WRONG


def test_the_page_sums_up() -> None:
    chosen = [named("LayerNorm/plain"), named("Trap/sign"), named("GroupNorm/operator")]
    words = (RECOGNIZED, WRONG, CRASHED)
    cells = {case.name: Cell(word, f"why {word}") for case, word in zip(chosen, words, strict=True)}
    text = page(chosen, [Column("a tool", "1.0", cells), Column("another", "", {})])
    assert "a tool 1.0" in text
    assert "another (not installed)" in text
    sums = [line for line in text.splitlines() if line.startswith("| **")]
    assert ["".join(line.split()) for line in sums] == ["|**all,recognized**|2|1||", "|**traps,wrong**|1|1||"]
    assert "- wrong: `Trap/sign" in text
    assert "why crashed" in text


@pytest.mark.skipif(OPSETS[-1] > NEWEST, reason="some graphs are newer than the onnx that is installed")
def test_the_page_in_docs_is_of_these_graphs() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert f"{len(CASES)} small graphs, generated from {len(ONE_EACH)} spellings" in " ".join(text.split())


def test_every_statistical_kind_has_operators_or_none_by_intention() -> None:
    assert {kind for kind in STATISTICAL if not judge.OPERATORS[kind]} == {"PartialRMSNorm"}
