"""What moves and what does not: whole float64 graphs, run before and after, next to what became of their weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from normswap.ledger import Conversion
from tests.graphs import converted, counts, nodes, parsed, reasons, run, weights, with_weights

WIDTH = 8


def residual(number: int, source: str, target: str, last: str = "{0} = Add(p{1}, c{1})") -> str:
    """A Pre-LN block: target = source + f(LayerNorm(source)), its norm called `ln{number}`."""
    ending = last.format(f"f{number}", number)
    return f"""
        [ln{number}] n{number} = LayerNormalization({source}, g{number}, b{number})
        u{number} = MatMul(n{number}, v{number})
        t{number} = Tanh(u{number})
        p{number} = MatMul(t{number}, w{number})
        {ending}
        {target} = Add({source}, f{number})"""


def parameters(*numbers: int) -> str:
    """The parameters of blocks with these numbers."""
    return ", ".join(
        f"double[8] g{n}, double[8] b{n}, double[8,12] v{n}, double[12,8] w{n}, double[8] c{n}" for n in numbers
    )


FINAL = "[last] n = LayerNormalization(x2, g, b)\n y = MatMul(n, head)"
LAST = "double[8] g, double[8] b, double[8,9] head"
EMBEDDED = "tok = Gather(wte, ids)\n x0 = Add(tok, wpe)"
INPUTS = "main (int64[B,5] ids) => (double[B,5,9] y)"


def transformer(
    start: str = EMBEDDED,
    first: str = residual(1, "x0", "x1"),
    second: str = residual(2, "x1", "x2"),
    final: str = FINAL,
    inputs: str = INPUTS,
    more: str = "double[40,8] wte, double[5,8] wpe",
    extra: str = "",
) -> str:
    declared = ", ".join(part for part in (parameters(1, 2), LAST, more, extra) if part)
    return f"{inputs} <{declared}> {{ {start} {first} {second} {final} }}"


def is_centered(array: np.ndarray, axis: int = -1) -> bool:
    return bool(np.abs(array.mean(axis=axis)).max() < 1e-12)


def operators(result: Conversion) -> list[str]:
    return [node.op_type for node in nodes(result)]


# --- the stream -----------------------------------------------------------------------------------------------------


def test_a_transformer_is_centered_in_its_weights_alone() -> None:
    model = parsed(transformer())
    result = converted(model)
    assert counts(result) == (3, 0)
    assert reasons(result) == {}
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    after = weights(result)
    for name in ("wte", "wpe", "w1", "c1", "w2", "c2"):
        assert is_centered(after[name]), name
        assert np.abs(after[name] - (before[name] - before[name].mean(axis=-1, keepdims=True))).max() < 1e-12
    changed = {name for name in before if name in after and not np.array_equal(before[name], after[name])}
    assert changed == {"wte", "wpe", "w1", "c1", "w2", "c2"}


def test_the_nodes_that_move_keep_their_names_and_operands() -> None:
    model = parsed(transformer())
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node{number}"
    result = converted(model)
    kept = {node.name: node for node in nodes(result)}
    for node in model.graph.node:
        if node.op_type not in ("LayerNormalization", "MatMul"):
            assert (kept[node.name].op_type, kept[node.name].input) == (node.op_type, node.input)
    assert [node.op_type for node in model.graph.node if node.op_type == "MatMul"] == [
        name for name in operators(result) if name == "MatMul"
    ]


@pytest.mark.parametrize(
    ("project", "declared"),
    [
        ("o = MatMul(n, v)\n y = Add(o, d)", "double[8,9] v, double[9] d"),
        ("o = MatMul(n, v)\n y = Add(d, o)", "double[8,9] v, double[1,1,9] d"),
        ("o = MatMul(n, v)\n y = Sub(o, d)", "double[8,9] v, double[9] d"),
        ("r = Reshape(n, flat)\n y = Gemm<transB = 1>(r, v, d)", "double[9,8] v, double[9] d, int64[2] flat = {-1, 8}"),
        ("r = Reshape(n, flat)\n y = Gemm<beta = 2.0>(r, v)", "double[8,9] v, int64[2] flat = {-1, 8}"),
        ("r = Transpose<perm = [0, 2, 1]>(n)\n y = Conv(r, v, d)", "double[9,8,1] v, double[9] d"),
    ],
)
def test_the_bias_of_the_norm_moves_into_the_bias_that_follows(project: str, declared: str) -> None:
    result = converted(
        parsed(
            f"""main (double[B,S,4] x) => (double y) <double[4,8] w, double[8] c, double[8] g, double[8] b, {declared}> {{
                h = MatMul(x, w)
                s = Add(h, c)
                [ln] n = LayerNormalization(s, g, b)
                {project}
            }}""".replace("double y", "double[M,N] y" if "Gemm" in project else "double[K,M,N] y")
        )
    )
    assert counts(result) == (1, 0)
    assert [rewrite.rule for rewrite in result.rewrites if rewrite.site == "ln"][:2] == ["bias-down", "center-up"]
    assert "ln/shift" not in [node.name for node in nodes(result)]


CONSTANTS = {
    "keep": "bool[5,1] keep",
    "half": "double half = {0.5}",
    "third": "double[1] third = {0.3}",
    "split": "int64[4] split = {0, 0, 2, 4}",
    "joined": "int64[3] joined = {0, 0, 8}",
    "zero": "int64[1] zero = {0}",
    "one": "int64[1] one = {1}",
    "five": "int64[1] five = {5}",
    "per_token": "double[1,5,1] per_token",
    "row": "double[1,1,8] row",
}


@pytest.mark.parametrize(
    "join",
    [
        "{0} = Add(c{1}, p{1})",
        "{0} = Sub(p{1}, c{1})",
        "{0} = Sum(p{1}, c{1}, c{1})",
        "{0} = Add(p{1}, per_token)",
        "{0} = Add(p{1}, row)",
        "{0} = Add(p{1}, half)",
        "q{1} = Neg(p{1})\n {0} = Add(q{1}, c{1})",
        "q{1} = Identity(p{1})\n {0} = Dropout(q{1})",
        "q{1} = Mul(p{1}, half)\n {0} = Div(q{1}, third)",
        "q{1} = Mul(p{1}, per_token)\n {0} = Cast<to = 11>(q{1})",
        "q{1} = Reshape(p{1}, split)\n {0} = Reshape(q{1}, joined)",
        "q{1} = Transpose<perm = [2, 0, 1]>(p{1})\n {0} = Transpose<perm = [1, 2, 0]>(q{1})",
        "q{1} = Unsqueeze(p{1}, zero)\n {0} = Squeeze(q{1}, zero)",
        "q{1} = Where(keep, p{1}, c{1})\n {0} = Add(q{1}, c{1})",
        "q{1} = Concat<axis = 1>(p{1}, p{1})\n {0} = Slice(q{1}, zero, five, one)",
    ],
)
def test_the_mean_moves_through(join: str) -> None:
    words = set(join.replace("(", " ").replace(")", " ").replace(",", " ").split())
    extra = ", ".join(declared for name, declared in CONSTANTS.items() if name in words)
    blocks = {"first": residual(1, "x0", "x1", join), "second": residual(2, "x1", "x2", join)}
    assert counts(converted(parsed(transformer(**blocks, extra=extra)))) == (3, 0)


def test_the_mean_moves_into_gemms_on_either_side() -> None:
    text = """
        main (double[B,4] x) => (double[B,9] y)
        <double[8,4] w1, double[8] c1, double[8,8] w2, double[8] c2, double[8] g1, double[8] g2, double[9,8] head> {
            x0 = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(x, w1, c1)
            [ln1] n1 = LayerNormalization(x0, g1)
            f = Gemm<transB = 1>(n1, w2, c2)
            x1 = Add(f, x0)
            [ln2] n2 = LayerNormalization(x1, g2)
            y = Gemm<transB = 1>(n2, head)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (2, 0)
    after = weights(result)
    assert is_centered(after["w1"], 0)
    assert is_centered(after["w2"], 0)  # square: the other axis would fit, too
    assert not is_centered(after["w2"], 1)


PATCHES = """
    main (double[B,3,8,8] image) => (double[B,9] y)
    <double[8,3,4,4] patch, double[8] patch_bias, double[1,1,8] token, double[1,5,8] wpe, int64[3] flat = {{0, 8, -1}},
     int64[1] one = {{1}}, int64[1] eight = {{8}}, int64 first = {{0}}, {parameters}, {last}> {{
        grid = Conv<strides = [4, 4]>(image, patch, patch_bias)
        line = Reshape(grid, flat)
        rows = Transpose<perm = [0, 2, 1]>(line)
        batch = Shape<start = 0, end = 1>(rows)
        shape = Concat<axis = 0>(batch, one, eight)
        wide = Expand(token, shape)
        joined = Concat<axis = 1>(wide, rows)
        x0 = Add(joined, wpe)
        {blocks}
        [last] n = LayerNormalization(x2, g, b)
        picked = Gather<axis = 1>(n, first)
        y = MatMul(picked, head)
    }}"""


def test_the_mean_moves_into_patches_and_a_class_token() -> None:
    blocks = residual(1, "x0", "x1") + residual(2, "x1", "x2")
    result = converted(parsed(PATCHES.format(parameters=parameters(1, 2), last=LAST, blocks=blocks)))
    assert counts(result) == (3, 0)
    after = weights(result)
    assert is_centered(after["patch"], 0)
    assert all(is_centered(after[name]) for name in ("patch_bias", "token", "wpe"))
    assert after["wpe"].shape == (1, 5, 8)


def test_a_norm_per_head_centers_the_projection_per_head() -> None:
    text = """
        main (double[B,S,8] x) => (double[B,S,2,4] y)
        <double[8,24] qkv, double[24] c, double[4] gq, int64[4] heads = {0, 0, 2, 4}> {
            p = MatMul(x, qkv)
            a = Add(p, c)
            q, k, v = Split<axis = -1>(a)
            split = Reshape(q, heads)
            [norm] y = LayerNormalization(split, gq)
            unused = Add(k, v)
        }""".replace("(double[B,S,2,4] y)", "(double[B,S,2,4] y, double[B,S,8] unused)")
    model = parsed(text)
    result = converted(model)
    assert counts(result) == (1, 0)
    (before,) = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "qkv")
    after = weights(result)["qkv"]
    assert is_centered(after[:, :8].reshape(8, 2, 4))
    assert np.array_equal(after[:, 8:], before[:, 8:])


