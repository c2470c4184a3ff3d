"""The command line: exit codes, one-line errors, valid JSON, output that no name can spoil, and imports that wait."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import jsonschema
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

import normswap
from normswap import errors, terminal
from normswap.check.result import CheckResult
from normswap.cli import main
from normswap.ledger import Inspection, NormRow, UnrecognizedRow

INSPECT_SCHEMA = {
    "type": "object",
    "required": ["schema", "model", "norms", "unrecognized"],
    "properties": {
        "schema": {"const": "normswap/inspect/1"},
        "model": {"type": "object"},
        "norms": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    "name", "kind", "axes", "size", "epsilon", "groups", "scale", "bias", "spelling", "nodes", "graph",
                    "can",
                ],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "axes": {"type": "array", "items": {"type": "integer"}},
                    "size": {"type": ["integer", "null"]},
                    "epsilon": {"type": "number"},
                    "scale": {"enum": ["constant", "runtime", "none"]},
                    "bias": {"enum": ["constant", "runtime", "none"]},
                    "spelling": {"enum": ["operator", "decomposed"]},
                    "nodes": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                    "graph": {"type": "string"},
                    "can": {
                        "type": "object",
                        "required": ["rmsnorm"],
                        "additionalProperties": {
                            "type": "object",
                            "required": ["exact", "reason_id", "reason"],
                            "properties": {"exact": {"type": "boolean"}},
                        },
                    },
                },
            },
        },
        "unrecognized": {"type": "array", "items": {"required": ["node", "op", "reason_id", "reason"]}},
    },
}  # fmt: skip

INVENTORY_SCHEMA = {
    "type": "object",
    "required": ["nodes", "bytes", "norms"],
    "properties": {"norms": {"additionalProperties": {"type": "integer"}}},
}

CHECK_SCHEMA = {
    "type": "object",
    "required": ["schema", "verdict", "reason", "outputs", "runs"],
    "properties": {
        "schema": {"const": "normswap/check/1"},
        "verdict": {"enum": ["pass", "fail", "inconclusive"]},
        "outputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["name", "max_error", "original_max_error", "rmse_ratio", "max_abs_difference", "cosine"]
            },
        },
        "runs": {"type": "array", "minItems": 1},
    },
}

CONVERT_SCHEMA = {
    "type": "object",
    "required": ["schema", "input", "output", "to", "rewrites", "refused", "before", "after", "check"],
    "properties": {
        "schema": {"const": "normswap/convert/1"},
        "to": {"type": "array", "items": {"type": "string"}},
        "rewrites": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["site", "rule", "exact", "proof"],
                "properties": {"proof": {"required": ["obligations", "max_relative_error"]}},
            },
        },
        "refused": {"type": "array", "items": {"required": ["site", "reason_id", "reason"]}},
        "before": INVENTORY_SCHEMA,
        "after": INVENTORY_SCHEMA,
        "check": {"oneOf": [CHECK_SCHEMA, {"type": "null"}]},
    },
}

SMALL = Path(__file__).resolve().parent.parent / "models" / "small"

# What a hostile name may try: move the cursor, clear the screen, turn the text around, start a line, hide itself.
HOSTILE = "a\x1b[2J\x1b]0;t\x07b\u202ec\u2066d\r\ne\u200bf\x9bg\u2028h"


def run(*arguments: str | Path) -> Result:
    """One command, as from a shell without a terminal."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_one_error(result: Result, exit_code: int, *words: str) -> None:
    """Nothing on standard output, and one line on standard error that holds `words`."""
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("normswap: error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture
def model(tmp_path: Path, gpt2: Path) -> Path:
    """A copy of a small model in a folder of its own."""
    copy = tmp_path / "model.onnx"
    copy.write_bytes(gpt2.read_bytes())
    return copy


@pytest.fixture
def untouched(model: Path) -> Iterator[None]:
    """The test must leave the input as it is, and write nothing."""
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in model.parent.iterdir()}
    yield
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in model.parent.iterdir()} == before


