"""What commands write: JSON and errors to the terminal, reports and baselines to files, and where models may go.

A destination that cannot be written is refused before the work, not after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from normswap.errors import UsageError, WriteError

REPORTS = {"--svg": (".svg",), "--html": (".html", ".htm")}


def print_error(message: str, hint: str = "") -> None:
    """Print one line on standard error, whatever the message holds."""
    from normswap.text import printable

    # split() takes line ends, and only those characters that `printable` would escape anyway.
    line = printable(" ".join(message.split()))
    click.echo(f"normswap: error: {line} ({hint})" if hint else f"normswap: error: {line}", err=True)


def print_json(report: Mapping[str, object]) -> None:
    """Print `report` on standard output, as JSON that every reader takes."""
    click.echo(json.dumps(finite_json(report), indent=2, allow_nan=False))


def finite_json(value: object) -> object:
    """`value` with null for the numbers that JSON lacks: infinities and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return value


def beside_model(model: Path, targets: Sequence[str]) -> Path:
    """The default output: `model.rmsnorm.onnx` for `model.onnx`."""
    if not model.name:
        raise UsageError(f"{model} is a folder, not a model")
    return model.with_suffix("." + ".".join((*targets, "onnx")))


def destination_of(model: Path, output: Path, option: str = "-o") -> Path:
    """`output`, refused now rather than after the work if it cannot be written. Raises UsageError or WriteError."""
    try:
        if output.is_dir():
            raise UsageError(f"{output} is a folder: name a file with {option}")
        if output.exists() and not output.is_file():
            raise UsageError(f"{output} is not a regular file: name another file with {option}")
    except OSError as error:
        raise UsageError(f"{output} cannot be a file: {error.strerror}") from error
    if output.suffix in (".onnxtxt", ".onnxtext"):
        raise UsageError(f"{output}: models are written in binary form; choose a name that ends in .onnx")
    if output.exists() and model.exists() and output.samefile(model):
        raise UsageError(f"{output} is the input, which is never touched: name another file with {option}")
    if not output.parent.is_dir():
        raise WriteError(f"{output} cannot be written: there is no folder {output.parent}")
    return output


def report_destination(model: Path, option: str, path: Path) -> Path:
    """The file of a report, refused now if it cannot be written. Its suffix says that it is no part of a model."""
    if path.suffix.lower() not in REPORTS[option]:
        raise UsageError(f"{path}: name a file that ends in {REPORTS[option][0]} for {option}")
    return destination_of(model, path, option)


def write_reports(
    document: Mapping[str, object], subject: Path, files: Mapping[str, Path | None], *, annotations: bool
) -> None:
    """Write what `report_options` ask for: `document` to `files`, by format, and as annotations."""
    wanted = {kind: path for kind, path in files.items() if path is not None}
    if not wanted and not annotations:
        return
    from normswap.ci import cases, github
    from normswap.ci import files as report_files

    finite = finite_json(document)
    assert isinstance(finite, Mapping)
    report_files.write(finite, str(subject), wanted)
    if annotations:
        click.echo(github.workflow_commands(cases.report(finite, str(subject))), err=True, nl=False)


def with_baseline(document: Mapping[str, object], path: Path | None, *, update: bool) -> Mapping[str, object]:
    """The document with what is worse than the baseline, which it may become itself. Raises `UsageError`."""
    if path is None:
        if update:
            raise UsageError("--update-baseline needs --baseline PATH")
        return document
    from normswap.ci import baseline, files

    finite = finite_json(document)
    assert isinstance(finite, Mapping)
    if update:
        files.write_json(path, baseline.baseline(finite))
        return document
    worse = baseline.worse(finite, baseline.read(path))
    for entry in worse:
        print_error(f"worse than {path}: {entry['name']}: {entry['message']}")
    return {**document, "baseline": worse}