# --- shared weights -------------------------------------------------------------------------------------------------


TIED = transformer(final="[last] n = LayerNormalization(x2, g, b)\n flipped = Transpose(wte)\n y = MatMul(n, flipped)")


def tied(rows: int) -> onnx.ModelProto:
    text = TIED.replace("double[40,8] wte", f"double[{rows},8] wte").replace("double[8,9] head, ", "")
    return parsed(text.replace("double[B,5,9] y", f"double[B,5,{rows}] y"))


def table(model: onnx.ModelProto) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "wte")


def test_a_large_tied_embedding_gets_one_center_behind_it() -> None:
    model = tied(20000)  # a copy of 20000 · 64 bytes costs 20000, a Center of 128 · 5 · 8 elements 12240
    result = converted(model)
    assert counts(result) == (3, 1)
    assert np.array_equal(weights(result)["wte"], table(model))
    assert sum(array.size for array in weights(result).values()) < 20000 * 8 + 1000
    assert operators(result).count("Sub") == 1


def test_a_small_tied_embedding_is_copied_and_the_original_left() -> None:
    model = tied(40)
    result = converted(model)
    assert counts(result) == (3, 0)
    assert np.array_equal(weights(result)["wte"], table(model))
    assert is_centered(weights(result)["wte/moved"])


