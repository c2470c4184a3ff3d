"""The command line: options in, one call of the public API, its result printed; no other logic.

Results go to standard output, progress and errors to standard error. A user's error is one line and an exit code
(`errors.py`); any other is ours: exit code 70, with the traceback only under NORMSWAP_DEBUG=1.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click

import normswap
from normswap.errors import GoalNotMet, Inconclusive, NormswapError, UsageError, WriteError

INTERNAL_ERROR = 70
INTERRUPTED = 130
EXIT_CODES = {"pass": 0, "fail": GoalNotMet.exit_code, "inconclusive": Inconclusive.exit_code}

Opset = int | Literal["auto"]


class Commands(click.Group):
    """A group whose every error is one line, with the exit codes of DESIGN.md §8."""

    def main(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  # click's own signature is an overload
        """Run the command that the arguments name, and exit with its code."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the locale cannot write
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            hint = f"see {context.command_path} --help" if context else ""
            code = _failed(error.exit_code, error.format_message(), hint)
        except NormswapError as error:
            code = _failed(error.exit_code, str(error))
        except (click.Abort, KeyboardInterrupt):
            code = _failed(INTERRUPTED, "interrupted")
        except Exception as error:  # noqa: BLE001  # the last line of defence: a user sees no traceback
            if os.environ.get("NORMSWAP_DEBUG") == "1":
                traceback.print_exc()
            hint = "this is a bug, please report it; NORMSWAP_DEBUG=1 shows where it is"
            code = _failed(INTERNAL_ERROR, f"{type(error).__name__}: {error}", hint)
        sys.exit(code)


def _failed(code: int, message: str, hint: str = "") -> int:
    from normswap.terminal import printable

    # split() takes line ends, and only those characters that `printable` would escape anyway.
    line = printable(" ".join(message.split()))
    click.echo(f"normswap: error: {line} ({hint})" if hint else f"normswap: error: {line}", err=True)
    return code


def _print_json(report: Mapping[str, object]) -> None:
    click.echo(json.dumps(_finite(report), indent=2, allow_nan=False))


def _finite(value: object) -> object:
    """`value` with null for the numbers that JSON lacks: infinities and NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _opset(text: str) -> Opset:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise click.BadParameter(f"{text!r} is neither a number nor auto")
    return int(text)


def _beside(model: Path, targets: Sequence[str]) -> Path:
    """The default output: `model.rmsnorm.onnx` for `model.onnx`."""
    if not model.name:
        raise UsageError(f"{model} is a folder, not a model")
    return model.with_suffix("." + ".".join((*targets, "onnx")))


def _destination(model: Path, output: Path) -> Path:
    """`output`, refused now rather than after the work if it cannot be written. Raises UsageError or WriteError."""
    try:
        if output.is_dir():
            raise UsageError(f"{output} is a folder: name a file with -o")
        if output.exists() and not output.is_file():
            raise UsageError(f"{output} is not a regular file: name another file with -o")
    except OSError as error:
        raise UsageError(f"{output} cannot be a file: {error.strerror}") from error
    if output.suffix in (".onnxtxt", ".onnxtext"):
        raise UsageError(f"{output}: models are written in binary form; choose a name that ends in .onnx")
    if output.exists() and model.exists() and output.samefile(model):
        raise UsageError(f"{output} is the input, which is never touched: name another file with -o")
    if not output.parent.is_dir():
        raise WriteError(f"{output} cannot be written: there is no folder {output.parent}")
    return output


model_path = click.Path(path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="List every site, not the first few of a kind.")
provider_option = click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where onnxruntime runs the models.",
)


EXIT_CODE_TABLE = """\b
Exit codes:
    0  done; also if there was nothing to do, or a part was refused
    1  the goal was not met: the check failed, nothing could be converted
    2  usage
    3  the input was refused: unreadable, invalid or hostile
    4  inconclusive: the result could not be validated
    5  the output could not be written; input and older output are intact
   70  internal error
  130  interrupted
