"""The configuration of a recipe's model without its weights: from folders, from here, or from the Hub.

The models that our recipes name by default are known here, so that planning needs no network. The shapes are
those of the published config.json files; it must never be used where weights are at hand.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2Config

from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import (
    DTYPES,
    TOWERS,
    Parts,
    check_language,
    check_vision,
    image_tokens,
    patches_only,
    quiet,
    without_weights,
)

ADDED_TOKENS = 2
"""`<image>` and `<pad>`, which Vicuna lacks."""


def clip(width: int, blocks: int, image: int, patch: int) -> CLIPVisionConfig:
    """A CLIP tower as OpenAI made them: heads of 64, feed-forward four times as wide."""
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=width // 64,
        image_size=image,
        patch_size=patch,
    )


def llama(width: int, inner: int, blocks: int, heads: int, reads: int, **more: Any) -> LlamaConfig:
    """A language model of Llama's kind; `reads` is the longest text, in tokens."""
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        max_position_embeddings=reads,
        **({"vocab_size": 32_000} | more),
    )


def qwen(width: int, inner: int, blocks: int, heads: int) -> Qwen2Config:
    """A small Qwen2.5: two heads of keys and values, embeddings that are the head too."""
    return Qwen2Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=2,
        vocab_size=151_936,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )


KNOWN: dict[str, Any] = {
    "openai/clip-vit-large-patch14": clip(1024, 24, 224, 14),
    "openai/clip-vit-large-patch14-336": clip(1024, 24, 336, 14),
    "openai/clip-vit-base-patch32": clip(768, 12, 224, 32),
    "lmsys/vicuna-7b-v1.3": llama(4096, 11_008, 32, 32, 2048),
    "lmsys/vicuna-7b-v1.5": llama(4096, 11_008, 32, 32, 4096),
    "lmsys/vicuna-13b-v1.5": llama(5120, 13_824, 40, 40, 4096),
    "Qwen/Qwen2.5-0.5B-Instruct": qwen(896, 4864, 24, 14),
    "Qwen/Qwen2.5-1.5B-Instruct": qwen(1536, 8960, 28, 12),
    "HuggingFaceTB/SmolLM2-135M": llama(
        576, 1536, 30, 9, 8192, num_key_value_heads=3, vocab_size=49_152, tie_word_embeddings=True
    ),
}


def shape_of(parts: Parts | Path) -> LlavaConfig:
    """The configuration of the model that a recipe starts from, up to a few tokens that `build` adds.

    `UsageError` for parts of which no model can be made.
    """
    if isinstance(parts, Path):
        return shape_in(parts)
    vision, text = config_of(parts.vision), config_of(parts.language)
    vision = getattr(vision, "vision_config", vision)
    if vision.model_type not in TOWERS:
        raise UsageError(f"not a CLIP or SigLIP but {vision.model_type!r}", where=parts.vision)
    if not hasattr(text, "vocab_size"):
        raise UsageError(f"not a language model but {text.model_type!r}", where=parts.language)
    text.vocab_size += ADDED_TOKENS
    config: Any = LlavaConfig(
        vision_config=vision,
        text_config=text,
        projector_hidden_act="gelu" if parts.projector == "mlp2x_gelu" else "linear",
        vision_feature_select_strategy=parts.select or patches_only(vision),
        vision_feature_layer=parts.feature_layer,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        image_token_index=text.vocab_size - ADDED_TOKENS,
        dtype=DTYPES[parts.dtype],
    )
    check_vision(config, parts.vision)
    check_language(config.text_config, parts.language)
    config.image_seq_length = image_tokens(config)
    without_weights(config, parts.language)
    return config  # type: ignore[no-any-return]


def shape_in(directory: Path) -> LlavaConfig:
    """The configuration of a whole model. `UsageError` if it isn't a LLaVA: no other can be counted."""
    config: Any = config_of(directory)
    if config.model_type != "llava":
        todo = "train without a plan"
        raise UsageError(f"only LLaVAs can be planned, not {config.model_type!r}", where=directory, todo=todo)
    check_vision(config, directory)
    config.image_seq_length = image_tokens(config)
    return config  # type: ignore[no-any-return]


def config_of(name: str | Path) -> Any:
    """A part's configuration. `SharecapError` if it is neither a folder, nor known here, nor to be had."""
    if not Path(name).exists() and str(name) in KNOWN:
        known = KNOWN[str(name)]
        return type(known).from_dict(known.to_dict())
    try:
        with quiet():
            return AutoConfig.from_pretrained(str(name))
    except Exception:  # noqa: BLE001 - no such folder, no network, no such name, a damaged file
        todo = "give a directory with config.json, or a Hugging Face name that can be reached from here"
        raise SharecapError("no configuration of this model", where=name, todo=todo) from None
