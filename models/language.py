"""Test models that read tokens or speech: GPT-2, OPT, BLOOM, Llama, Gemma, Qwen, T5, BERT, Whisper."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    BloomConfig,
    BloomForCausalLM,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from models.subject import (
    BATCH,
    EXAMPLE_SIZES,
    PAST,
    SEQUENCE,
    TOKEN_AXES,
    PlainTensors,
    Subject,
    floats,
    mask,
    randomize,
    tokens,
)

HIDDEN = 24
HEADS = 4
LAYERS = 2
VOCABULARY = 97
# The dynamo exporter folds the transpose of a weight of up to 8,192 elements, which would untie a smaller embedding.
TIED_VOCABULARY = 8192 // HIDDEN + 6
POSITIONS = 32


def gpt2_model(
    layers: int = LAYERS,
    hidden: int = HIDDEN,
    heads: int = HEADS,
    vocabulary: int = TIED_VOCABULARY,
    positions: int = POSITIONS,
    attention: str = "eager",
) -> nn.Module:
    config = GPT2Config(
        n_layer=layers,
        n_embd=hidden,
        n_head=heads,
        vocab_size=vocabulary,
        n_positions=positions,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return randomize(GPT2LMHeadModel(config))


def _logits(model: Any, input_ids: Tensor) -> tuple[Tensor, ...]:
    return (model(input_ids=input_ids, use_cache=False).logits,)


def _masked_logits(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
    return (model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits,)


def _causal(model: nn.Module) -> Subject:
    inputs = {"input_ids": tokens(VOCABULARY)}
    return Subject(PlainTensors(model, _logits), inputs, ("logits",), {"input_ids": TOKEN_AXES})


def _masked(model: nn.Module) -> Subject:
    inputs = {"input_ids": tokens(VOCABULARY), "attention_mask": mask()}
    return Subject(PlainTensors(model, _masked_logits), inputs, ("logits",), dict.fromkeys(inputs, TOKEN_AXES))


def gpt2() -> Subject:
    """GPT-2: a Pre-LN decoder whose embedding is also its output projection."""
    return _causal(gpt2_model())


def gpt2_sdpa() -> Subject:
    """GPT-2 with torch's attention function, which has an ONNX operator from opset 23 on."""
    return _causal(gpt2_model(attention="sdpa"))


def gpt2_masked() -> Subject:
    """GPT-2 with an attention mask as input; small, since TorchScript unties the embedding anyway."""
    return _masked(gpt2_model(hidden=16, vocabulary=VOCABULARY))


def gpt2_large(layers: int) -> Subject:
    """GPT-2 in the width, vocabulary and context of the released 124M one (12 layers)."""
    return _causal(gpt2_model(layers, hidden=768, heads=12, vocabulary=50257, positions=1024))


def gpt2_inputs_embeds() -> Subject:
    """GPT-2 fed with embeddings: the residual stream starts at a graph input."""

    def forward(model: Any, inputs_embeds: Tensor) -> tuple[Tensor, ...]:
        return (model(inputs_embeds=inputs_embeds, use_cache=False).logits,)

    inputs = {"inputs_embeds": floats(EXAMPLE_SIZES[SEQUENCE], HIDDEN)}
    return Subject(PlainTensors(gpt2_model(), forward), inputs, ("logits",), {"inputs_embeds": TOKEN_AXES})