"""  # click wraps no paragraph that begins with \\b


@click.group(
    name="normswap", cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODE_TABLE
)
@click.version_option(normswap.__version__, prog_name="normswap", message="%(prog)s %(version)s")
def main() -> None:
    """A compiler for the normalization layers of ONNX models.

    It makes LayerNorms RMSNorms and folds BatchNorms, gains and biases into weights, without changing what the model
    computes, and proves each step on the model's own weights.
    """


@main.command(short_help="Show the norms of a model.")
@click.argument("model", type=model_path)
@json_option
@verbose_option
def inspect(model: Path, as_json: bool, verbose: bool) -> None:
    """Show the norms of MODEL, how they are spelled, what each can become, and if not, why."""
    from normswap import terminal, terminal_inspection

    with terminal.progress("reading the model"):
        inspection = normswap.inspect(model)
    if as_json:
        _print_json(inspection.to_json())
    else:
        terminal_inspection.show_inspection(terminal.console(), inspection, verbose=verbose)


@main.command(short_help="Rewrite the norms of a model.")
@click.argument("model", type=model_path)
@click.option(
    "--to", "targets", multiple=True, required=True, metavar="TARGET", help="rmsnorm, folded or weightnorm. Repeatable."
)
@click.option("-o", "--output", type=model_path, metavar="PATH", help="[default: MODEL.TARGET.onnx beside MODEL]")
@click.option(
    "--opset",
    type=_opset,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="Opset of the result. auto raises it if a rewrite needs it and nothing is lost.",
)
@click.option("--only", multiple=True, metavar="GLOB", help="Only norms whose name matches. Repeatable.")
@click.option("--except", "exclude", multiple=True, metavar="GLOB", help="No norms whose name matches. Repeatable.")
@click.option(
    "--allow-changed-outputs",
    multiple=True,
    metavar="NAME",
    help="Model output NAME may be delivered centered. Repeatable.",
)
@click.option("--allow-larger", is_flag=True, help="The model may grow: copies of shared weights cost nothing.")
@click.option("--strict", is_flag=True, help="Any refusal is a failure.")
@click.option("--dry-run", is_flag=True, help="Do everything but write.")
@click.option("--no-check", is_flag=True, help="Do not run the result in onnxruntime. The proofs remain.")
@provider_option
@json_option
@verbose_option
def convert(
    model: Path,
    targets: tuple[str, ...],
    output: Path | None,
    opset: Opset,
    only: tuple[str, ...],
    exclude: tuple[str, ...],
    allow_changed_outputs: tuple[str, ...],
    allow_larger: bool,
    strict: bool,
    dry_run: bool,
    no_check: bool,
    provider: str,
    as_json: bool,
    verbose: bool,
) -> int:
    """Rewrite the norms of MODEL, prove and check the result, and write it if it is as good as the original."""
    from normswap import terminal

    destination = _destination(model, output or _beside(model, targets))
    with terminal.progress("reading the model") as progress:
        conversion = normswap.convert(
            model,
            targets,
            opset=opset,
            strict=strict,
            allow_larger=allow_larger,
            only=only,
            exclude=exclude,
            allow_changed_outputs=allow_changed_outputs,
            check=not no_check,
            provider=provider,
            progress=progress,
        )
        written = None if dry_run or conversion.exit_code == GoalNotMet.exit_code else destination
        if written:
            progress(f"writing {written}")
            conversion.save(written)
    if as_json:
        _print_json({**conversion.to_json(), "output": None if written is None else str(written)})
    else:
        terminal.show_conversion(terminal.console(), conversion, written=written, verbose=verbose)
    return conversion.exit_code


@main.command(short_help="Compare a converted model with its original.")
@click.argument("original", type=model_path)
@click.argument("converted", type=model_path)
@provider_option
@click.option("--inputs", type=model_path, metavar="PATH", help="Run on these first: .npz, or a test_data_set folder.")
@click.option("--quick", is_flag=True, help="Run on fewer inputs, as convert does.")
@click.option(
    "--allow-changed-outputs", multiple=True, metavar="NAME", help="Report output NAME, do not judge it. Repeatable."
)
@json_option
@verbose_option
def check(
    original: Path,
    converted: Path,
    provider: str,
    inputs: Path | None,
    quick: bool,
    allow_changed_outputs: tuple[str, ...],
    as_json: bool,
    verbose: bool,
) -> int:
    """Compare CONVERTED with ORIGINAL in onnxruntime: is it about as close to the float64 truth?"""
    from normswap import terminal

    with terminal.progress("reading the models") as progress:
        result = normswap.check(
            original,
            converted,
            provider=provider,
            inputs=inputs,
            quick=quick,
            changed_outputs=frozenset(allow_changed_outputs),
            progress=progress,
        )
    if as_json:
        _print_json(result.to_json())
    else:
        terminal.show_check(terminal.console(), result, verbose=verbose)
    return EXIT_CODES[result.verdict]
