"""Whole checks: right pairs pass, each wrong one fails for its reason, and what cannot be known is inconclusive."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from normswap.check import check
from normswap.errors import Inconclusive, InputRefused, UsageError

SIZE = 24
HEADER = '<ir_version: 10, opset_import: ["": 23]>'
TYPES = f"float[B, S, {SIZE}] x"


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)

    def normal(*shape: int, mean: float = 0.3) -> np.ndarray:
        return (generator.standard_normal(shape) + mean).astype(np.float32)

    return {"w": normal(SIZE, SIZE), "b": normal(SIZE), "g": normal(SIZE), "t": normal(SIZE), "v": normal(SIZE, 40)}


def declared(w: dict[str, np.ndarray]) -> str:
    return ", ".join(f"float{list(array.shape)} {name}" for name, array in w.items())


def layer_norm(build, **changed):
    w = {**weights(), **changed}
    return build(
        f"""{HEADER} linear_norm ({TYPES}) => (float[B, S, 40] y) <{declared(w)}> {{
            h = MatMul(x, w)
            c = Add(h, b)
            n = LayerNormalization<axis = -1>(c, g, t)
            y = MatMul(n, v)
        }}""",
        **w,
    )


def rms_norm(build, epsilon: float = 1e-5, **changed):
    w = {**weights(), **changed}
    return build(
        f"""{HEADER} linear_norm ({TYPES}) => (float[B, S, 40] y) <{declared(w)}> {{
            h = MatMul(x, w)
            c = Add(h, b)
            n = RMSNormalization<axis = -1, epsilon = {epsilon}>(c, g)
            m = Add(n, t)
            y = MatMul(m, v)
        }}""",
        **w,
    )


def centered(w: np.ndarray) -> np.ndarray:
    exact = w.astype(np.float64)
    return (exact - exact.mean(axis=-1, keepdims=True)).astype(np.float32)


def only_output(result):
    assert len(result.outputs) == 1
    return result.outputs[0]


@pytest.mark.parametrize("quick", [True, False])
def test_exact_rewrite_passes(build, quick):
    w = weights()
    result = check(layer_norm(build), rms_norm(build, w=centered(w["w"]), b=centered(w["b"])), quick=quick)
    assert result.verdict == "pass", result.reason
    assert only_output(result).float64_difference < 1e-5  # rounding of the new weights to float32, and no more
    assert {run.binding for run in result.runs} == ({"odd"} if quick else {"odd", "one", "larger"})


def test_a_result_that_the_optimizing_runtime_refuses_fails(build):
    """A gain of one element broadcasts by definition, but not in the operator that Add + LayerNormalization becomes."""

    def summed(gain: np.ndarray):
        text = f"{HEADER} sum ({TYPES}) => (float[B, S, {SIZE}] y) <float[{SIZE},{SIZE}] w, float[{gain.size}] g> "
        return build(
            f"{text} {{ t = MatMul(x, w) c = Add(t, x) y = LayerNormalization<axis = -1>(c, g) }}",
            w=weights()["w"],
            g=gain,
        )

    result = check(summed(np.ones(SIZE, np.float32)), summed(np.ones(1, np.float32)))
    assert result.verdict == "fail"
    assert "with onnxruntime's own optimizations the converted model does not run" in result.reason


def test_model_against_itself_has_no_difference(build):
    model = layer_norm(build)
    result = check(model, model, quick=True)
    assert result.verdict == "pass"
    assert only_output(result).max_abs_difference == 0
    assert only_output(result).float64_difference == 0
    assert only_output(result).rmse_ratio == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda build, w: rms_norm(build), id="not centered"),
        pytest.param(lambda build, w: rms_norm(build, w=centered(w["w"])), id="bias not centered"),
        pytest.param(lambda build, w: rms_norm(build, w=centered(w["w"].T).T, b=centered(w["b"])), id="wrong axis"),
        pytest.param(
            lambda build, w: rms_norm(build, w=centered(w["w"]), b=centered(w["b"]), epsilon=1e-3), id="epsilon"
        ),
        pytest.param(
            lambda build, w: rms_norm(build, w=centered(w["w"]), b=centered(w["b"]), t=2 * w["t"]), id="shift twice"
        ),
        pytest.param(
            lambda build, w: rms_norm(
                build, w=centered(w["w"]).astype(np.float16).astype(np.float32), b=centered(w["b"])
            ),
            id="weights lost half their digits",
        ),
    ],
)
def test_wrong_rewrite_fails(build, wrong):
    result = check(layer_norm(build), wrong(build, weights()), quick=True)
    assert result.verdict == "fail"
    assert "output `y`" in result.reason


def test_swap_that_zero_mean_data_cannot_see(build):
    """On N(0, 1) rows of 768 a missing mean subtraction leaves a cosine of 0.999; shifted data shows it."""
    gain = np.ones(768, np.float32)
    text = f"{HEADER} norm (float[B, 768] x) => (float[B, 768] y) <float[768] g> {{{{ y = {{}}(x, g) }}}}"
    model = build(text.format("LayerNormalization"), g=gain)
    assert check(model, build(text.format("RMSNormalization"), g=gain), quick=True).verdict == "fail"


def embedding(build, table: np.ndarray):
    return build(
        f"""{HEADER} embed (int64[B, S] ids, int64[B, S] positions) => (float[B, S, 4] y)
        <float[50, 4] table, float[9, 4] place> {{
            word = Gather(table, ids)
            at = Gather(place, positions)
            y = Add(word, at)
        }}""",
        table=table,
        place=np.arange(36, dtype=np.float32).reshape(9, 4),
    )


def test_corrupted_rows_of_an_embedding_are_seen(build):
    table = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    corrupted = table.copy()
    corrupted[2:] *= 5
    assert check(embedding(build, table), embedding(build, table), quick=True).verdict == "pass"
    assert check(embedding(build, table), embedding(build, corrupted), quick=True).verdict == "fail"


def test_lost_input_fails_although_the_numbers_agree(build):
    one = build(f"{HEADER} g (float[N] x, float[N] mask) => (float[N] y) {{ y = Neg(x) }}")
    other = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Neg(x) }}")
    result = check(one, other)
    assert result.verdict == "fail"
    assert "input `mask` is lost" in result.reason


def test_all_nan_is_inconclusive(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ a = Abs(x)\n b = Neg(a)\n c = Log(b)\n y = Sqrt(c) }}")
    result = check(model, model)
    assert result.verdict == "inconclusive"
    assert "not one value is finite" in result.reason


def test_nan_in_one_model_only_fails(build):
    one = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Abs(x) }}")
    other = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ s = Sqrt(x)\n y = Mul(s, s) }}")
    result = check(one, other, quick=True, inputs={"x": np.array([-1, 4], np.float32)})
    assert result.verdict == "fail"
    assert "NaN" in result.reason


CONSTANT = "zero = Sub(x, x)\n one = Cos(zero)"


def test_constant_output_is_inconclusive(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] one) {{ {CONSTANT} }}")
    result = check(model, model)
    assert result.verdict == "inconclusive"
    assert "no output depends on the inputs" in result.reason
    assert only_output(result).constant


def test_one_constant_output_among_others_is_reported(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] one, float[N] y) {{ {CONSTANT}\n y = Neg(x) }}")
    result = check(model, model)
    assert result.verdict == "pass"
    assert any("`one` does not depend" in warning for warning in result.warnings)


def test_integers_are_compared_exactly(build):
    text = f"{HEADER} g (float[N, 9] x) => (int64[N] y) {{{{ y = ArgMax<axis = 1, keepdims = 0>({{}}) }}}}"
    one = build(text.format("x"))
    other = build(
        f"{HEADER} g (float[N, 9] x) => (int64[N] y) {{ z = Neg(x)\n y = ArgMax<axis = 1, keepdims = 0>(z) }}"
    )
    assert check(one, one, quick=True).verdict == "pass"
    result = check(one, other, quick=True)
    assert result.verdict == "fail"
    assert "elements differ" in result.reason


def test_float16(build):
    generator = np.random.default_rng(0)
    w = generator.standard_normal((64, 64)).astype(np.float16)
    text = f"{HEADER} g (float16[N, 64] x) => (float16[N, 64] y) <float16[64, 64] w> {{{{ {{}} }}}}"
    one = build(text.format("h = MatMul(x, w)\n s = Add(h, h)\n y = Neg(s)"), w=w)
    right = build(text.format("y = MatMul(x, w)"), w=-2 * w)
    wrong = build(text.format("y = MatMul(x, w)"), w=np.float16(-2.02) * w)
    result = check(one, right)
    assert result.verdict == "pass", result.reason
    assert any("float16" in warning for warning in result.warnings)
    assert "huge mean" not in {run.family for run in result.runs}  # its square is no float16
    assert check(one, wrong, quick=True).verdict == "fail"


def test_float16_inside_a_float32_model_explains_its_error(build):
    """The outputs are float32, but the original rounds to 11 bits on the way: that is no disagreement about truth."""
    w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    model = build(
        f"""{HEADER} g (float[N, 64] x) => (float[N, 64] y) <float16[64, 64] w> {{
            a = Cast<to = 10>(x)
            b = MatMul(a, w)
            c = Cast<to = 1>(b)
            y = Exp(c)
        }}""",
        w=w / 64,
    )
    result = check(model, model, quick=True)
    assert result.verdict == "pass", result.reason
    assert only_output(result).original_max_error > 1e-4


def test_changed_output_is_reported_and_not_judged(build):
    text = f"{HEADER} g (float[N] x) => (float[N] y, float[N] hidden) {{{{ y = Neg(x)\n hidden = {{}}(x) }}}}"
    one, other = build(text.format("Exp")), build(text.format("Tanh"))
    assert check(one, other, quick=True).verdict == "fail"
    result = check(one, other, quick=True, changed_outputs=frozenset({"hidden"}))
    assert result.verdict == "pass"
    assert [output.verdict for output in result.outputs] == ["pass", "not judged"]
    assert result.outputs[1].max_abs_difference > 1


def test_changed_output_must_be_one(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Neg(x) }}")
    with pytest.raises(UsageError, match="`z` is not an output"):
        check(model, model, changed_outputs=frozenset({"z"}))


def test_failure_on_few_elements_is_looked_at_again_with_more_seeds(build):
    text = HEADER + " g (float[1, 9] x) => (float[1, 1] y) <float c = {{{}}}> {{ m = ReduceMean(x)\n y = Mul(m, c) }}"
    one, other = build(text.format(1.0)), build(text.format(1.00001))
    assert len(check(one, one, quick=True).runs) == 2
    result = check(one, other, quick=True)
    assert result.verdict == "fail"
    assert len({run.seed for run in result.runs}) == len(result.runs) == 16


def test_only_changed_outputs_is_inconclusive(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Neg(x) }}")
    assert check(model, model, quick=True, changed_outputs=frozenset({"y"})).verdict == "inconclusive"


def test_no_truth_is_inconclusive_and_says_what_was_seen(build):
    text = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> g (float[3, 3] x) => (float[3, 3] y)
        { i = com.microsoft.Inverse(x)\n y = {}(i) }"""
    one = onnx.parser.parse_model(text.replace("{}", "Neg"))
    result = check(one, one, quick=True)
    assert result.verdict == "inconclusive"
    assert "Inverse" in result.reason
    assert "differ by at most 0" in result.reason