def test_a_bias_whose_readers_all_move_is_replaced_under_its_name() -> None:
    text = transformer(second=residual(2, "x1", "x2").replace("c2", "c1"))
    result = converted(parsed(text.replace(", double[8] c2", "")))
    assert counts(result) == (3, 0)
    assert is_centered(weights(result)["c1"])
    assert not any("moved" in name for name in weights(result))


def test_a_bias_of_which_one_reader_does_not_move_is_copied() -> None:
    final = "[last] n = LayerNormalization(x2, g, b)\n o = MatMul(n, head)\n y = Mul(o, c2)"
    text = transformer(final=final).replace("double[8,9] head", "double[8,8] head")
    model = parsed(text.replace("double[B,5,9] y", "double[B,5,8] y"))
    before = next(onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "c2")
    result = converted(model)
    assert counts(result) == (3, 0)
    assert np.array_equal(weights(result)["c2"], before)
    assert np.allclose(weights(result)["c2/moved"], before - before.mean())


def test_a_bias_that_moves_in_two_ways_becomes_two() -> None:
    final = "[last] n = LayerNormalization(x2, g, b)\n o = MatMul(n, head)\n y = Add(o, c2)"
    text = transformer(final=final).replace("double[8,9] head", "double[8,8] head")
    result = converted(parsed(text.replace("double[B,5,9] y", "double[B,5,8] y")))
    assert counts(result) == (3, 0)
    assert is_centered(weights(result)["c2"])
    assert not is_centered(weights(result)["c2/moved"])


