"""`normswap inspect`: the norms of a model, how they are spelled and what each can become.

It prints them, and draws them on request.
"""

from __future__ import annotations

from pathlib import Path

import click

import normswap
from normswap.cli.options import json_option, model_path, verbose_option
from normswap.cli.output import print_json, report_destination


@click.command(short_help="Show the norms of a model.")
@click.argument("model", type=model_path)
@json_option
@verbose_option
@click.option("--svg", type=model_path, metavar="FILE", help="Draw each distinct norm on a sheet, as an SVG file.")
@click.option("--html", type=model_path, metavar="FILE", help="Write all of it, with drawings, as one HTML page.")
def inspect(model: Path, as_json: bool, verbose: bool, svg: Path | None, html: Path | None) -> None:
    """Show the norms of MODEL, how they are spelled, what each can become, and if not, why."""
    from normswap import terminal, terminal_inspection

    wanted = {"--svg": svg, "--html": html}
    reports = [report_destination(model, option, path) for option, path in wanted.items() if path is not None]
    with terminal.progress("reading the model") as progress:
        inspection = normswap.inspect(model)
        if reports:
            from normswap import report
        for path in reports:
            progress(f"drawing {path}")
            report.write(inspection, path)
    if as_json:
        print_json(inspection.to_json())
    else:
        terminal_inspection.show_inspection(terminal.console(), inspection, verbose=verbose)
