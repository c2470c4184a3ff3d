"""`normswap rules`: the rules that say how runtimes write norms, listed, shown and verified.

Alone it lists them. Rules of one's own are verified by the same engine as those that come with the package.
"""

from __future__ import annotations

from pathlib import Path

import click

from normswap.cli.options import json_option, model_path, rules_option
from normswap.cli.output import print_json
from normswap.errors import GoalNotMet


@click.group(invoke_without_command=True, short_help="List, show and verify the rules of spelling.")
@click.pass_context
def rules(context: click.Context) -> None:
    """The files that say how runtimes write norms: list them, show one, or verify your own."""
    if context.invoked_subcommand is None:
        context.invoke(list_rules)


@rules.command(name="list", short_help="List the rules.")
@rules_option
@json_option
def list_rules(rules_directory: Path | None = None, as_json: bool = False) -> None:
    """List the rules: which norm each writes, for which runtime, opsets and types."""
    from normswap import terminal, terminal_rules
    from normswap.rules import catalog, library

    found = library(rules_directory)
    if as_json:
        print_json(catalog.list_json(found))
    else:
        terminal_rules.show_rules(terminal.console(), catalog.rows(found))


@rules.command(short_help="Print a rule's file.")
@click.argument("name")
@rules_option
@json_option
def show(name: str, rules_directory: Path | None, as_json: bool) -> None:
    """Print the file of the rule, or of the norm, called NAME."""
    from normswap import terminal, terminal_rules
    from normswap.rules import catalog, library

    path = catalog.locate(name, library(rules_directory), rules_directory)
    text = path.read_text(encoding="utf-8")
    if as_json:
        print_json({"schema": "normswap/rules-show/1", "name": name, "path": str(path), "text": text})
    else:
        terminal_rules.show_text(terminal.console(), text)


@rules.command(short_help="Say what is wrong with rules.")
@click.argument("places", nargs=-1, type=model_path, metavar="[DIR or FILES]")
@rules_option
@json_option
def verify(places: tuple[Path, ...], rules_directory: Path | None, as_json: bool) -> int:
    """Run every rule through the engine on its own example: those of normswap, or in DIR or FILES.

    Prints OK for each file, or file:line:column and what is wrong; the exit code is 1 if anything is.
    """
    from normswap import terminal, terminal_rules
    from normswap.rules import catalog

    with terminal.progress("verifying") as progress:
        examined = []
        for item in catalog.examine((*places, *filter(None, (rules_directory,)))):
            progress(f"verified {item.path}")
            examined.append(item)
    if as_json:
        print_json({"schema": "normswap/rules-verify/1", "files": [item.to_json() for item in examined]})
    else:
        terminal_rules.show_examined(terminal.console(), examined)
    return GoalNotMet.exit_code if any(item.complaints for item in examined) else 0