def test_biases_that_are_one_behind_identities_are_told_apart() -> None:
    start = "c1 = Identity(shared)\n c2 = Identity(shared)\n" + EMBEDDED
    text = transformer(start=start, extra="double[8] shared")
    final = "[last] n = LayerNormalization(x2, g, b)\n o = MatMul(n, head)\n k = ReduceSum(shared)\n y = Add(o, k)"
    text = text.replace(FINAL, final).replace(", double[8] c1", "").replace(", double[8] c2", "")
    assert counts(converted(parsed(text))) == (3, 0)


def test_a_weight_of_a_constant_node_is_replaced_too() -> None:
    start = "c1 = Constant<value = double[8] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0}>()\n" + EMBEDDED
    result = converted(parsed(transformer(start=start).replace(", double[8] c1", "")))
    assert counts(result) == (3, 0)


# --- who else reads the stream --------------------------------------------------------------------------------------


def read_by(reader: str, declared: str = "", kind: str = "double[B,5,8] z") -> Conversion:
    text = transformer(final=FINAL + "\n" + reader, extra=declared)
    return converted(parsed(text.replace("double[B,5,9] y)", f"double[B,5,9] y, {kind})")))


@pytest.mark.parametrize(
    ("reader", "declared", "kind"),
    [
        ("z = MatMul(x1, side)", "double[8,8] side", "double[B,5,8] z"),
        (
            "square = Mul(x1, x1)\n mean = ReduceMean<axes = [-1]>(square)\n shifted = Add(mean, tiny)\n"
            "root = Sqrt(shifted)\n scaled = Div(x1, root)\n z = Mul(scaled, g)",
            "double tiny = {0.00001}",
            "double[B,5,8] z",
        ),
        ("z = Tanh(x1)", "", "double[B,5,8] z"),
        ("z = ReduceMean<axes = [-1]>(x1)", "", "double[B,5,1] z"),
        ("z = Softmax<axis = 1>(x2)", "", "double[B,5,8] z"),
        ("long = Cast<to = 7>(x1)\n z = Neg(long)", "", "int64[B,5,8] z"),
    ],
)
def test_a_reader_that_sees_the_mean_keeps_the_whole_stream(reader: str, declared: str, kind: str) -> None:
    result = read_by(reader, declared, kind)
    assert counts(result)[0] == 0
    refused = reasons(result)
    assert {refused[name] for name in ("ln1", "ln2", "last")} == {"foreign-reader"}


OVER_BOTH = """
    main (double[B,5,4] x) => (double[B,5,8] y, double[B,5,8] z) <double[4,8] w, double[8] g, double[5,8] wide> {
        s = MatMul(x, w)
        [ln] y = LayerNormalization(s, g)
        [other] z = LayerNormalization<axis = 1>(s, wide)
    }"""


