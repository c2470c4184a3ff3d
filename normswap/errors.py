"""What can go wrong, by whose fault: one exception per exit code of the command line.

A refusal to convert a norm is not an error but a result (`reasons.py`); these are for unusable input, missing means
to validate, and failed writes. Every message is one line that names the node, the tensor or the file.
"""

from __future__ import annotations

from typing import ClassVar


class NormswapError(Exception):
    """Base of all errors that are not bugs; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 70


class GoalNotMet(NormswapError):
    """The check failed, nothing could be converted, or something was refused under `strict`."""

    exit_code = 1


class UsageError(NormswapError):
    """The request itself makes no sense: unknown target, output equal to input, unreadable option."""

    exit_code = 2


class InputRefused(NormswapError):
    """The model is unreadable, invalid or hostile."""

    exit_code = 3


class Inconclusive(NormswapError):
    """The result could not be validated: the runtime or provider is absent, or no output says anything."""

    exit_code = 4


class WriteError(NormswapError):
    """The output could not be written; the input and any older output are intact."""

    exit_code = 5