# --- start -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import normswap",
        "import normswap; dir(normswap)",
        "from normswap.cli import main; main(['--help'])",
        "from normswap.cli import main; main(['--version'])",
        "from normswap.cli import main; main(['convert', '--help'])",
        "from normswap.cli import main; main(['rules', '--help'])",
        "from normswap.cli import main; main(['rules', 'verify', '--help'])",
    ],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    """`--help` and `--version` answer at once: what takes long to import waits."""
    report = f"""
import atexit, sys
heavy = {{"numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "rich"}}
atexit.register(lambda: print("HEAVY", *heavy & {{*sys.modules}}))
{code}
"""
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "HEAVY"


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"normswap {normswap.__version__}\n")


@pytest.mark.parametrize("command", [[], ["inspect"], ["convert"], ["check"], ["rules"], ["rules", "verify"]])
def test_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: normswap")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_module_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "normswap", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"normswap {normswap.__version__}\n"


def test_public_names_exist() -> None:
    for name in normswap.__all__:
        assert getattr(normswap, name) is not None
    assert callable(normswap.check)
    with pytest.raises(AttributeError, match="no attribute 'swap'"):
        normswap.swap  # noqa: B018


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["frobnicate"], "frobnicate"),
        (["inspect"], "MODEL"),
        (["convert", "m.onnx"], "--to"),
        (["convert", "m.onnx", "--to", "rmsnorm", "--opset", "seventeen"], "seventeen"),
        (["convert", "m.onnx", "--to", "rmsnorm", "--provider", "abacus"], "abacus"),
        (["check", "m.onnx"], "CONVERTED"),
    ],
)
def test_usage_errors(arguments: list[str], word: str) -> None:
    assert_one_error(run(*arguments), 2, word, "--help")


def test_unknown_target(model: Path, untouched: None) -> None:
    assert_one_error(run("convert", model, "--to", "frobnorm"), 2, "frobnorm", "rmsnorm")


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to", "rmsnorm"]])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 497\n", "git lfs pull"),
        (b"not a model", "model.onnx"),
    ],
    ids=["empty", "git-lfs pointer", "text"],
)
def test_unreadable_models(command: list[str], content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert_one_error(run(*command, path), 3, word)


@pytest.mark.parametrize("command", [["inspect"], ["convert", "--to", "rmsnorm"], ["check", "absent.onnx"]])
def test_absent_models(command: list[str]) -> None:
    assert_one_error(run(*command, "absent.onnx"), 2, "absent.onnx")


def test_truncated_model(model: Path, tmp_path: Path) -> None:
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(model.read_bytes()[:-1000])
    assert_one_error(run("inspect", truncated), 3, "truncated.onnx")


@pytest.mark.parametrize(
    ("output", "exit_code", "word"),
    [("model.onnx", 2, "is the input"), (".", 2, "is a folder"), ("absent/out.onnx", 5, "absent")],
)
def test_outputs_that_are_refused(output: str, exit_code: int, word: str, model: Path, untouched: None) -> None:
    assert_one_error(run("convert", model, "--to", "rmsnorm", "-o", model.parent / output), exit_code, word)


@pytest.mark.parametrize("kind", [errors.GoalNotMet, errors.InputRefused, errors.Inconclusive, errors.WriteError])
def test_each_error_has_its_exit_code(kind: type[errors.NormswapError]) -> None:
    with patch("normswap.inspect", side_effect=kind(f"node `{HOSTILE}`\nis odd")):
        assert_one_error(run("inspect", "m.onnx"), kind.exit_code, "is odd")


def test_interrupted() -> None:
    with patch("normswap.inspect", side_effect=KeyboardInterrupt):
        result = run("inspect", "m.onnx")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_internal_errors_show_a_traceback_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with patch("normswap.inspect", side_effect=ZeroDivisionError("eight and a half")):
        monkeypatch.delenv("NORMSWAP_DEBUG", raising=False)
        assert_one_error(run("inspect", "m.onnx"), 70, "ZeroDivisionError: eight and a half", "report")
        monkeypatch.setenv("NORMSWAP_DEBUG", "1")
        assert "Traceback" in run("inspect", "m.onnx").stderr


# --- what is printed -------------------------------------------------------------------------------------------------


def test_printable_leaves_letters_alone_and_escapes_the_rest() -> None:
    assert terminal.printable("/h.0/ln_1 规范 ε `x`") == "/h.0/ln_1 规范 ε `x`"
    escaped = terminal.printable(HOSTILE + "\udcff")
    assert escaped.isprintable()
    assert "\\x1b[2J" in escaped
    assert "\\u202e" in escaped
    assert "\\udcff" in escaped


def hostile_norm(index: int) -> NormRow:
    can = {"rmsnorm": {"exact": False, "reason_id": "foreign-reader", "reason": f"`{HOSTILE}` reads {index}"}}
    return NormRow(
        name=f"{HOSTILE}{index}",
        kind="LayerNorm",
        axes=(2,),
        size=None,
        epsilon=float("nan"),
        groups=1,
        scale="constant",
        bias="none",
        spelling="operator",
        nodes=(HOSTILE,),
        graph=HOSTILE,
        can=can,
        variant=HOSTILE,
    )


def hostile_inspection() -> Inspection:
    unrecognized = UnrecognizedRow(HOSTILE, "ReduceMean", "unknown-shape", HOSTILE)
    return Inspection({"path": HOSTILE}, tuple(map(hostile_norm, range(5))), (unrecognized,))


@pytest.mark.parametrize("options", [[], ["--verbose"], ["--json"]])
def test_hostile_names_cannot_reach_the_terminal(options: list[str]) -> None:
    with patch("normswap.inspect", return_value=hostile_inspection()):
        result = run("inspect", "m.onnx", *options)
    assert result.exit_code == 0, result.stderr
    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert "202e" in result.stdout


def test_json_has_only_numbers_that_json_has() -> None:
    with patch("normswap.inspect", return_value=hostile_inspection()):
        result = run("inspect", "m.onnx", "--json")
    norms = json.loads(result.stdout, parse_constant=pytest.fail)["norms"]
    assert norms[0]["epsilon"] is None
    assert norms[0]["name"] == f"{HOSTILE}0"


def test_verbose_lists_what_is_otherwise_counted() -> None:
    with patch("normswap.inspect", return_value=hostile_inspection()):
        short, long = run("inspect", "m.onnx").stdout, run("inspect", "m.onnx", "--verbose").stdout
    assert short.count("` reads ") == terminal.SHOWN
    assert f"{5 - terminal.SHOWN} more" in short
    assert long.count("` reads ") == 5


def test_output_that_the_locale_cannot_write(tmp_path: Path, gpt2: Path) -> None:
    named = onnx.load(gpt2)
    named.graph.node[0].name = "规范"
    named.graph.output[0].name, old = "输出", named.graph.output[0].name
    for node in named.graph.node:
        node.output[:] = ["输出" if name == old else name for name in node.output]
    path = tmp_path / "规范.onnx"
    onnx.save(named, path)
    command = [sys.executable, "-m", "normswap", "inspect", str(path)]
    result = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=False)
    assert result.returncode == 0, result.stderr
    assert b"\\u89c4\\u8303.onnx" in result.stdout


