"""`normswap convert`: the norms of a model rewritten, and the result written if it is as good as the original.

A result whose check failed is reported like any other, but not written.
"""

from __future__ import annotations

from pathlib import Path

import click

import normswap
from normswap.cli.options import (
    Opset,
    bisect_options,
    json_option,
    model_path,
    provider_option,
    read_opset,
    report_options,
    rules_option,
    verbose_option,
)
from normswap.cli.output import beside_model, destination_of, print_json, write_reports
from normswap.errors import GoalNotMet, UsageError


@click.command(short_help="Rewrite the norms of a model.")
@click.argument("model", type=model_path)
@click.option(
    "--to",
    "targets",
    multiple=True,
    required=True,
    metavar="TARGET",
    help="rmsnorm, folded, weightnorm; standard, primitive or ort. Repeatable.",
)
@click.option("-o", "--output", type=model_path, metavar="PATH", help="[default: MODEL.TARGET.onnx beside MODEL]")
@click.option(
    "--opset",
    type=read_opset,
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
@rules_option
@click.option("--no-check", is_flag=True, help="Do not run the result in onnxruntime. The proofs remain.")
@provider_option
@bisect_options
@report_options
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
    rules_directory: Path | None,
    no_check: bool,
    provider: str,
    bisect: bool,
    reproduce: Path | None,
    annotations: bool,
    as_json: bool,
    verbose: bool,
    **reports: Path | None,
) -> int:
    """Rewrite the norms of MODEL, prove and check the result, and write it if it is as good as the original."""
    from normswap import terminal, terminal_bisect

    if no_check and (bisect or reproduce):
        raise UsageError("--bisect looks for why the check fails: leave out --no-check")
    destination = destination_of(model, output or beside_model(model, targets))
    beside = None if dry_run or not bisect else destination.with_suffix(".reproducer")
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
            rules=rules_directory,
            bisect=bisect,
            reproduce=reproduce or beside,
            progress=progress,
        )
        written = None if dry_run or conversion.exit_code == GoalNotMet.exit_code else destination
        if written:
            progress(f"writing {written}")
            conversion.save(written)
    document = {**conversion.to_json(), "output": None if written is None else str(written)}
    write_reports(document, model, reports, annotations=annotations)
    if as_json:
        print_json(document)
    else:
        terminal.show_conversion(terminal.console(), conversion, written=written, verbose=verbose)
        terminal_bisect.show_cause(terminal.console(), conversion.check, verbose=verbose)
    return conversion.exit_code
