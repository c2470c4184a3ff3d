"""Whether recognition is linear in the model: CPU seconds and memory for 1,000, 10,000 and 100,000 nodes.

The graphs are transformers whose norms are decomposed, each layer in the next of the spellings that exporters use;
between them stand attention (a Softmax, or its operators), a gate that averages, an MLP with its GELU in operators.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.report import described, machine, table

WIDTH = 32
ROOT = Path(__file__).resolve().parent.parent
# Operators over x: `gain` and `bias` are vectors of the block's own, other words that nothing makes are shared numbers.
SPELLINGS = {
    "LayerNorm, Pow": "m=ReduceMean(x) d=Sub(x,m) q=Pow(d,two) v=ReduceMean(q) e=Add(v,eps) s=Sqrt(e) u=Div(d,s) "
    "g=Mul(u,gain) y=Add(g,bias)",
    "LayerNorm, two Subs": "m=ReduceMean(x) d=Sub(x,m) c=Sub(x,m) q=Mul(c,c) v=ReduceMean(q) e=Add(eps,v) s=Sqrt(e) "
    "r=Reciprocal(s) u=Mul(d,r) g=Mul(gain,u) y=Add(bias,g)",
    "LayerNorm, folded": "m=ReduceMean(x) d=Sub(x,m) q=Mul(d,d) v=ReduceMean(q) e=Add(v,eps) s=Sqrt(e) r=Reciprocal(s) "
    "f=Mul(r,gain) a=Mul(x,f) b=Mul(m,f) c=Sub(bias,b) y=Add(a,c)",
    "LayerNorm, sums": "t=ReduceSum(x) m=Mul(t,inverse) d=Sub(x,m) q=Mul(d,d) w=ReduceSum(q) v=Mul(w,inverse) "
    "e=Add(v,eps) r=Pow(e,minus_half) u=Mul(d,r) g=Mul(u,gain) y=Add(g,bias)",
    "LayerNorm, difference of squares": "m=ReduceMean(x) d=Sub(x,m) q=Mul(x,x) p=ReduceMean(q) k=Mul(m,m) w=Sub(p,k) "
    "v=Max(w,zero) e=Add(v,eps) s=Sqrt(e) u=Div(d,s) g=Mul(u,gain) y=Add(g,bias)",
    "RMSNorm, Pow": "q=Pow(x,two) v=ReduceMean(q) e=Add(v,eps) s=Sqrt(e) r=Div(one,s) u=Mul(x,r) y=Mul(gain,u)",
    "RMSNorm, Div": "q=Mul(x,x) v=ReduceMean(q) e=Add(v,eps) s=Sqrt(e) u=Div(x,s) y=Mul(u,gain)",
    "RMSNorm, casts": "h=Cast(x) q=Pow(h,two) v=ReduceMean(q) e=Add(v,eps) s=Sqrt(e) r=Reciprocal(s) u=Mul(h,r) "
    "c=Cast(u) y=Mul(gain,c)",
    "RMSNorm, one plus gain": "q=Pow(x,two) v=ReduceMean(q) e=Add(v,eps) r=Pow(e,minus_half) u=Mul(x,r) "
    "k=Add(gain,one) y=Mul(u,k)",
    "L2 norm with a gain": "l=ReduceL2(x) c=Max(l,floor) u=Div(x,c) y=Mul(u,gain)",
}
ATTENTION = (
    "q=MatMul(x,w) k=MatMul(x,w) v=MatMul(x,w) t=Transpose(k) a=MatMul(q,t) b=Mul(a,scale) {softmax} o=MatMul(p,v) "
    "y=MatMul(o,w)"
)
SOFTMAX = ("p=Softmax(b)", "c=ReduceMax(b) d=Sub(b,c) e=Exp(d) f=ReduceSum(e) p=Div(e,f)")
MLP = (
    "a=MatMul(x,wide) b=Add(a,wide_bias) c=Div(b,root_two) d=Erf(c) e=Add(d,one) f=Mul(b,e) g=Mul(f,half) "
    "h=MatMul(g,narrow) y=Add(h,bias)"
)
GATE = "m=ReduceMean(x) s=Sigmoid(m) y=Mul(x,s)"
BRANCHES = (ATTENTION, GATE, MLP, GATE)
NUMBERS = {
    "one": 1.0,
    "two": 2.0,
    "zero": 0.0,
    "half": 0.5,
    "minus_half": -0.5,
    "eps": 1e-5,
    "floor": 1e-12,
    "inverse": 1 / WIDTH,
    "scale": WIDTH**-0.5,
    "root_two": 2**0.5,
}
SHAPES = {
    "gain": (WIDTH,),
    "bias": (WIDTH,),
    "wide_bias": (2 * WIDTH,),
    "w": (WIDTH, WIDTH),
    "wide": (WIDTH, 2 * WIDTH),
    "narrow": (2 * WIDTH, WIDTH),
}
ATTRIBUTES: dict[str, dict[str, object]] = {
    "Transpose": {"perm": [0, 2, 1]},
    "Cast": {"to": onnx.TensorProto.FLOAT},
    **{op: {"axes": [-1]} for op in ("ReduceMean", "ReduceMax", "ReduceL2")},
}


@dataclass
class Graph:
    """A graph under construction. Every other block has its constants in Constant nodes."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)
    blocks: int = 0

    def block(self, lines: str, **given: str) -> str:
        """Append the operators of `lines` over the values that are given; what they make as y."""
        self.blocks += 1
        names, own = dict(given), self.blocks % 2 == 0
        for line in lines.split():
            made, _, call = line.partition("=")
            operator, _, words = call.rstrip(")").partition("(")
            inputs = [names[word] if word in names else self.constant(word, own=own) for word in words.split(",")]
            if operator == "ReduceSum":
                inputs.append(self.constant("last", own=own))
            extra = ATTRIBUTES.get(operator, {})
            names[made] = f"/{self.blocks}/{made}"
            self.nodes.append(
                helper.make_node(operator, inputs, [names[made]], name=f"{names[made]}_{operator}", **extra)
            )
        return names["y"]

    def constant(self, word: str, *, own: bool) -> str:
        """The name of a constant: a weight of its own, a number that is shared, or one in a Constant node."""
        if word in SHAPES:
            array = self.random.normal(0.2, 1.0, SHAPES[word]).astype(np.float32)
            return self.stored(array, own=own and len(SHAPES[word]) == 1)
        array = np.asarray([-1]) if word == "last" else np.asarray(NUMBERS[word], np.float32)
        if own:
            return self.stored(array, own=True)
        if word not in self.shared:
            self.shared[word] = self.stored(array, own=False)
        return self.shared[word]

    def stored(self, array: npt.NDArray[np.generic], *, own: bool) -> str:
        """A new constant: in a Constant node of its own, or as an initializer."""
        name = f"/{self.blocks}/constant_{len(self.nodes)}_{len(self.initializers)}"
        tensor = numpy_helper.from_array(array, name)
        if own:
            self.nodes.append(helper.make_node("Constant", [], [name], name=f"{name}_node", value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def model(self, output: str) -> onnx.ModelProto:
        """The model that computes `output` from x."""
        dims = ["batch", "sequence", WIDTH]
        given, made = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name in ("x", output))
        graph = helper.make_graph(self.nodes, "scale", [given], [made], self.initializers)
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def transformer(nodes: int) -> tuple[onnx.ModelProto, int]:
    """A model of about so many nodes, and how many norms it has: x + branch(norm(x)), again and again."""
    graph, x, norms = Graph(), "x", 0
    while len(graph.nodes) < nodes:
        normed = graph.block(list(SPELLINGS.values())[norms % len(SPELLINGS)], x=x)
        branch = graph.block(BRANCHES[norms % len(BRANCHES)].format(softmax=SOFTMAX[norms % 2]), x=normed)
        x = graph.block("y=Add(x,branch)", x=x, branch=branch)
        norms += 1
    return graph.model(x), norms


@dataclass(frozen=True)
class Measured:
    """One size in a process of its own: what was built and found, and the seconds of each step, in a row."""

    nodes: int
    norms: int
    found: int
    unrecognized: int
    seconds: dict[str, float]
    peak_bytes: int


def measured(nodes: int, *, inspecting: bool) -> Measured:
    """Build a model of this size and time the steps of `inspect` by themselves, and then all of it."""
    from normswap.inspection import inspection
    from normswap.learn import learn
    from normswap.model import open_model
    from normswap.observe import observe
    from normswap.recognize import recognize

    proto, norms = transformer(nodes)
    seconds: dict[str, float] = {}
    start = time.process_time()

    def lap(step: str) -> None:
        nonlocal start
        seconds[step] = time.process_time() - start
        start = time.process_time()

    document = open_model(proto)
    lap("opening")
    facts = learn(document.model)
    observe(facts)
    lap("facts")
    seen = recognize(document.model, facts)
    lap("recognition")
    if inspecting:
        inspection(document)
        lap("whole inspect")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = len(seen.norms) + len(seen.named)
    return Measured(len(proto.graph.node), norms, found, len(seen.unrecognized), seconds, peak)


def child(nodes: int, timeout: float, *, inspecting: bool) -> Measured | None:
    """`measured` in a process of its own; None where it takes longer than `timeout` seconds."""
    command = [sys.executable, "-m", "benchmarks.scale", "--child", str(nodes), "--inspect", str(nodes * inspecting)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        return None
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure each size, print Markdown, and write the JSON that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--nodes", default="1000,10000,100000", help="sizes, separated by commas [%(default)s]")
    parser.add_argument("--inspect", type=int, default=10000, help="the largest size to inspect, too [%(default)s]")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one size [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every measurement there")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(asdict(measured(given.child, inspecting=given.child <= given.inspect))))
        return
    start, sizes = machine(), [int(size) for size in given.nodes.split(",")]
    results = [child(size, given.timeout, inspecting=size <= given.inspect) for size in sizes]
    done = [result for result in results if result is not None]
    steps = list(dict.fromkeys(step for result in done for step in result.seconds))
    rows = [
        [f"{size:,}", f"not done after {given.timeout:.0f} s"]
        if result is None
        else [
            f"{result.nodes:,}",
            f"{result.found:,} of {result.norms:,}",
            *(f"{result.seconds[step]:.2f}" if step in result.seconds else "" for step in steps),
            f"{1e6 * result.seconds['recognition'] / result.nodes:.0f}",
            f"{result.peak_bytes / 1e6:.0f}",
        ]
        for size, result in zip(sizes, results, strict=True)
    ]
    print(f"{described(start)}; CPU seconds.\n")
    header = ["nodes", "norms found", *steps, "µs of recognition per node", "peak MB"]
    print(table(header, [[*row, *[""] * (len(header) - len(row))] for row in rows]))
    if given.json is not None:
        whole = {"schema": 1, "machine": start, "sizes": [asdict(result) for result in done]}
        given.json.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
