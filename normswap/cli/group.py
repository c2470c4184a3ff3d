"""Errors to exit codes: a user's error is one line and the code that its class has (`errors.py`).

Any other error is ours: exit code 70, with the traceback only under NORMSWAP_DEBUG=1.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Any

import click

from normswap.cli.output import print_error
from normswap.errors import NormswapError

INTERNAL_ERROR = 70
INTERRUPTED = 130

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
    print_error(message, hint)
    return code
