"""How often `normswap bench` is wrong: a model against itself, and against one that is 5 % slower.

`python -m benchmarks.same [--count 40]`. The model is a chain of equal layers; the slower one has a twentieth more.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import normswap

LAYERS, WIDTH, TOKENS = 40, 128, 16
SLOWER = LAYERS // 20


def written(path: Path, layers: int) -> Path:
    """A chain of `layers` times MatMul and Tanh, with weights of its own each."""
    steps = " ".join(f"m{i} = MatMul(t{i}, w{i}) t{i + 1} = Tanh(m{i})" for i in range(layers))
    kind = f"float[{TOKENS},{WIDTH}]"
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        g ({kind} x) => ({kind} y) {{ t0 = Identity(x) {steps} y = Identity(t{layers}) }}"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for i in range(layers):
        weight = random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"w{i}"))
    onnx.save(model, path)
    return path


def main() -> None:
    """Run and count the verdicts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="benchmarks of each pair [%(default)s]")
    count = parser.parse_args().count
    with TemporaryDirectory() as folder:
        one = written(Path(folder) / "one.onnx", LAYERS)
        slower = written(Path(folder) / "slower.onnx", LAYERS + SLOWER)
        for name, other in (("itself", one), (f"{SLOWER / LAYERS:.0%} more", slower)):
            results = [normswap.bench(one, other, seed=seed) for seed in range(count)]
            ratios = [result.ratio.median for result in results]
            verdicts = Counter(result.verdict for result in results)
            told = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
            print(f"against {name}: {told}; ratios {min(ratios):.3f} to {max(ratios):.3f}", flush=True)


if __name__ == "__main__":
    main()