def test_a_norm_over_other_elements_keeps_the_whole_stream() -> None:
    reader = "[other] z = LayerNormalization<axis = 1>(x1, wide)"
    result = read_by(reader, "double[5,8] wide")
    assert counts(result) == (0, 0)
    assert reasons(result).keys() == {"ln1", "ln2", "last", "other"}
    # Nor is it of any help that nobody wants to convert that norm.
    left = converted(parsed(OVER_BOTH), exclude=["other"])
    assert counts(left) == (0, 0)
    assert reasons(left) == {"ln": "foreign-reader"}


def test_a_reader_of_the_start_of_the_stream_gets_it_as_it_was_before_the_center() -> None:
    result = read_by("z = Tanh(x0)")
    assert counts(result) == (3, 1)
    (tanh,) = [node for node in nodes(result) if node.output[0] == "z"]
    assert tanh.input[0] == "x0"


@pytest.mark.parametrize(
    ("reader", "declared", "kind"),
    [
        ("z = Shape(x1)", "", "int64[3] z"),
        ("z = Size(x1)", "", "int64 z"),
        ("z = Softmax<axis = -1>(x1)", "", "double[B,5,8] z"),
        ("[more] z = LayerNormalization(x1, g2)", "", "double[B,5,8] z"),
    ],
)
def test_a_reader_that_does_not_see_the_mean_is_no_obstacle(reader: str, declared: str, kind: str) -> None:
    assert counts(read_by(reader, declared, kind))[0] == (4 if "more" in reader else 3)


def test_a_stream_that_is_an_output_is_kept_unless_the_user_allows_it() -> None:
    text = transformer().replace("double[B,5,9] y)", "double[B,5,9] y, double[B,5,8] x1)")
    model = parsed(text)
    kept = converted(model)
    assert counts(kept) == (0, 0)
    assert set(reasons(kept).values()) == {"graph-output"}
    assert all("`x1`" in refusal.reason for refusal in kept.refused)
    changed = converted(model, allow_changed_outputs=["x1"])
    assert counts(changed) == (3, 0)
    before, after = run(model)["x1"], run(changed.model)["x1"]  # type: ignore[arg-type]
    assert np.abs(after - (before - before.mean(axis=-1, keepdims=True))).max() < 1e-12


