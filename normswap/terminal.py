"""What people read: the results as plain lines and small tables, nothing that a pipe or a narrow window spoils.

A name in a model is data from a stranger: whatever cannot be printed is escaped, so that no name moves the cursor or
turns the text around. On a terminal lines are wrapped to its width; in a pipe they stay whole, for grep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from normswap.distinct import by
from normswap.errors import GoalNotMet
from normswap.ledger import Refusal
from normswap.reasons import REASONS
from normswap.text import printable

if TYPE_CHECKING:
    from normswap.check.result import CheckResult, OutputResult
    from normswap.ledger import Conversion, Inventory, Rewrite

# What the rules of the ledger do, by their names or the first parts of them.
RULES = {
    "bias-down": "bias of a LayerNorm moved down into the weights that read it",
    "center-up": "LayerNorm became RMSNorm, its Center moved up into weights",
    "center-up/explicit": "Center inserted where no weight can absorb it",
    "spell": "norm written in the operators of that file of rules/spell/",
    "affine-up": "gain and bias moved up into weights",
    "scale-up": "gain moved up into weights",
    "shift-up": "bias moved up into weights",
    "affine-down": "gain and bias moved down into weights",
    "scale-down": "gain moved down into weights",
    "shift-down": "bias moved down into weights",
    "affine-up/explicit": "Mul or Add inserted where no weight can absorb it",
    "affine-down/explicit": "Mul or Add inserted where no weight can absorb it",
    "affine-up/copy": "shared weight copied",
    "affine-down/copy": "shared weight copied",
    "scale-up/copy": "shared weight copied",
    "scale-down/copy": "shared weight copied",
    "combine": "Affine written in fewer operators",
    "merge": "parallel linear operators became one",
    "dead-branch": "branch that adds zero removed",
    "inline": "local function that holds norms put in the place of its calls",
    "bias-down/explicit": "Add inserted where no weight can absorb a bias",
}
# Of many sites with one reason so many are spelled out; --verbose and --json give all.
SHOWN = 3
# Wider than any line of ours: without a terminal nothing is wrapped or cut.
UNBOUNDED = 1_000_000
VERDICT_STYLES = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
# A count of up to five characters and two spaces stand before the text of an entry; what belongs to it is set below.
INDENT = 7


def escaped(text: str) -> Text:
    """`text` as rich writes it, with what is not printable escaped."""
    return Text(printable(text))


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as rich writes to it."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = UNBOUNDED
    return found


@contextmanager
def progress(step: str) -> Iterator[Callable[[str], None]]:
    """What is being done now, beginning with `step`, as a line on standard error if that is a terminal."""
    with console(stderr=True).status(escaped(step)) as status:
        yield lambda step: status.update(escaped(step))


def show_conversion(out: Console, conversion: Conversion, *, written: Path | None, verbose: bool) -> None:
    """The ledger: what was done and how it was proved, what was refused and why, before and after, the check."""
    if conversion.rewrites:
        heading(out, "done")
        for (rule, exact), rewrites in by(conversion.rewrites, lambda rewrite: (rewrite.rule, rewrite.exact)).items():
            entry(out, len(rewrites), _rewrites(rule, rewrites, exact=exact))
            told = rewrites if verbose else [rewrite for rewrite in rewrites if rewrite.detail]
            for rewrite in told if verbose else told[:SHOWN]:
                line(out, _site([rewrite.site], rewrite.detail, verbose=True), indent=INDENT)
            if not verbose and len(told) > SHOWN:
                line(out, f"... and {len(told) - SHOWN:,} more: --verbose lists them", indent=INDENT)
    else:
        none = "nothing to convert: no norm of the kind, or none that was selected"
        line(out, "nothing was changed" if conversion.candidates else none)
    refusals(out, "refused", conversion.refused, verbose=verbose)
    _inventories(out, conversion.before, conversion.after)
    if conversion.check is not None:
        show_check(out, conversion.check, verbose=verbose, weights="before new weights are rounded")
    elif conversion.rewrites:
        line(out, "not checked: it was proved, but not run beside the original")
    if conversion.exit_code == GoalNotMet.exit_code:
        line(out, "the goal was not met; nothing was written")
    else:
        unsure = conversion.check is not None and conversion.check.verdict == "inconclusive"
        kept = f"wrote {written}" + (", which is proved, but NOT validated" if unsure else "")
        line(out, "nothing was written" if written is None else kept)


def show_check(
    out: Console, result: CheckResult, *, verbose: bool, weights: str = "with the weights as they are stored"
) -> None:
    """The verdict; then each output's largest error to the float64 truth beside the original's own."""
    out.print()
    line(out, f"check: {result.verdict}: {result.reason}", style=VERDICT_STYLES[result.verdict])
    for warning in result.warnings:
        line(out, f"warning: {warning}")
    if result.outputs:
        columns = ("output", "", "error", "original's", "RMSE ratio", "in float64", "elements")
        rows = (_output_cells(output) for output in result.outputs)
        table(out, columns, rows, right=(2, 3, 4, 5, 6))
        line(out, f"error: largest distance to the float64 truth; in float64: the two functions, {weights}")
    for output in result.outputs:
        if output.reason and (verbose or output.verdict != "pass"):
            line(out, _site([output.name], output.reason, verbose=True))
    if result.runs:
        families = ", ".join(
            f"{count} {family}" for family, count in Counter(run.family for run in result.runs).items()
        )
        runtime = f"onnxruntime {result.onnxruntime} on {result.provider}"
        line(out, f"{counted(len(result.runs), 'run')} in {runtime}, its optimizations off: {families}")


def _rewrites(rule: str, rewrites: Sequence[Rewrite], *, exact: bool) -> str:
    plans = {id(rewrite.proof): rewrite.proof for rewrite in rewrites}  # the rewrites of one plan share its proof
    obligations = sum(proof.obligations for proof in plans.values())
    error = max(rewrite.proof.max_relative_error for rewrite in rewrites)
    proofs = f"{counted(obligations, 'proof')}, largest relative error {error:.1g}"
    meaning = RULES.get(rule) or RULES.get(rule.partition("/")[0])
    words = f"{rule}: {meaning}" if meaning else rule
    if rule.endswith(("/explicit", "/copy")):  # a part of the plan that its line above has counted the proofs of
        return words
    return f"{words}; {'exact' if exact else 'approximate'} ({proofs})"


def _output_cells(output: OutputResult) -> tuple[str, ...]:
    numbers = (output.max_error, output.original_max_error, output.rmse_ratio, output.float64_difference)
    cells = ("-" if number is None else f"{number:.2g}" for number in numbers)
    return output.name, output.verdict, *cells, f"{output.elements:,}"


def counted(count: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _inventories(out: Console, before: Inventory, after: Inventory) -> None:
    rows = [
        ("opset", str(before.opset), str(after.opset)),
        ("nodes", f"{before.nodes:,}", f"{after.nodes:,}"),
        ("weights", decimal(before.bytes), decimal(after.bytes)),
        *(
            (kind, f"{before.norms.get(kind, 0):,}", f"{after.norms.get(kind, 0):,}")
            for kind in dict.fromkeys((*before.norms, *after.norms))
        ),
    ]
    table(out, ("", "before", "after"), rows, right=(1, 2))


def refusals(out: Console, title: str, refusals: Sequence[Refusal], *, verbose: bool) -> None:
    """One entry per reason: what it means, then each sentence with the sites of which it is true.

    Where a sentence says nothing but what the reason means, the sites are named together.
    """
    if not refusals:
        return
    heading(out, title)
    for reason_id, alike in by(refusals, lambda refusal: refusal.reason_id).items():
        reason = REASONS.get(reason_id)
        entry(out, len(alike), f"{reason_id}: {reason.meaning}" if reason else reason_id)
        if reason and not reason.remedy.startswith(("none", "nothing")):
            line(out, f"what helps: {reason.remedy}", indent=INDENT)
        end = f": {reason.meaning}" if reason else "\n"  # no sentence has line ends
        plain = [refusal.reason.removesuffix(end) for refusal in alike if refusal.reason.endswith(end)]
        if plain:
            line(out, some(plain, verbose=verbose), indent=INDENT)
        telling = (refusal for refusal in alike if not refusal.reason.endswith(end))
        sentences = list(by(telling, lambda refusal: refusal.reason).items())
        shown = sentences if verbose else sentences[:SHOWN]
        for sentence, same in shown:
            line(out, _site([refusal.site for refusal in same], sentence, verbose=verbose), indent=INDENT)
        left = sum(len(same) for _, same in sentences[len(shown) :])
        if left:
            line(out, f"... and {left:,} more: --verbose lists them", indent=INDENT)


def _site(names: Sequence[str], sentence: str, *, verbose: bool) -> str:
    """`sentence` after the names of its sites, unless it names the only one itself."""
    if len(names) == 1 and f"`{names[0]}`" in sentence:
        return sentence
    return ": ".join(part for part in (some(names, verbose=verbose), sentence) if part)


def some(names: Sequence[str], *, verbose: bool) -> str:
    """The first names, and how many more there are; all of them with `verbose`."""
    shown = names if verbose else names[:SHOWN]
    more = f" and {len(names) - len(shown):,} more" if len(shown) < len(names) else ""
    return ", ".join(shown) + more


def heading(out: Console, text: str) -> None:
    """An empty line, and a line in bold."""
    out.print()
    line(out, text, style="bold")


def entry(out: Console, count: int, text: str) -> None:
    """A count, and what it counts beside it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", no_wrap=True, min_width=INDENT - 2)
    grid.add_column()
    grid.add_row(f"{count:,}", escaped(text))
    out.print(grid)


def labelled(out: Console, label: str, text: str, *, indent: int) -> None:
    """A line with a label before it, under which nothing is set where the line is wrapped."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=indent - 2, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(escaped(label), escaped(text))
    out.print(grid)


def line(out: Console, text: str, *, indent: int = 0, style: str = "") -> None:
    """One line, or more where the terminal is narrow, all of them indented."""
    out.print(Padding(escaped(text), (0, 0, 0, indent), expand=False), style=style)


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int]) -> None:
    """Columns under their names, those in `right` aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escaped(cell) for cell in row))
    out.print()
    out.print(table)
