"""The whole search: of a conversion that fails, of files, with a reproducer that fails by itself; and on the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import normswap
from normswap.bisect import reproducer
from normswap.bisect.result import BisectResult
from normswap.check import check
from normswap.cli import main
from normswap.errors import UsageError
from tests.bisect.conftest import chain


def found_by_convert(model: onnx.ModelProto, **options: object) -> BisectResult:
    result = normswap.convert(model, "rmsnorm", **options)
    assert result.check is not None
    assert result.check.verdict == "fail"
    assert result.check.bisect is not None
    return result.check.bisect


def test_convert_names_the_rewrite_the_value_and_writes_a_pair_that_fails(
    misspell: Callable[..., None], tmp_path: Path
) -> None:
    misspell("ln_3")
    found = found_by_convert(chain(), reproduce=tmp_path / "why")
    assert found.sites == ("ln_3",)
    assert found.minimal
    # Without its ε the norm is wrong; its bias moved down into nothing, since Erf does not take one.
    assert found.first == "n3"
    assert (found.agree, found.centered) == (("h3",), ("h3",))
    assert found.reproducer == str(tmp_path / "why")
    again = check(tmp_path / "why/original.onnx", tmp_path / "why/converted.onnx", inputs=tmp_path / "why/inputs.npz")
    assert again.verdict == "fail"
    assert again.reason.startswith("output `n3`")
    assert found.nodes == len(onnx.load(tmp_path / "why/converted.onnx").graph.node) < 10
    assert [node.op_type for node in onnx.load(tmp_path / "why/original.onnx").graph.node] == ["LayerNormalization"]
    text = (tmp_path / "why/README.txt").read_text()
    assert "normswap check original.onnx converted.onnx --inputs inputs.npz" in text
    assert "ln_3" in text
    onnx.checker.check_model(onnx.load(tmp_path / "why/converted.onnx"))


def test_a_transfer_that_forgets_a_bias(forget_bias: Callable[[str], None], tmp_path: Path) -> None:
    """The value is the Add that was to take the Center into its constant, and did not."""
    forget_bias("b2")
    found = found_by_convert(chain(), reproduce=tmp_path / "why")
    assert found.sites == ("ln_2",)
    assert (found.first, found.agree, found.centered) == ("h2", ("p2",), ("p2", "h2"))
    ends = [
        [node.op_type for node in onnx.load(tmp_path / f"why/{name}.onnx").graph.node]
        for name in ("original", "converted")
    ]
    assert ends == [["Add", "ReduceMean", "Sub"], ["ReduceMean", "Sub", "Add"]]
    again = check(tmp_path / "why/original.onnx", tmp_path / "why/converted.onnx", inputs=tmp_path / "why/inputs.npz")
    assert again.verdict == "fail"


def test_nothing_is_searched_where_nothing_fails() -> None:
    result = normswap.convert(chain(), "rmsnorm", bisect=True)
    assert result.check is not None
    assert result.check.verdict == "pass"
    assert result.check.bisect is None


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A chain, and what it converts to."""
    onnx.save(chain(), tmp_path / "chain.onnx")
    normswap.convert(tmp_path / "chain.onnx", "rmsnorm").save(tmp_path / "chain.rmsnorm.onnx")
    return tmp_path / "chain.onnx", tmp_path / "chain.rmsnorm.onnx"


def spoil(path: Path, weight: str) -> None:
    proto = onnx.load(path)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == weight)
    array = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array + np.float32(0.1), weight))
    onnx.save(proto, path)


def test_a_file_that_was_changed_after_it_was_made(files: tuple[Path, Path]) -> None:
    spoil(files[1], "w4")
    found = check(*files, quick=True, bisect=True).bisect
    assert found is not None
    assert found.sites == ()
    assert "changed after it was made" in found.notes[0]
    assert (found.first, found.agree) == ("p4", ("e3",))
    assert found.reproducer is None


def test_a_file_that_is_made_wrongly_again(misspell: Callable[..., None], tmp_path: Path) -> None:
    misspell("ln_2")
    onnx.save(chain(), tmp_path / "chain.onnx")
    normswap.convert(tmp_path / "chain.onnx", "rmsnorm", check=False).save(tmp_path / "converted.onnx")
    found = check(tmp_path / "chain.onnx", tmp_path / "converted.onnx", quick=True, bisect=True).bisect
    assert found is not None
    assert found.sites == ("ln_2",)
    assert found.first == "n2"


