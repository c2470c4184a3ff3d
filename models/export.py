"""Export the test models: `python -m models.export` the small committed ones, with `--large DIR` the real-sized ones.

Needs an environment of its own (torch 2.13, transformers, onnx, onnxscript, onnxruntime); tests never run it.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch
import transformers

from models import batch_norm, language, spatial_norms, token_norms, vision
from models.subject import Subject, half

SMALL = Path(__file__).resolve().parent / "small"
SIZE_LIMIT = 150_000  # bytes of one committed model
# Error allowed against torch, of the largest output: rounding in twelve layers stays below, a wrong graph does not.
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2  # in float16

Exporter = Callable[[Subject, int], onnx.ModelProto]


@dataclass(frozen=True)
class Export:
    """One row of the tables below: what to build, and how to write it."""

    build: Callable[[], Subject]
    exporter: Exporter
    opset: int
    external_data: bool = False


def dynamo(subject: Subject, opset: int) -> onnx.ModelProto:
    """Export through torch.export."""
    shapes = [dict(subject.free_axes.get(name, {})) for name in subject.inputs]
    program = torch.onnx.export(
        subject.module,
        tuple(subject.inputs.values()),
        dynamo=True,
        opset_version=opset,
        input_names=list(subject.inputs),
        output_names=list(subject.outputs),
        dynamic_shapes=(tuple(shapes),),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def torchscript(
    subject: Subject,
    opset: int,
    training: torch.onnx.TrainingMode = torch.onnx.TrainingMode.EVAL,
    fold_constants: bool = True,
) -> onnx.ModelProto:
    """Export through tracing, the older exporter; below opset 17 it writes LayerNorm as a chain of primitives."""
    file = io.BytesIO()
    torch.onnx.export(
        subject.module,
        tuple(subject.inputs.values()),
        file,
        dynamo=False,
        opset_version=opset,
        training=training,
        do_constant_folding=fold_constants,
        input_names=list(subject.inputs),
        output_names=list(subject.outputs),
        dynamic_axes={name: dict(axes) for name, axes in subject.free_axes.items()},
    )
    return onnx.load_from_string(file.getvalue())


# Told to leave the module's mode, which is evaluation, it does not fold BatchNorm into Conv itself.
unfolded: Exporter = partial(torchscript, training=torch.onnx.TrainingMode.PRESERVE)


def in_half(build: Callable[[], Subject]) -> Callable[[], Subject]:
    """The same model in float16."""
    return lambda: half(build())


# What is computed from weights alone stays: a weight norm, a 1 + w.
unevaluated: Exporter = partial(torchscript, fold_constants=False)

MODELS: dict[str, Export] = {
    "gpt2_dynamo18": Export(language.gpt2, dynamo, 18),
    "gpt2_dynamo23": Export(language.gpt2_sdpa, dynamo, 23),
    "gpt2_torchscript14": Export(language.gpt2_masked, torchscript, 14),
    "gpt2_torchscript17": Export(language.gpt2_masked, torchscript, 17),
    "vit_dynamo18": Export(vision.vit, dynamo, 18),
    "vit_torchscript14": Export(vision.vit, torchscript, 14),
    "vit_torchscript17": Export(vision.vit, torchscript, 17),
    "dinov2_dynamo18": Export(vision.dinov2, dynamo, 18),
    "beit_torchscript17": Export(vision.beit, torchscript, 17),
    "deit_dynamo18": Export(vision.deit, dynamo, 18),
    "opt_dynamo18": Export(language.opt, dynamo, 18),
    "bloom_dynamo18": Export(language.bloom, dynamo, 18),
    "whisper_dynamo18": Export(language.whisper, dynamo, 18),
    "gpt2_cache_dynamo18": Export(language.gpt2_cache, dynamo, 18),
    "swin_dynamo18": Export(vision.swin, dynamo, 18),
    "llama_dynamo18": Export(language.llama, dynamo, 18),
    "llama_dynamo23": Export(language.llama_positions, dynamo, 23),
    "bert_dynamo18": Export(language.bert, dynamo, 18),
    "bert_torchscript14": Export(language.bert, torchscript, 14),
    "clip_vision_dynamo18": Export(vision.clip_vision, dynamo, 18),
    "convnext_dynamo18": Export(vision.convnext, dynamo, 18),
    "gpt2_inputs_embeds_dynamo18": Export(language.gpt2_inputs_embeds, dynamo, 18),
    "resnet_torchscript17": Export(batch_norm.resnet, unfolded, 17),
    "mobilenet_torchscript17": Export(batch_norm.mobilenet, unfolded, 17),
    "unet_torchscript17": Export(batch_norm.unet, unfolded, 17),
    "preact_resnet_torchscript17": Export(batch_norm.preact_resnet, unfolded, 17),
    "repvgg_torchscript17": Export(batch_norm.repvgg, unfolded, 17),
    "densenet_torchscript17": Export(batch_norm.densenet, unfolded, 17),
    "bn_lstm_torchscript17": Export(batch_norm.bn_lstm, unfolded, 17),
    "recurrent_bn_torchscript17": Export(batch_norm.recurrent_bn, unfolded, 17),
    "recurrent_bn_per_step_torchscript17": Export(batch_norm.recurrent_bn_per_step, unfolded, 17),
    "recurrent_bn_loop_torchscript17": Export(batch_norm.recurrent_bn_loop, unfolded, 17),
    "vit_bn_torchscript17": Export(batch_norm.vit_bn, unfolded, 17),
    "nfnet_torchscript17": Export(batch_norm.nfnet, unfolded, 17),
    "llama_dynamo20": Export(language.llama, dynamo, 20),
    "llama_torchscript17": Export(language.llama_masked, torchscript, 17),
    "llama_half_dynamo18": Export(in_half(language.llama), dynamo, 18),
    "t5_dynamo18": Export(language.t5, dynamo, 18),
    "t5_dynamo20": Export(language.t5, dynamo, 20),
    "t5_dynamo23": Export(language.t5, dynamo, 23),
    "t5_torchscript17": Export(language.t5, torchscript, 17),
    "t5_half_torchscript17": Export(in_half(language.t5), torchscript, 17),
    "gemma2_dynamo18": Export(language.gemma2, dynamo, 18),
    "gemma3_dynamo18": Export(language.gemma3, dynamo, 18),
    "gemma3_dynamo20": Export(language.gemma3, dynamo, 20),
    "gemma3_dynamo23": Export(language.gemma3_positions, dynamo, 23),
    "gemma3_torchscript17": Export(language.gemma3_masked, torchscript, 17),
    "gemma3_unevaluated_torchscript17": Export(language.gemma3_masked, unevaluated, 17),
    "gemma3_half_dynamo18": Export(in_half(language.gemma3), dynamo, 18),
    "qwen3_dynamo18": Export(language.qwen3, dynamo, 18),
    "qwen3_torchscript17": Export(language.qwen3_masked, torchscript, 17),
    "group_norm_dynamo18": Export(spatial_norms.group_norm, dynamo, 18),
    "group_norm_dynamo21": Export(spatial_norms.group_norm, dynamo, 21),
    "group_norm_torchscript17": Export(spatial_norms.group_norm, torchscript, 17),
    "convnext_authors_dynamo18": Export(spatial_norms.convnext, dynamo, 18),
    "convnext_authors_torchscript14": Export(spatial_norms.convnext, torchscript, 14),
    "vocoder_dynamo18": Export(spatial_norms.vocoder, dynamo, 18),
    "vocoder_torchscript17": Export(spatial_norms.vocoder, unevaluated, 17),
    "dit_dynamo18": Export(token_norms.dit, dynamo, 18),
    "dit_torchscript14": Export(token_norms.dit, torchscript, 14),
    "dit_torchscript17": Export(token_norms.dit, torchscript, 17),
    "stylegan_dynamo18": Export(spatial_norms.stylegan, dynamo, 18),
    "stylegan_torchscript17": Export(spatial_norms.stylegan, torchscript, 17),
    "adain_dynamo18": Export(spatial_norms.adain, dynamo, 18),
    "adain_torchscript17": Export(spatial_norms.adain, torchscript, 17),
    "ln_lstm_dynamo18": Export(token_norms.ln_lstm, dynamo, 18),
    "ln_lstm_torchscript14": Export(token_norms.ln_lstm, torchscript, 14),
    "ln_lstm_loop_torchscript14": Export(token_norms.ln_lstm_loop, torchscript, 14),
    "ln_lstm_loop_torchscript17": Export(token_norms.ln_lstm_loop, torchscript, 17),
    "scale_norm_dynamo18": Export(token_norms.scale_norm, dynamo, 18),
    "scale_norm_torchscript17": Export(token_norms.scale_norm, torchscript, 17),
    "power_norm_dynamo18": Export(token_norms.power_norm, dynamo, 18),
    "power_norm_torchscript17": Export(token_norms.power_norm, torchscript, 17),
    "partial_rms_norm_dynamo18": Export(token_norms.partial_rms_norm, dynamo, 18),
    "partial_rms_norm_torchscript17": Export(token_norms.partial_rms_norm, torchscript, 17),
}

LARGE_MODELS: dict[str, Export] = {
    "gpt2_124m": Export(partial(language.gpt2_large, layers=12), dynamo, 18),
    "gpt2_124m_external": Export(partial(language.gpt2_large, layers=12), dynamo, 18, external_data=True),
    "gpt2_2layers": Export(partial(language.gpt2_large, layers=2), dynamo, 18),
    "vit_s16_dynamo18": Export(vision.vit_s16, dynamo, 18),
    "vit_s16_torchscript14": Export(vision.vit_s16, torchscript, 14),
    "resnet50_torchscript17": Export(batch_norm.resnet50, unfolded, 17),
    "unet_256_torchscript17": Export(batch_norm.unet_large, unfolded, 17),
}


def export(name: str, row: Export, folder: Path) -> Path:
    """Build, export, save and check one model; return its path."""
    subject = row.build()
    model = row.exporter(subject, row.opset)
    strip_diagnostics(model, kept=("namespace",))
    if folder == SMALL and model.ByteSize() > SIZE_LIMIT:
        strip_diagnostics(model, kept=())  # the module path of each node can outweigh the weights
    path = folder / f"{name}.onnx"
    data = f"{name}.data" if row.external_data else None
    if data:
        (folder / data).unlink(missing_ok=True)  # onnx appends to external data that is there already
    onnx.save(model, path, save_as_external_data=row.external_data, location=data)
    check(path, subject)
    return path


def strip_diagnostics(model: onnx.ModelProto, kept: tuple[str, ...]) -> None:
    """Drop what exporters note on nodes, except `kept` entries: stack traces name files of this machine."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        entries = [entry for entry in node.metadata_props if entry.key in kept]
        del node.metadata_props[:]
        node.metadata_props.extend(entries)


def check(path: Path, subject: Subject) -> None:
    """The file must be valid ONNX, and onnxruntime must agree with torch on the example input."""
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = subject.module(*subject.inputs.values())
    actual = session.run(None, {name: value.numpy() for name, value in subject.inputs.items()})
    for name, want, got in zip(subject.outputs, expected, actual, strict=True):
        error = numpy.abs(got - want.numpy()).max() / numpy.abs(want.numpy()).max()
        if not error < (HALF_TOLERANCE if want.dtype == torch.float16 else TOLERANCE):
            raise AssertionError(f"{path}: output {name!r} differs from torch's by {error:.1e} of its largest value")


def silence_exporters() -> None:
    """They warn about torchvision's operators, tracing and their own deprecation; errors still show."""
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to export (default: all)")
    parser.add_argument("--large", type=Path, metavar="DIR", help="export the real-sized models into DIR instead")
    options = parser.parse_args(arguments)
    table, folder = (LARGE_MODELS, options.large) if options.large else (MODELS, SMALL)
    if unknown := [name for name in options.names if name not in table]:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(table)}")
    folder.mkdir(parents=True, exist_ok=True)
    silence_exporters()
    for name in options.names or table:
        path = export(name, table[name], folder)
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
