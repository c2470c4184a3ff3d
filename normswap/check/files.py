"""The user's own inputs: an .npz file, an ONNX `test_data_set` folder, or arrays in memory.

Nothing is unpickled or executed. Names and dtypes are compared with the model's before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from normswap.check.inputs import Case
from normswap.check.interface import Interface, Port
from normswap.check.sizes import Binding
from normswap.errors import UsageError
from normswap.reference import Array


def load(source: Path | Mapping[str, Array], interface: Interface) -> list[Case]:
    """The cases found in `source`. Raises `UsageError` naming the file or the input that does not fit."""
    if isinstance(source, Mapping):
        return [_case("given", dict(source), {}, interface)]
    if source.is_dir():
        folders = sorted(source.glob("test_data_set_*")) or [source]
        return [_test_data_set(folder, interface) for folder in folders]
    if source.suffix == ".npz":
        if not source.is_file():
            raise UsageError(f"{source}: there is no such file")
        try:
            with np.load(source, allow_pickle=False) as archive:
                return [_case(source.name, {name: archive[name] for name in archive.files}, {}, interface)]
        except (OSError, ValueError) as error:
            raise UsageError(f"{source}: cannot be read as an .npz file: {error}") from error
    raise UsageError(f"{source}: not an .npz file or a test_data_set folder")


def _test_data_set(folder: Path, interface: Interface) -> Case:
    """One folder: input_0.pb ... are the required inputs in order, then the overridable; output_0.pb ... likewise."""
    ports = (*interface.inputs, *interface.overridable)
    feeds = dict(_tensors(folder, "input", ports))
    if not feeds:
        raise UsageError(f"{folder}: holds no input_0.pb")
    return _case(folder.name, feeds, dict(_tensors(folder, "output", interface.outputs)), interface)


def _tensors(folder: Path, kind: str, ports: Sequence[Port]) -> Iterator[tuple[str, Array]]:
    for index, port in enumerate(ports):
        file = folder / f"{kind}_{index}.pb"
        if not file.exists():
            return
        yield port.name, _tensor(file)


def _tensor(file: Path) -> Array:
    try:
        return onnx.numpy_helper.to_array(onnx.load_tensor(file))
    except Exception as error:  # protobuf and onnx each raise their own
        raise UsageError(f"{file}: not a tensor: {error}") from error


def _case(name: str, feeds: dict[str, Array], expected: dict[str, Array], interface: Interface) -> Case:
    ports = {port.name: port for port in (*interface.inputs, *interface.overridable)}
    for port in interface.inputs:
        if port.name not in feeds:
            raise UsageError(f"{name}: no array for input `{port.name}`")
    for given, array in feeds.items():
        if given not in ports:
            raise UsageError(f"{name}: `{given}` is not an input of the model ({', '.join(ports)})")
        dtype = ports[given].dtype
        if dtype is not None and array.dtype != dtype.numpy():
            raise UsageError(f"{name}: `{given}` is {array.dtype}, the model takes {dtype.name}")
    sizes = tuple((f"{given}[{axis}]", size) for given, array in feeds.items() for axis, size in enumerate(array.shape))
    return Case(name, None, Binding("given", sizes), feeds, expected)


EXPECTED_RELATIVE, EXPECTED_ABSOLUTE = 1e-3, 1e-7
"""How far an original may be from the outputs that came with it: what onnx's own backend tests allow."""


def unreproduced(case: Case, names: Sequence[str], outputs: Sequence[Array]) -> list[str]:
    """Warnings about outputs that came with the data and that the original does not reproduce.

    They cannot decide: what holds against the truth holds against them too, by the triangle inequality. But an
    original that does not reproduce its own data is worth knowing.
    """
    found = []
    for name, got in zip(names, outputs, strict=True):
        want = case.expected.get(name)
        if want is None:
            continue
        if want.shape != got.shape:
            found.append(f"the original's `{name}` has another shape than the output that came with {case.family}")
        elif not np.allclose(got, want, EXPECTED_RELATIVE, EXPECTED_ABSOLUTE, equal_nan=got.dtype.kind == "f"):
            found.append(f"the original does not reproduce the output `{name}` that came with {case.family}")
    return found
