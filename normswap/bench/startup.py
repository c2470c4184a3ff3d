"""What a model costs before it is warm: seconds to make a session, seconds of the first run, bytes of memory.

Each is measured in a process of its own, which holds nothing else; a session made next to another finds allocators,
kernels and files already there.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from normswap.bench.session import Settings, bound, open_session
from normswap.check.runtime import Rejected, onnxruntime
from normswap.reference import Array

# What getrusage counts in: kilobytes on Linux, bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Startup:
    """Seconds and bytes; `memory` is how far the peak of the process lies above what it held before."""

    session_seconds: float
    first_run_seconds: float
    memory: int


def startup(model: Path, feeds: Mapping[str, Array], settings: Settings) -> Startup:
    """Open and run `model` once in a process of its own. Raises `Rejected` where that fails or crashes."""
    with TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, *feeds.values())  # names may be any
        request = {"model": str(model), "names": list(feeds), "inputs": str(inputs), "settings": asdict(settings)}
        done = subprocess.run(
            [sys.executable, "-m", "normswap.bench.startup"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process that ran it ended with {done.returncode}"]
        raise Rejected(said[-1])
    return Startup(**json.loads(done.stdout))


def main() -> None:
    """The process of its own: a request on standard input, the measurements on standard output, as JSON."""
    request = json.load(sys.stdin)
    with np.load(request["inputs"]) as arrays:
        feeds = {name: arrays[f"arr_{number}"] for number, name in enumerate(request["names"])}
    settings = Settings(**{**request["settings"], "without": tuple(request["settings"]["without"])})
    onnxruntime()
    before, start = _held(), time.perf_counter()
    session = open_session(Path(request["model"]), settings)
    opened = time.perf_counter()
    bound(session, feeds, settings)
    json.dump(asdict(Startup(opened - start, time.perf_counter() - opened, _peak() - before)), sys.stdout)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def _held() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return _peak()
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