@pytest.mark.parametrize(
    ("key", "value", "note"),
    [
        ("normswap.source_sha256", "0", "another file"),
        ("normswap.targets", "nonsense", "another file"),
        ("normswap.ledger_sha256", "0", "other options"),
        (None, "", "no stamp"),
    ],
)
def test_a_file_that_cannot_be_made_again(files: tuple[Path, Path], key: str | None, value: str, note: str) -> None:
    proto = onnx.load(files[1])
    if key is None:
        del proto.metadata_props[:]
    for entry in proto.metadata_props:
        entry.value = value if entry.key == key else entry.value
    onnx.save(proto, files[1])
    spoil(files[1], "w4")
    found = check(*files, quick=True, bisect=True).bisect
    assert found is not None
    assert note in found.notes[0]
    assert found.first == "p4"


def test_a_lost_output_has_no_values_to_compare() -> None:
    model = chain()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.output[0].name = "e5"
    found = check(model, other, bisect=True).bisect
    assert found is not None
    assert found.first == ""
    assert any("no values were compared" in note for note in found.notes)


def test_a_reproducer_replaces_an_older_one_and_nothing_else(files: tuple[Path, Path], tmp_path: Path) -> None:
    spoil(files[1], "w4")
    folder = tmp_path / "why"
    for _ in range(2):
        assert check(*files, quick=True, reproduce=folder).bisect.reproducer == str(folder)
    assert {file.name for file in folder.iterdir()} == {"original.onnx", "converted.onnx", "inputs.npz", "README.txt"}
    (folder / "mine.txt").touch()
    with pytest.raises(UsageError, match="other things than a reproducer"):
        check(*files, quick=True, reproduce=folder)
    (tmp_path / "models").mkdir()
    mine = tmp_path / "models" / "original.onnx"
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="other things"):
        check(*files, quick=True, reproduce=mine.parent)
    assert mine.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".normswap-*"))


@pytest.mark.parametrize("step", ["trial", "every value kept", "a reproducer"])
def test_an_interrupt_leaves_nothing_behind(
    misspell: Callable[..., None], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    misspell("ln_3")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def progress(line: str) -> None:
        if step in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normswap.convert(chain(), "rmsnorm", reproduce=tmp_path / "why", progress=progress)
    assert not list(tmp_path.iterdir())


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert not done.exception or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.stdout


def test_check_on_the_command_line(files: tuple[Path, Path]) -> None:
    code, text = run("check", *files, "--bisect", "--quick")
    assert code == 0
    assert "--bisect" not in text
    assert "cause" not in text
    spoil(files[1], "w4")
    code, text = run("check", *files, "--quick")
    assert code == 1
    assert "--bisect finds" in text
    code, text = run("check", *files, "--quick", "--bisect")
    assert code == 1
    assert "the first value that diverges, in float64: p4 (its mean subtracted)" in text
    folder = files[1].with_suffix(".reproducer")
    assert f"a reproducer of 1 node is in {folder}" in text
    assert (folder / reproducer.README).exists()
    code, text = run("check", *files, "--quick", "--bisect", "--json")
    document = json.loads(text)
    schema = json.loads((resources.files("normswap") / "schemas" / "check.json").read_text())
    jsonschema.validate(document, schema)
    assert document["bisect"]["first"] == "p4"


def test_convert_on_the_command_line(misspell: Callable[..., None], tmp_path: Path) -> None:
    misspell("ln_3")
    source = tmp_path / "chain.onnx"
    onnx.save(chain(), source)
    code, text = run("convert", source, "--to", "rmsnorm")
    assert code == 1
    assert "--bisect finds" in text
    code, text = run("convert", source, "--to", "rmsnorm", "--bisect", "--dry-run")
    assert code == 1
    assert "one rewrite breaks it by itself" in text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chain.onnx"]
    code, text = run("convert", source, "--to", "rmsnorm", "--bisect", "--json")
    document = json.loads(text)
    schema = json.loads((resources.files("normswap") / "schemas" / "convert.json").read_text())
    jsonschema.validate(document, schema)
    assert document["check"]["bisect"]["sites"] == ["ln_3"]
    assert document["check"]["bisect"]["reproducer"] == str(tmp_path / "chain.rmsnorm.reproducer")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chain.onnx", "chain.rmsnorm.reproducer"]
    code, _ = run("convert", source, "--to", "rmsnorm", "--bisect", "--no-check")
    assert code == 2