def test_random_model_is_inconclusive(build):
    model = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ r = RandomNormalLike<seed = 1.0>(x)\n y = Add(x, r) }}")
    result = check(model, model, quick=True)
    assert result.verdict != "pass"


def test_converted_model_that_does_not_load_fails(build):
    one = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Neg(x) }}")
    other = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "nobody": 1]> g (float[N] x) => (float[N] y) { y = nobody.Neg(x) }'
    )
    result = check(one, other, quick=True)
    assert result.verdict == "fail"
    assert "not the converted model" in result.reason
    assert check(other, one, quick=True).verdict == "inconclusive"


def test_runtime_that_miscomputes_the_original_is_reported(build):
    """onnxruntime 1.32 fuses mean − x, squared, scaled, as if it were x − mean: its sign is wrong."""
    model = build(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y)
        <float two = {2}, float tiny = {0.00001}, float[8] g, float[8] t> {
            mean = ReduceMean<axes = [-1]>(x)
            d = Sub(mean, x)
            square = Pow(d, two)
            variance = ReduceMean<axes = [-1]>(square)
            safe = Add(variance, tiny)
            root = Sqrt(safe)
            n = Div(d, root)
            scaled = Mul(n, g)
            y = Add(scaled, t)
        }""",
        g=np.linspace(1, 2, 8, dtype=np.float32),
        t=np.linspace(-1, 2, 8, dtype=np.float32),
    )
    result = check(model, model, quick=True)
    assert result.verdict == "pass"
    if only_output(result).optimized_original_max_error < 0.1:
        pytest.skip("this onnxruntime fuses the chain correctly")
    assert any("optimizations miscompute output `y`" in warning for warning in result.warnings)


def test_rounding_that_the_model_amplifies_is_no_failure(build):
    """(x + 10⁷) − 10⁷ rounds away most digits of x."""
    head = HEADER + " g (float[N, 300] x) => (float[N, 300] y) <float[1] big = {10000000}> "
    plain = build(head + "{ a = Sub(big, big)\n y = Add(x, a) }")
    lossy = build(head + "{ a = Add(x, big)\n y = Sub(a, big) }")
    assert check(lossy, lossy, quick=True).verdict == "pass"
    assert check(lossy, plain, quick=True).verdict == "pass"  # closer to the truth than the original
    assert check(plain, lossy, quick=True).verdict == "fail"
    assert check(plain, lossy, quick=True, control=lossy).verdict == "pass"


def test_models_in_files_are_found_with_their_external_data_and_left_alone(build, tmp_path):
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "model.onnx"
    onnx.save(layer_norm(build), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert len(before) == 2
    path.parent.chmod(0o500)
    try:
        assert check(path, str(path), quick=True).verdict == "pass"
    finally:
        path.parent.chmod(0o700)
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_unreadable_model_is_refused(build, tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match=r"model\.onnx"):
        check(path, layer_norm(build))
    path.write_bytes(b"not a model")
    with pytest.raises(InputRefused, match=r"model\.onnx"):
        check(layer_norm(build), path)


def test_unknown_provider(build):
    with pytest.raises(UsageError, match="tpu"):
        check(layer_norm(build), layer_norm(build), provider="tpu")


class FakeSession:
    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_absent_provider_is_inconclusive(build, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(Inconclusive, match="CUDAExecutionProvider is not in this onnxruntime"):
        check(layer_norm(build), layer_norm(build), provider="cuda")


def test_silent_fallback_is_inconclusive(build, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: FakeSession())
    with pytest.raises(Inconclusive, match="fell back to CPUExecutionProvider"):
        check(layer_norm(build), layer_norm(build), provider="cuda")


def test_without_onnxruntime(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Inconclusive, match=r"pip install normswap\[cpu\]"):
        check(layer_norm(build), layer_norm(build))


def test_json(build):
    lines: list[str] = []
    result = check(layer_norm(build), layer_norm(build), quick=True, progress=lines.append)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["schema"] == "normswap/check/1"
    assert document["verdict"] == "pass"
    assert document["reason"]
    output = document["outputs"][0]
    for key in ("name", "max_error", "original_max_error", "rmse_ratio", "max_abs_difference", "cosine"):
        assert output[key] is not None
    run = document["runs"][0]
    assert run["seed"] == 0
    assert run["sizes"] == {"B": 2, "S": 7}
    assert run["outputs"][0]["max_error"] <= output["max_error"]
    assert lines


def test_given_inputs_come_first(build, tmp_path):
    x = np.ones((1, 3, SIZE), np.float32) * np.arange(SIZE, dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    for inputs in (tmp_path / "data.npz", {"x": x}):
        result = check(layer_norm(build), layer_norm(build), quick=True, inputs=inputs)
        assert result.verdict == "pass"
        assert [run.seed for run in result.runs] == [None, 0, 1]
        assert dict(result.runs[1].sizes) == {"x[0]": 1, "x[1]": 3, "x[2]": SIZE}


def test_inputs_that_do_not_fit(build, tmp_path):
    model = layer_norm(build)
    for inputs, words in (
        ({}, "no array for input `x`"),
        ({"x": np.zeros((1, 1, SIZE))}, "`x` is float64"),
        ({"x": np.zeros((1, 1, SIZE), np.float32), "z": np.zeros(1)}, "`z` is not an input"),
        (tmp_path / "absent.npz", "absent.npz"),
        (Path("data.py"), "not an .npz"),
    ):
        with pytest.raises(UsageError, match=words):
            check(model, model, inputs=inputs)


def test_test_data_set_with_expected_outputs(build, tmp_path):
    model = build(f"{HEADER} g (float[N] x) => (float[N] y) {{ y = Neg(x) }}")
    x = np.array([1, 2, 3], np.float32)
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()

    def write(name: str, array: np.ndarray) -> None:
        (folder / name).write_bytes(onnx.numpy_helper.from_array(array).SerializeToString())

    write("input_0.pb", x)
    write("output_0.pb", -x)
    for inputs in (folder, tmp_path):
        result = check(model, model, quick=True, inputs=inputs)
        assert result.verdict == "pass"
        assert result.warnings == ()
        assert result.runs[0].family == "test_data_set_0"
    write("output_0.pb", x)
    assert any(
        "does not reproduce the output `y`" in w for w in check(model, model, quick=True, inputs=folder).warnings
    )


def test_an_omitted_last_input_does_not_crash_the_optimizer():
    """onnxruntime 1.32 with its optimizations on takes the process down on such a node."""
    proto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["": 18]>
        omitted (float[N,8] x) => (float[N,8] y)
        <float[8] g = {1, 2, 3, 4, 5, 6, 7, 8}> { h = Tanh(x)  y = LayerNormalization(h, g, ) }
        """
    )
    proto.graph.node[1].input[:] = ["h", "g", ""]
    assert check(proto, proto, quick=True).verdict == "pass"
