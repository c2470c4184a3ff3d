"""`normswap check`: a converted model compared with its original in onnxruntime.

The exit code is that of the verdict, or of a goal not met if anything is worse than in the baseline.
"""

from __future__ import annotations

from pathlib import Path

import click

import normswap
from normswap.cli.options import (
    baseline_options,
    bisect_options,
    json_option,
    model_path,
    provider_option,
    report_options,
    verbose_option,
)
from normswap.cli.output import print_json, with_baseline, write_reports
from normswap.errors import GoalNotMet, Inconclusive

EXIT_CODES = {"pass": 0, "fail": GoalNotMet.exit_code, "inconclusive": Inconclusive.exit_code}


@click.command(short_help="Compare a converted model with its original.")
@click.argument("original", type=model_path)
@click.argument("converted", type=model_path)
@provider_option
@click.option("--inputs", type=model_path, metavar="PATH", help="Run on these first: .npz, or a test_data_set folder.")
@click.option("--quick", is_flag=True, help="Run on fewer inputs, as convert does.")
@click.option(
    "--allow-changed-outputs", multiple=True, metavar="NAME", help="Report output NAME, do not judge it. Repeatable."
)
@bisect_options
@baseline_options
@report_options
@json_option
@verbose_option
def check(
    original: Path,
    converted: Path,
    provider: str,
    inputs: Path | None,
    quick: bool,
    allow_changed_outputs: tuple[str, ...],
    bisect: bool,
    reproduce: Path | None,
    baseline: Path | None,
    update_baseline: bool,
    annotations: bool,
    as_json: bool,
    verbose: bool,
    **reports: Path | None,
) -> int:
    """Compare CONVERTED with ORIGINAL in onnxruntime: is it about as close to the float64 truth?"""
    from normswap import terminal, terminal_bisect

    with terminal.progress("reading the models") as progress:
        result = normswap.check(
            original,
            converted,
            provider=provider,
            inputs=inputs,
            quick=quick,
            changed_outputs=frozenset(allow_changed_outputs),
            bisect=bisect,
            reproduce=reproduce or (converted.with_suffix(".reproducer") if bisect else None),
            progress=progress,
        )
    document = with_baseline(result.to_json(), baseline, update=update_baseline)
    write_reports(document, converted, reports, annotations=annotations)
    if as_json:
        print_json(document)
    else:
        terminal.show_check(terminal.console(), result, verbose=verbose)
        terminal_bisect.show_cause(terminal.console(), result, verbose=verbose)
    return GoalNotMet.exit_code if document.get("baseline") else EXIT_CODES[result.verdict]
