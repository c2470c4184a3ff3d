"""The command line: options in, one call of the public API, its result printed; no other logic.

Results go to standard output, progress and errors to standard error. Each command is a module, made of the options of
`options.py` and the means of `output.py`; what takes long to import waits until a command runs.
"""

from __future__ import annotations

import click

import normswap
from normswap.cli.bench import bench
from normswap.cli.check import check
from normswap.cli.convert import convert
from normswap.cli.group import EXIT_CODE_TABLE, Commands
from normswap.cli.inspect import inspect
from normswap.cli.rules import rules

__all__ = ["main"]


@click.group(
    name="normswap",
    cls=Commands,
    commands=[inspect, convert, check, bench, rules],
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODE_TABLE,
)
@click.version_option(normswap.__version__, prog_name="normswap", message="%(prog)s %(version)s")
def main() -> None:
    """A compiler for the normalization layers of ONNX models.

    It makes LayerNorms RMSNorms and folds BatchNorms, gains and biases into weights, without changing what the model
    computes, and proves each step on the model's own weights.
    """