# --- the commands on a real model ------------------------------------------------------------------------------------


def test_inspect(gpt2: Path) -> None:
    result = run("inspect", gpt2)
    assert result.exit_code == 0, result.stderr
    (row,) = [line for line in result.stdout.splitlines() if "LayerNorm" in line and "1e-05" in line]
    cells = [
        "5",
        "LayerNorm",
        "-1 (24)",
        "1e-05",
        "gain, bias",
        "operator",
        "all",
        "all, 1 in part",
    ]  # no bias: the head
    assert [cell.strip() for cell in row.split("  ") if cell.strip()] == cells
    assert max(map(len, result.stdout.splitlines()[1:4])) <= 80


def test_inspect_json(gpt2: Path) -> None:
    report = json.loads(run("inspect", gpt2, "--json").stdout)
    jsonschema.validate(report, INSPECT_SCHEMA)
    assert [norm["kind"] for norm in report["norms"]] == ["LayerNorm"] * 5
    assert all(norm["can"]["rmsnorm"]["exact"] for norm in report["norms"])


def test_convert_writes_beside_the_input(model: Path) -> None:
    before = model.read_bytes()
    result = run("convert", model, "--to", "rmsnorm")
    assert result.exit_code == 0, result.output
    assert model.read_bytes() == before
    output = model.parent / "model.rmsnorm.onnx"
    assert {*model.parent.iterdir()} == {model, output}
    onnx.checker.check_model(onnx.load(output), full_check=True)
    assert "5  center-up: LayerNorm became RMSNorm" in result.stdout
    assert "check: pass" in result.stdout
    assert f"wrote {output}" in result.stdout
    assert result.stderr == ""


