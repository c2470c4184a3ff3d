"""Files that appear whole or not at all: written under another name, forced to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def temporary(destination: Path) -> Iterator[Path]:
    """A new name beside `destination`; whatever has this name in the end is removed."""
    name = _hidden(destination)
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def durable(path: Path, destination: Path) -> Iterator[BinaryIO]:
    """A new file at `path`, on disk when the block ends, with the permissions of `destination` if that exists.

    Raises:
        OSError: if it cannot be created or written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:  # 0o666 is what the umask of the user is applied to
        with contextlib.suppress(FileNotFoundError):
            path.chmod(stat.S_IMODE(destination.stat().st_mode))
        yield file
        file.flush()
        os.fsync(file.fileno())


def commit(renames: Sequence[tuple[Path, Path]]) -> None:
    """Rename finished files to their destinations, the last one deciding: if it fails, the others are undone.

    Raises:
        OSError: if a file could not be renamed; everything is as it was.
    """
    *before, (last, last_destination) = renames
    undo = contextlib.ExitStack()
    keep = contextlib.ExitStack()
    with keep, undo:
        for finished, destination in before:
            backup = _hidden(destination)
            keep.callback(backup.unlink, missing_ok=True)
            undo.callback(_put_back, backup, destination)
            _keep_as(backup, destination)
            os.replace(finished, destination)
        os.replace(last, last_destination)
        undo.pop_all()
    _sync_folder(last_destination.parent)


def _keep_as(backup: Path, destination: Path) -> None:
    if not destination.exists():
        return
    try:
        os.link(destination, backup)
    except OSError:  # a file system without hard links
        os.replace(destination, backup)


def _put_back(backup: Path, destination: Path) -> None:
    if backup.exists():
        os.replace(backup, destination)
    else:
        destination.unlink(missing_ok=True)


def _hidden(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.{secrets.token_hex(8)}.tmp")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot open folders; the files themselves are on disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
