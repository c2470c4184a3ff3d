"""The options that commands share, and the values of options that need to be read.

An option that only one command has stands with that command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import click

from normswap.errors import UsageError

Opset = int | Literal["auto"]

model_path = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="List every site, not the first few of a kind.")
rules_option = click.option(
    "--rules",
    "rules_directory",
    type=model_path,
    metavar="DIR",
    help="A folder with rules of your own, which are tried before ours: spell/<runtime>/ and norms/.",
)
provider_option = click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where onnxruntime runs the models.",
)


def bisect_options(command: Callable[..., int]) -> Callable[..., int]:
    """The search for the cause of a failure."""
    reproduce = click.option(
        "--reproduce", type=model_path, metavar="DIR", help="Where --bisect writes a few nodes that fail, too."
    )
    search = click.option(
        "--bisect", is_flag=True, help="If the check fails, find which rewrites break it, and the first wrong value."
    )
    return search(reproduce(command))


def report_options(command: Callable[..., int]) -> Callable[..., int]:
    """What a command writes besides: the JSON that `--json` prints, and views of it for CI."""
    for option in reversed(
        [
            click.option("--report", type=model_path, metavar="PATH", help="Write the JSON there, too."),
            click.option("--junit", type=model_path, metavar="PATH", help="Write JUnit XML."),
            click.option("--sarif", type=model_path, metavar="PATH", help="Write SARIF 2.1.0."),
            click.option("--markdown", type=model_path, metavar="PATH", help="Write Markdown, at most 1 MiB."),
            click.option("--annotations", is_flag=True, help="Print GitHub annotations on standard error, at most 10."),
        ]
    ):
        command = option(command)
    return command


def baseline_options(command: Callable[..., int]) -> Callable[..., int]:
    """A file of earlier measurements, to compare with or to write."""
    update = click.option("--update-baseline", is_flag=True, help="Write the baseline instead of comparing with it.")
    kept = click.option("--baseline", type=model_path, metavar="PATH", help="Fail where it is worse than in this file.")
    return kept(update(command))


def read_opset(text: str) -> Opset:
    """`17` or `auto`. Raises `click.BadParameter`."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither a number nor auto")
    return int(text)


def read_shapes(entries: Sequence[str]) -> dict[str, list[tuple[int, ...]]]:
    """`ids=1x128,8x512`: by input name the shapes to run on. Raises `UsageError`."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for entry in entries:
        name, separator, listed = entry.rpartition("=")
        shapes = [shape.split("x") for shape in listed.split(",")]
        if not (separator and name) or not all(size.isdecimal() for shape in shapes for size in shape):
            raise UsageError(f"{entry!r} is not NAME=SHAPE[,SHAPE ...] as in ids=1x128,8x512")
        found[name] = [tuple(map(int, shape)) for shape in shapes]
    return found