def test_convert_json(model: Path) -> None:
    output = model.parent / "out.onnx"
    result = run("convert", model, "--to", "rmsnorm", "-o", output, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    jsonschema.validate(report, CONVERT_SCHEMA)
    assert (report["input"], report["output"], report["to"]) == (str(model), str(output), ["rmsnorm"])
    assert report["before"]["norms"]["LayerNorm"] == report["after"]["norms"]["RMSNorm"] == 5
    assert report["check"]["verdict"] == "pass"
    assert output.exists()


def test_dry_run_writes_nothing(model: Path, untouched: None) -> None:
    result = run("convert", model, "--to", "rmsnorm", "--dry-run", "--no-check", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    jsonschema.validate(report, CONVERT_SCHEMA)
    assert report["output"] is None
    assert report["check"] is None


@pytest.fixture
def partly(tmp_path: Path) -> Path:
    """A post-norm BERT, of which the embedding's norm can be converted and the others not."""
    copy = tmp_path / "bert.onnx"
    copy.write_bytes((SMALL / "bert_dynamo18.onnx").read_bytes())
    return copy


def test_refusals_are_printed_and_do_not_fail(partly: Path) -> None:
    result = run("convert", partly, "--to", "rmsnorm", "--no-check")
    assert result.exit_code == 0, result.output
    assert "4  post-norm: " in result.stdout
    assert "not checked" in result.stdout
    assert (partly.parent / "bert.rmsnorm.onnx").exists()


def test_strict_makes_refusals_fail(partly: Path) -> None:
    result = run("convert", partly, "--to", "rmsnorm", "--no-check", "--strict")
    assert result.exit_code == 1, result.output
    assert "the goal was not met; nothing was written" in result.stdout
    assert [*partly.parent.iterdir()] == [partly]


def test_candidates_none_of_which_converts_fail(partly: Path) -> None:
    result = run("convert", partly, "--to", "rmsnorm", "--no-check", "--except", "node_layer_norm")
    assert result.exit_code == 1, result.output
    assert [*partly.parent.iterdir()] == [partly]


def test_a_model_without_candidates_is_copied(model: Path) -> None:
    result = run("convert", model, "--to", "rmsnorm", "--except", "*")
    assert result.exit_code == 0, result.output
    assert "nothing to convert" in result.stdout
    assert (model.parent / "model.rmsnorm.onnx").read_bytes() == model.read_bytes()


def test_a_failed_check_is_not_written(model: Path, untouched: None) -> None:
    failed = CheckResult("fail", "the outputs differ")
    with patch("normswap.api.check", return_value=failed):
        result = run("convert", model, "--to", "rmsnorm")
    assert result.exit_code == 1, result.output
    assert "fail: the outputs differ" in result.stdout
    assert "nothing was written" in result.stdout


def test_an_inconclusive_check_is_written_and_said(model: Path) -> None:
    inconclusive = CheckResult("inconclusive", "no output varies")
    with patch("normswap.api.check", return_value=inconclusive):
        result = run("convert", model, "--to", "rmsnorm")
    assert result.exit_code == 4, result.output
    assert "inconclusive: no output varies" in result.stdout
    assert (model.parent / "model.rmsnorm.onnx").exists()


def test_a_check_that_cannot_run_is_inconclusive(model: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's onnxruntime has CUDA")
    result = run("convert", model, "--to", "rmsnorm", "--provider", "cuda")
    assert result.exit_code == 4, result.output
    assert "CUDAExecutionProvider" in result.stdout
    assert (model.parent / "model.rmsnorm.onnx").exists()


def test_check(model: Path) -> None:
    run("convert", model, "--to", "rmsnorm", "--no-check")
    result = run("check", model, model.parent / "model.rmsnorm.onnx", "--quick")
    assert result.exit_code == 0, result.output
    assert "check: pass" in result.stdout


def test_check_fails_on_another_function(model: Path) -> None:
    changed = onnx.load(model)
    weight = max(changed.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.001, weight.name))
    other = model.parent / "other.onnx"
    onnx.save(changed, other)
    result = run("check", model, other, "--quick", "--json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    jsonschema.validate(report, CHECK_SCHEMA)
    assert report["verdict"] == "fail"


def test_check_without_the_provider_is_inconclusive(model: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's onnxruntime has CUDA")
    assert run("check", model, model, "--provider", "cuda", "--quick").exit_code == 4


# --- rules -----------------------------------------------------------------------------------------------------------

RULES = Path(normswap.__file__).parent.parent / "rules"
BAD = Path(__file__).parent / "rules" / "bad"


@pytest.mark.parametrize("command", [["rules"], ["rules", "list"]])
def test_rules_are_listed(command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 0, result.output
    rows = {row.split()[0]: row.split()[1:] for row in result.stdout.splitlines() if row.strip()}
    assert rows["onnx/RMSNormalization-23"] == ["RMSNorm", "23-", "all", "exact"]
    assert rows["primitive/RMSNorm_half-9"] == ["RMSNorm", "9-17", "float16", "exact"]


def test_rules_list_json() -> None:
    report = json.loads(run("rules", "list", "--json").stdout)
    assert report["schema"] == "normswap/rules/1"
    (row,) = (item for item in report["rules"] if item["name"] == "primitive/RMSNorm-9")
    assert (row["norm"], row["since_opset"], row["until_opset"], row["exactness"]) == ("RMSNorm", 9, 17, "exact")
    assert Path(row["path"]) == RULES / "spell" / "primitive" / "RMSNorm-9.onnxtxt"


@pytest.mark.parametrize("name", ["onnx/LayerNormalization-17", "onnx/LayerNormalization-17:unbiased", "LayerNorm"])
def test_rules_show(name: str) -> None:
    path = RULES / ("norms/LayerNorm.onnxtxt" if "/" not in name else "spell/onnx/LayerNormalization-17.onnxtxt")
    text = path.read_text(encoding="utf-8")
    assert run("rules", "show", name).stdout == text
    assert json.loads(run("rules", "show", name, "--json").stdout)["text"] == text


def test_rules_show_of_no_rule() -> None:
    assert_one_error(run("rules", "show", "onnx/RMSNorm"), 2, "onnx/RMSNormalization-23")


def test_rules_verify() -> None:
    result = run("rules", "verify")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(list(RULES.rglob("*.onnxtxt")))
    assert all(line.startswith(f"OK {RULES}") for line in lines)


def test_rules_verify_says_what_is_wrong() -> None:
    result = run("rules", "verify", BAD)
    assert result.exit_code == 1
    files = {line.split(":")[0] for line in result.stdout.splitlines()}
    assert files == {str(path) for path in BAD.glob("*.onnxtxt")}
    path = BAD / "syntax.onnxtxt"
    (item,) = json.loads(run("rules", "verify", path, "--json").stdout)["files"]
    assert item["path"] == str(path)
    assert item["complaints"] == [{"line": 15, "column": 35, "message": "Expected character ) not found."}]


def test_rules_verify_of_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnxtxt"
    path.write_bytes(b"\xff\xfe")
    assert_one_error(run("rules", "verify", path), 3, "cannot be read")
    (tmp_path / "empty").mkdir()
    assert_one_error(run("rules", "verify", tmp_path / "empty"), 3, "no rules")
    assert_one_error(run("rules", "verify", tmp_path / "absent"), 2, "absent")


def test_convert_with_rules_of_ones_own(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "spell" / "onnx"
    folder.mkdir(parents=True)
    (folder / "Bad-23.onnxtxt").write_bytes((BAD / "wrong_axis.onnxtxt").read_bytes())
    for command in (["convert", model, "--to", "rmsnorm"], ["rules", "list"]):
        result = run(*command, "--rules", tmp_path / "mine")
        assert_one_error(result, 3, "Bad-23.onnxtxt:19:1: `replace` computes something else")
    assert run("rules", "verify", "--rules", tmp_path / "mine").exit_code == 1
    assert_one_error(run("convert", model, "--to", "standard", "--rules", tmp_path / "no"), 3, "no such folder")
    assert [path.name for path in model.parent.glob("*.onnx")] == [model.name]


def test_convert_to_standard(tmp_path: Path) -> None:
    copy = tmp_path / "bert.onnx"
    copy.write_bytes((SMALL / "bert_torchscript14.onnx").read_bytes())
    result = run("convert", copy, "--to", "standard")
    assert result.exit_code == 0, result.output
    assert "5  spell/onnx/LayerNormalization-17: norm written in the operators of that file" in result.stdout
    operators = [node.op_type for node in onnx.load(tmp_path / "bert.standard.onnx").graph.node]
    assert operators.count("LayerNormalization") == 5
