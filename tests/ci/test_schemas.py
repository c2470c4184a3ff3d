"""The JSON that other programs rely on is what the published schemas say, for every command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from normswap.cli import main

MODELS = Path(__file__).parents[2] / "models" / "small"
BERT, RESNET = MODELS / "bert_dynamo18.onnx", MODELS / "resnet_torchscript17.onnx"


def schema(command: str) -> Mapping[str, object]:
    found: Mapping[str, object] = json.loads((resources.files("normswap") / "schemas" / f"{command}.json").read_text())
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", str(BERT)],
        ["inspect", str(RESNET)],
        ["convert", str(BERT), "--to", "rmsnorm", "--dry-run"],
        ["convert", str(RESNET), "--to", "folded", "--dry-run", "--no-check"],
        ["check", str(BERT), str(BERT), "--quick"],
        ["check", str(BERT), str(RESNET)],
        ["bench", str(RESNET), str(RESNET), "--rounds", "10"],
    ],
    ids=" ".join,
)
def test_output_is_valid(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema(arguments[0]))


@pytest.mark.parametrize("command", ["inspect", "convert", "check", "bench"])
def test_a_schema_is_valid_and_refuses_something(command: str) -> None:
    found = schema(command)
    jsonschema.Draft202012Validator.check_schema(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": f"normswap/{command}/1"}, found)
