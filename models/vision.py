"""Test models that read images: ViT, DeiT, DINOv2, BEiT, CLIP, Swin, ConvNeXt."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    PreTrainedConfig,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from models.subject import BATCH, PlainTensors, Subject, floats, randomize

HIDDEN = 24
HEADS = 4
LAYERS = 2
PIXELS = 16
PATCH = 4
LABELS = 10


def _logits(model: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
    return (model(pixel_values=pixel_values).logits,)


def _classifier(model: nn.Module, pixels: int = PIXELS) -> Subject:
    inputs = {"pixel_values": floats(3, pixels, pixels)}
    return Subject(PlainTensors(randomize(model), _logits), inputs, ("logits",), {"pixel_values": {0: BATCH}})


def _encoder(config: type[PreTrainedConfig], **options: Any) -> PreTrainedConfig:
    """The settings that ViT, DeiT, DINOv2, BEiT and CLIP share."""
    shared = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * HIDDEN,
        "image_size": PIXELS,
        "patch_size": PATCH,
        "num_labels": LABELS,
        "attn_implementation": "eager",
    }
    return config(**shared | options)


def vit() -> Subject:
    """ViT: Pre-LN encoder, Conv patch embedding, class token, classifier on the class token."""
    return _classifier(ViTForImageClassification(_encoder(ViTConfig)))


def vit_s16() -> Subject:
    """ViT-S/16 at 224 pixels: 12 layers of width 384."""
    size = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
    config = _encoder(ViTConfig, **size, image_size=224, patch_size=16, num_labels=1000)
    return _classifier(ViTForImageClassification(config), pixels=224)


def deit() -> Subject:
    """DeiT: ViT with a second, distillation token and a classifier on each."""
    return _classifier(DeiTForImageClassificationWithTeacher(_encoder(DeiTConfig)))


def dinov2() -> Subject:
    """DINOv2: ViT with a LayerScale on every branch."""
    return _classifier(Dinov2ForImageClassification(_encoder(Dinov2Config, mlp_ratio=4)))


def beit() -> Subject:
    """BEiT: LayerScale, relative positions as an attention bias, a norm after pooling the patches."""
    return _classifier(BeitForImageClassification(_encoder(BeitConfig, layer_scale_init_value=0.1)))


def clip_vision() -> Subject:
    """CLIP's image tower: a LayerNorm before the first block starts the residual stream."""

    def forward(model: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return (model(pixel_values=pixel_values).image_embeds,)

    config = _encoder(CLIPVisionConfig, projection_dim=12)
    inputs = {"pixel_values": floats(3, PIXELS, PIXELS)}
    module = PlainTensors(randomize(CLIPVisionModelWithProjection(config)), forward)
    return Subject(module, inputs, ("image_embeds",), {"pixel_values": {0: BATCH}})


def swin() -> Subject:
    """Swin: shifted windows, and PatchMerging, which normalizes four tokens' channels together."""
    config = SwinConfig(
        image_size=32,
        patch_size=PATCH,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=LABELS,
        attn_implementation="eager",
    )
    return _classifier(SwinForImageClassification(config), pixels=32)


def convnext() -> Subject:
    """ConvNeXt: each block is depthwise Conv, LayerNorm over channels, two Linear layers, LayerScale."""
    config = ConvNextConfig(hidden_sizes=[12, 24], depths=[1, 2], num_stages=2, image_size=32, num_labels=LABELS)
    return _classifier(ConvNextForImageClassification(config), pixels=32)