def test_one_stream_is_converted_and_another_refused() -> None:
    text = """
        main (double[B,S,4] x) => (double[B,S,8] y, double[B,S,8] z)
        <double[4,8] w1, double[8] g1, double[4,8] w2, double[8] g2> {
            a = MatMul(x, w1)
            [free] n = LayerNormalization(a, g1)
            y = Tanh(n)
            b = MatMul(x, w2)
            [held] m = LayerNormalization(b, g2)
            t = Tanh(b)
            z = Add(m, t)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (1, 0)
    assert reasons(result) == {"held": "foreign-reader"}
    (refusal,) = result.refused
    assert "`held`" in refusal.reason
    assert result.exit_code == 0
    assert converted(parsed(text), strict=True).exit_code == 1


def test_only_what_is_selected_moves() -> None:
    text = """
        main (double[B,S,4] x) => (double[B,S,8] y, double[B,S,8] z) <double[4,8] w1, double[8] g1, double[4,8] w2> {
            a = MatMul(x, w1)
            [one] y = LayerNormalization(a, g1)
            b = MatMul(x, w2)
            [two] z = LayerNormalization(b, g1)
        }"""
    result = converted(parsed(text), only=["o*"])
    assert counts(result) == (1, 0)
    assert "LayerNormalization" in operators(result)
    assert counts(converted(parsed(text), exclude=["o*", "two"])) == (0, 0)


# --- explicit Centers -----------------------------------------------------------------------------------------------


def norms_of(source: str, count: int, shape: str = "B,S,8") -> onnx.ModelProto:
    """`count` norms without bias of the result of `source`."""
    outputs = ", ".join(f"double[{shape}] y{number}" for number in range(count))
    body = "\n".join(f"[ln{number}] y{number} = LayerNormalization(s, g)" for number in range(count))
    return parsed(f"main (double[{shape}] x) => ({outputs}) <double[8] g> {{ {source}\n{body} }}")


@pytest.mark.parametrize("source", ["s = Tanh(x)", "s = Identity(x)", "s = Mul(x, x)"])
def test_what_no_map_passes_pays_for_one_center_if_it_serves_two_norms(source: str) -> None:
    one = converted(norms_of(source, 1))
    assert counts(one) == (0, 0)
    two = converted(norms_of(source, 2))
    assert counts(two) == (2, 1)
    assert reasons(one).keys() == {"ln0"}
    assert operators(one) == [source.split()[2].split("(")[0], "LayerNormalization"]


def test_a_tie_does_not_move() -> None:
    # Two norms save 2 · 2 · elements, one Center costs 2000 + 2 · elements: the same for 1000 elements.
    assert counts(converted(norms_of("s = Tanh(x)", 2, "1,125,8"))) == (0, 0)
    assert counts(converted(norms_of("s = Tanh(x)", 2, "1,126,8"))) == (2, 1)


def test_an_input_is_centered_once_for_the_whole_stream() -> None:
    text = transformer(
        start="x0 = Identity(embeds)", inputs="main (double[B,5,8] embeds) => (double[B,5,9] y)", more=""
    )
    result = converted(parsed(text))
    assert counts(result) == (3, 1)


def test_the_norm_of_the_embedding_is_left_and_centered_behind() -> None:
    start = EMBEDDED.replace("x0 = Add(tok, wpe)", "e = Add(tok, wpe)\n [emb] x0 = LayerNormalization(e, ge, be)")
    result = converted(parsed(transformer(start=start, extra="double[8] ge, double[8] be")))
    assert counts(result) == (4, 1)


# --- what is not the same -------------------------------------------------------------------------------------------


MERGING = """
    main (double[B,4,8] image) => (double[B,2,9] y)
    <double[8,8] w0, double[8] g1, double[8,8] v, double[8,8] w, double[16] g, double[16,9] head,
     int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] one = {1}> {
        x0 = MatMul(image, w0)
        [inner] n1 = LayerNormalization(x0, g1)
        u = MatMul(n1, v)
        t = Tanh(u)
        p = MatMul(t, w)
        x1 = Add(x0, p)
        even = Slice(x1, zero, four, one, two)
        odd = Slice(x1, one, four, one, two)
        merged = Concat<axis = -1>(even, odd)
        [merge] n = LayerNormalization(merged, g)
        y = MatMul(n, head)
    }"""


def test_merged_patches_are_not_centered_piece_by_piece() -> None:
    result = converted(parsed(MERGING))
    assert counts(result) == (0, 0)
    assert reasons(result) == {"inner": "foreign-reader", "merge": "coarser-groups"}
    assert any("`merge`" in refusal.reason for refusal in result.refused if refusal.site == "inner")


DEPTHWISE = """
    main (double[B,3,8,8] image) => (double[B,6,6,9] y)
    <double[8,3,1,1] stem, double[8,1,3,3] deep, double[8] c, double[8] g, double[8,9] head> {
        x = Conv(image, stem)
        d = Conv<group = 8>(x, deep, c)
        t = Transpose<perm = [0, 2, 3, 1]>(d)
        [ln] n = LayerNormalization(t, g)
        y = MatMul(n, head)
    }"""


def test_a_depthwise_convolution_is_not_centered() -> None:
    result = converted(parsed(DEPTHWISE))
    assert counts(result) == (0, 0)
    assert reasons(result) == {"ln": "grouped-weights"}


def test_behind_a_full_convolution_the_same_norm_is() -> None:
    full = DEPTHWISE.replace("Conv<group = 8>", "Conv").replace("double[8,1,3,3]", "double[8,8,3,3]")
    assert counts(converted(parsed(full))) == (1, 0)


POST = """
    main (int64[B,5] ids) => (double[B,5,8] y) <double[40,8] wte, {parameters}> {{
        x0 = Gather(wte, ids)
        u = MatMul(x0, v1)
        t = Tanh(u)
        p = MatMul(t, w1)
        f = Add(p, c1)
        s = Add(x0, f)
        [first] n = LayerNormalization(s, g1, b1)
        u2 = MatMul(n, v2)
        t2 = Tanh(u2)
        p2 = MatMul(t2, w2)
        f2 = Add(p2, c2)
        s2 = Add(n, f2)
        [second] y = LayerNormalization(s2, g2, b2)
    }}"""


def test_a_post_norm_is_refused_with_a_reason_of_its_own() -> None:
    result = converted(parsed(POST.format(parameters=parameters(1, 2))))
    assert counts(result) == (0, 0)
    assert reasons(result) == {"first": "foreign-reader", "second": "post-norm"}
    assert "`first`" in result.refused[-1].reason


@pytest.mark.parametrize("factor", ["double[8] s{0}", "double[1,1,8] s{0}", "double[1] s{0}", "double s{0}"])
def test_a_scale_at_the_end_of_a_branch_moves_up_first(factor: str) -> None:
    last = "q{1} = Add(p{1}, c{1})\n {0} = Mul(q{1}, s{1})"
    blocks = {"first": residual(1, "x0", "x1", last), "second": residual(2, "x1", "x2", last)}
    model = parsed(transformer(**blocks, extra=", ".join(factor.format(number) for number in (1, 2))))
    result = converted(model)
    assert counts(result) == (3, 0)
    if factor.startswith("double[8]") or "1,1,8" in factor:
        assert "Mul" not in [node.op_type for node in nodes(result) if node.output[0] in ("f1", "f2")]
        assert [rewrite.rule for rewrite in result.rewrites].count("scale-up") == 2


def test_a_factor_of_run_time_blocks() -> None:
    last = "q{1} = Add(p{1}, c{1})\n {0} = Mul(q{1}, gate)"
    inputs = "main (int64[B,5] ids, double[8] gate) => (double[B,5,9] y)"
    model = parsed(transformer(second=residual(2, "x1", "x2", last), inputs=inputs))
    result = converted(model)
    assert counts(result)[0] in (0, 3)  # one explicit Center in front of the sum, or none


def test_a_constant_that_widens_stays_as_wide_as_it_was() -> None:
    text = """
        main (double[5,4] x) => (double[1,5,9] y) <double[4,8] w, double[1,1,8] c, double[8] g, double[8,9] head> {
            h = MatMul(x, w)
            s = Add(h, c)
            [ln] n = LayerNormalization(s, g)
            y = MatMul(n, head)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (1, 0)
    assert weights(result)["c"].shape == (1, 1, 8)


# --- captured and replaceable values --------------------------------------------------------------------------------


CAPTURE = """
    then = If (flag) <
        then_branch = a () => (double[B,5,8] i) { i = Tanh(x1) },
        else_branch = e () => (double[B,5,8] j) { j = Tanh(tok) }
    >"""


def test_a_value_that_a_control_flow_body_reads_keeps_its_form() -> None:
    text = transformer(final=FINAL + CAPTURE).replace("(int64[B,5] ids)", "(int64[B,5] ids, bool flag)")
    result = converted(parsed(text.replace("double[B,5,9] y)", "double[B,5,9] y, double[B,5,8] then)")))
    assert counts(result)[0] == 0
    assert set(reasons(result).values()) == {"subgraph-capture"}


def test_weights_that_a_caller_may_replace_are_no_constants() -> None:
    model = parsed(transformer(), weights_are_inputs=True)
    result = converted(model)
    assert set(reasons(result).values()) <= {"overridable-initializer", "runtime-parameter"}
    assert counts(result)[0] == 0


def test_one_weight_that_a_caller_may_replace_is_named() -> None:
    model = parsed(transformer())
    wpe = next(tensor for tensor in model.graph.initializer if tensor.name == "w2")
    model.graph.input.append(onnx.helper.make_tensor_value_info("w2", wpe.data_type, wpe.dims))
    result = converted(model)
    replaced = {"w2": 2.0 * onnx.numpy_helper.to_array(wpe)}
    assert isinstance(result.model, onnx.ModelProto)
    # Whatever was done, it holds for any weight that a caller puts in.
    before, after = run(with_weights(model, **replaced)), run(with_weights(result.model, **replaced))
    assert np.abs(before["y"] - after["y"]).max() < 1e-10
    assert np.array_equal(weights(result)["w2"], onnx.numpy_helper.to_array(wpe))


def test_up_to_ir_version_3_the_initializers_among_the_inputs_are_constants() -> None:
    model = parsed(transformer(), ir_version=3, weights_are_inputs=True)
    result = converted(model)
    assert counts(result) == (3, 0)
    assert isinstance(result.model, onnx.ModelProto)
    assert [value.name for value in result.model.graph.input] == ["ids"]  # as the runtime sees them
    assert result.model.ir_version >= 4  # before that, a new weight would have to be an input


def test_a_value_that_two_norms_want_in_different_ways_stays_as_it_is() -> None:
    text = """
        main (double[B,S,8] x) => (double[B,S,2,4] y, double[B,S,8] z)
        <double[8,8] w, double[8] c, double[4] gq, double[8] g, int64[4] split = {0, 0, 2, 4}> {
            p = MatMul(x, w)
            a = Add(p, c)
            s = Reshape(a, split)
            [heads] y = LayerNormalization(s, gq)
            [whole] z = LayerNormalization(a, g)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (0, 0)
    assert reasons(result).keys() == {"heads", "whole"}
    assert "proof-failed" not in reasons(result).values()


def test_two_norms_per_head_behind_one_projection_are_at_least_not_mixed_up() -> None:
    text = """
        main (double[B,S,8] x) => (double[B,S,2,4] y, double[B,S,2,4] z, double[B,S,8] v)
        <double[8,24] qkv, double[24] c, double[4] gq, double[4] gk, int64[4] split = {0, 0, 2, 4}> {
            p = MatMul(x, qkv)
            a = Add(p, c)
            q, k, v = Split<axis = -1>(a)
            qs = Reshape(q, split)
            ks = Reshape(k, split)
            [qnorm] y = LayerNormalization(qs, gq)
            [knorm] z = LayerNormalization(ks, gk)
        }"""
    result = converted(parsed(text))
    assert counts(result)[0] + len(reasons(result)) == 2
    assert set(reasons(result).values()) <= {"coarser-groups"}


def test_a_center_per_head_is_not_inserted_where_one_reduction_cannot_write_it() -> None:
    text = """
        main (double[B,S,8] x) => (double[B,S,2,4] y, double[B,S,2,4] z) <double[4] g, int64[4] split = {0, 0, 2, 4}> {
            t = Tanh(x)
            a = Reshape(t, split)
            [one] y = LayerNormalization(a, g)
            b = Reshape(t, split)
            [two] z = LayerNormalization(b, g)
        }"""
    assert counts(converted(parsed(text))) == (0, 0)


def test_a_bias_does_not_move_into_a_control_flow_body() -> None:
    text = """
        main (double[B,S,4] x, bool flag) => (double[B,S,8] y)
        <double[4,8] w, double[8] g, double[8] b, double[8,8] v, double[8] d> {
            s = MatMul(x, w)
            [ln] n = LayerNormalization(s, g, b)
            y = If (flag) <
                then_branch = a () => (double[B,S,8] i) { j = MatMul(n, v) i = Add(j, d) },
                else_branch = e () => (double[B,S,8] k) { l = MatMul(n, v) k = Sub(l, d) }
            >
        }"""
    result = converted(parsed(text))
    assert [rewrite.rule for rewrite in result.rewrites if not rewrite.rule.startswith("spell/")] == ["center-up"]


def test_a_norm_over_one_element_is_left() -> None:
    text = """
        main (double[B,S,4] x) => (double[B,S,1] y) <double[4,1] w, double[1] g, double[1] b> {
            s = MatMul(x, w)
            [ln] y = LayerNormalization(s, g, b)
        }"""
    result = converted(parsed(text))
    assert counts(result) == (0, 0)
    assert reasons(result) == {"ln": "unknown-shape"}