def gpt2_cache() -> Subject:
    """GPT-2 with its key-value cache as graph inputs and outputs."""

    def forward(model: Any, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        result = model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        present = [tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (result.logits, *present)

    names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    past = {f"past.{name}": floats(HEADS, EXAMPLE_SIZES[PAST], HIDDEN // HEADS) for name in names}
    axes = {"input_ids": TOKEN_AXES, **{name: {0: BATCH, 2: PAST} for name in past}}
    outputs = ("logits", *(f"present.{name}" for name in names))
    return Subject(PlainTensors(gpt2_model(), forward), {"input_ids": tokens(VOCABULARY), **past}, outputs, axes)


def opt() -> Subject:
    """OPT: Pre-LN decoder with ReLU and learned positions."""
    config = OPTConfig(
        hidden_size=HIDDEN,
        ffn_dim=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        word_embed_proj_dim=HIDDEN,
        vocab_size=TIED_VOCABULARY,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
    )
    return _masked(randomize(OPTForCausalLM(config)))


def bloom() -> Subject:
    """BLOOM: Pre-LN decoder with a LayerNorm directly after the embedding, and ALiBi instead of positions."""
    config = BloomConfig(
        hidden_size=HIDDEN, n_layer=LAYERS, n_head=HEADS, vocab_size=TIED_VOCABULARY, attn_implementation="eager"
    )
    return _masked(randomize(BloomForCausalLM(config)))


def llama_model(hidden: int = HIDDEN) -> nn.Module:
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
    )
    return randomize(LlamaForCausalLM(config))


def llama() -> Subject:
    """Llama: RMSNorm, rotary positions, grouped keys and values, SwiGLU."""
    return _causal(llama_model())


def llama_masked() -> Subject:
    """Llama with an attention mask as input; small, since TorchScript writes more nodes."""
    return _masked(llama_model(hidden=16))


def _with_positions(model: nn.Module) -> Subject:
    """With positions per row: the only ones for which the opset 23 RotaryEmbedding is exported correctly."""

    def forward(model: Any, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        return (model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits,)

    positions = torch.arange(EXAMPLE_SIZES[SEQUENCE]).expand(EXAMPLE_SIZES[BATCH], -1).clone()
    inputs = {"input_ids": tokens(VOCABULARY), "position_ids": positions}
    return Subject(PlainTensors(model, forward), inputs, ("logits",), dict.fromkeys(inputs, TOKEN_AXES))


def llama_positions() -> Subject:
    """Llama with positions as input."""
    return _with_positions(llama_model())


def _gemma(config: Any, model: Any, **options: Any) -> nn.Module:
    """One layer, each of whose branches has a norm before and after it, all with gains of 1 + w."""
    settings = config(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        query_pre_attn_scalar=HIDDEN // HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
        **options,
    )
    return randomize(model(settings))


def gemma2() -> Subject:
    """Gemma 2: four norms in a layer, softcapped attention and logits."""
    return _causal(_gemma(Gemma2Config, Gemma2ForCausalLM))


def gemma3() -> Subject:
    """Gemma 3: four norms in a layer, and one of every query and every key."""
    return _causal(_gemma(Gemma3TextConfig, Gemma3ForCausalLM))


def gemma3_positions() -> Subject:
    """Gemma 3 with positions as input."""
    return _with_positions(_gemma(Gemma3TextConfig, Gemma3ForCausalLM))


def gemma3_masked() -> Subject:
    """Gemma 3 with an attention mask as input."""
    return _masked(_gemma(Gemma3TextConfig, Gemma3ForCausalLM))


def qwen3_model() -> nn.Module:
    config = Qwen3Config(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
    )
    return randomize(Qwen3ForCausalLM(config))


def qwen3() -> Subject:
    """Qwen 3: Llama with a norm of every query and every key."""
    return _causal(qwen3_model())


def qwen3_masked() -> Subject:
    """Qwen 3 with an attention mask as input."""
    return _masked(qwen3_model())


def t5() -> Subject:
    """T5: encoder and decoder of one layer each, RMSNorm without a bias, relative positions."""

    def forward(model: Any, input_ids: Tensor, decoder_input_ids: Tensor) -> tuple[Tensor, ...]:
        return (model(input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False).logits,)

    config = T5Config(
        d_model=HIDDEN,
        d_kv=HIDDEN // HEADS,
        d_ff=2 * HIDDEN,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=HEADS,
        vocab_size=VOCABULARY,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        attn_implementation="eager",
    )
    inputs = {"input_ids": tokens(VOCABULARY), "decoder_input_ids": tokens(VOCABULARY).flip(1)}
    axes = dict.fromkeys(inputs, TOKEN_AXES)
    return Subject(PlainTensors(randomize(T5ForConditionalGeneration(config)), forward), inputs, ("logits",), axes)


def bert() -> Subject:
    """BERT: Post-LN encoder, every residual sum goes through a LayerNorm before it is added to again."""

    def forward(model: Any, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        result = model(input_ids=input_ids, attention_mask=attention_mask)
        return result.last_hidden_state, result.pooler_output

    config = BertConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        attn_implementation="eager",
    )
    inputs = {"input_ids": tokens(VOCABULARY), "attention_mask": mask()}
    outputs = ("last_hidden_state", "pooler_output")
    return Subject(
        PlainTensors(randomize(BertModel(config)), forward), inputs, outputs, dict.fromkeys(inputs, TOKEN_AXES)
    )


def whisper() -> Subject:
    """Whisper: Conv1d stem, Pre-LN encoder, Pre-LN decoder with cross-attention, tied embedding."""

    def forward(model: Any, input_features: Tensor, decoder_input_ids: Tensor) -> tuple[Tensor, ...]:
        return (model(input_features=input_features, decoder_input_ids=decoder_input_ids, use_cache=False).logits,)

    frames, mel_bins, hidden = 16, 8, 16
    config = WhisperConfig(
        d_model=hidden,
        encoder_layers=1,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * hidden,
        decoder_ffn_dim=4 * hidden,
        vocab_size=HIDDEN * TIED_VOCABULARY // hidden,
        num_mel_bins=mel_bins,
        max_source_positions=frames,
        max_target_positions=POSITIONS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
        attn_implementation="eager",
    )
    inputs = {"input_features": floats(mel_bins, 2 * frames), "decoder_input_ids": tokens(VOCABULARY)}
    axes = {"input_features": {0: BATCH}, "decoder_input_ids": TOKEN_AXES}
    module = PlainTensors(randomize(WhisperForConditionalGeneration(config)), forward)
    return Subject(module, inputs, ("logits",), axes)
