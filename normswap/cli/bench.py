"""`normswap bench`: converted models timed next to their original.

The exit code is that of the measurement, or of a goal not met if anything is worse than in the baseline.
"""

from __future__ import annotations

from pathlib import Path

import click

import normswap
from normswap.cli.options import (
    baseline_options,
    json_option,
    model_path,
    provider_option,
    read_shapes,
    report_options,
)
from normswap.cli.output import print_json, with_baseline, write_reports
from normswap.errors import GoalNotMet


@click.command(short_help="Time a converted model next to its original.")
@click.argument("original", type=model_path)
@click.argument("converted", type=model_path, nargs=-1, required=True)
@provider_option
@click.option(
    "--shapes", multiple=True, metavar="NAME=SHAPES", help="Shapes of an input: ids=1x128,8x512. Once per input."
)
@click.option("--inputs", type=model_path, metavar="PATH", help="Run on these: .npz, or a test_data_set folder.")
@click.option("--rounds", type=click.IntRange(min=1), default=100, show_default=True, help="Turns of each model.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Within one operator.")
@click.option("--spinning", is_flag=True, help="Let idle threads spin, as onnxruntime does by default.")
@click.option("--cuda-graph", is_flag=True, help="Let onnxruntime replay CUDA graphs.")
@click.option("--without", multiple=True, metavar="OPTIMIZER", help="Switch off an optimizer of onnxruntime.")
@click.option("--profile", is_flag=True, help="Also show where the time goes, by kind of operator.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of inputs, order and bootstrap.")
@baseline_options
@report_options
@json_option
def bench(
    original: Path,
    converted: tuple[Path, ...],
    provider: str,
    shapes: tuple[str, ...],
    inputs: Path | None,
    rounds: int,
    threads: int,
    spinning: bool,
    cuda_graph: bool,
    without: tuple[str, ...],
    profile: bool,
    seed: int,
    baseline: Path | None,
    update_baseline: bool,
    annotations: bool,
    as_json: bool,
    **reports: Path | None,
) -> int:
    """Time ORIGINAL and each CONVERTED in interleaved rounds, with the original against itself as control."""
    from normswap import terminal, terminal_bench

    with terminal.progress("opening the models") as progress:
        result = normswap.bench(
            original,
            *converted,
            provider=provider,
            shapes=read_shapes(shapes),
            inputs=inputs,
            rounds=rounds,
            threads=threads,
            spinning=spinning,
            cuda_graph=cuda_graph,
            without=without,
            profile=profile,
            seed=seed,
            progress=progress,
        )
    document = with_baseline(result.to_json(), baseline, update=update_baseline)
    write_reports(document, converted[0], reports, annotations=annotations)
    if as_json:
        print_json(document)
    else:
        terminal_bench.show_bench(terminal.console(), result)
    return GoalNotMet.exit_code if document.get("baseline") else result.exit_code
