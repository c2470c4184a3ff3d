"""How the tests of this package make models: ONNX text, with weights filled in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest

Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def build() -> Build:
    """`build(text, w=array)`: the parsed model, in which `<float[..] w>` stands for the array."""

    def make(text: str, **weights: np.ndarray) -> onnx.ModelProto:
        model = onnx.parser.parse_model(text)
        for name, array in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model

    return make
