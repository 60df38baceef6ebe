"""The configuration of a recipe's model without its weights: from folders, from here, or from the Hub.

The models that our recipes name by default are known here, so that planning needs no network. The shapes are
those of the published config.json files; it must never be used where weights are at hand.
"""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, LlavaConfig, Qwen2Config, Qwen3VLConfig

from sharecap.errors import SharecapError, UsageError
from sharecap.model import qwen
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


def qwen2(width: int, inner: int, blocks: int, heads: int) -> Qwen2Config:
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


def qwen3_vl(
    width: int, inner: int, blocks: int, heads: int, tower: dict[str, Any], *, tied: bool
) -> Qwen3VLConfig:
    """A whole Qwen3-VL; of its tower what differs between sizes."""
    text = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
        "max_position_embeddings": 262_144,
        "tie_word_embeddings": tied,
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config={"num_heads": 16, "patch_size": 16, "out_hidden_size": width, **tower},
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )


LARGE_TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27}
SMALL_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24}

KNOWN: dict[str, Any] = {
    "openai/clip-vit-large-patch14": clip(1024, 24, 224, 14),
    "openai/clip-vit-large-patch14-336": clip(1024, 24, 336, 14),
    "openai/clip-vit-base-patch32": clip(768, 12, 224, 32),
    "lmsys/vicuna-7b-v1.3": llama(4096, 11_008, 32, 32, 2048),
    "lmsys/vicuna-7b-v1.5": llama(4096, 11_008, 32, 32, 4096),
    "lmsys/vicuna-13b-v1.5": llama(5120, 13_824, 40, 40, 4096),
    "Qwen/Qwen2.5-0.5B-Instruct": qwen2(896, 4864, 24, 14),
    "Qwen/Qwen2.5-1.5B-Instruct": qwen2(1536, 8960, 28, 12),
    "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl(
        4096, 12_288, 36, 32, LARGE_TOWER | {"deepstack_visual_indexes": [8, 16, 24]}, tied=False
    ),
    "Qwen/Qwen3-VL-2B-Instruct": qwen3_vl(
        2048, 6144, 28, 16, SMALL_TOWER | {"deepstack_visual_indexes": [5, 11, 17]}, tied=True
    ),
    "HuggingFaceTB/SmolLM2-135M": llama(
        576, 1536, 30, 9, 8192, num_key_value_heads=3, vocab_size=49_152, tie_word_embeddings=True
    ),
}


def shape_of(parts: Parts | Path) -> Any:
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
    return config


def shape_in(directory: Path) -> Any:
    """The configuration of a whole model. `UsageError` if it is neither a LLaVA nor one of Qwen's."""
    config: Any = config_of(whole_name(directory))
    if config.model_type == qwen.KIND:
        return config
    if config.model_type != "llava":
        todo = "train without a plan"
        what = f"only LLaVAs and Qwen3-VLs can be planned, not {config.model_type!r}"
        raise UsageError(what, where=directory, todo=todo)
    check_vision(config, directory)
    config.image_seq_length = image_tokens(config)
    return config


def whole_name(directory: Path) -> str | Path:
    """The published name of a whole model that our recipes look for, where nothing lies in its place."""
    published = next((name for name in KNOWN if Path(name).name == directory.name), None)
    return directory if published is None or directory.exists() else published


def places_of(parts: Parts | Path, config: Any) -> int | qwen.Places:
    """Places of a picture in the language model, or what tells them from its size."""
    if config.model_type != qwen.KIND:
        return int(config.image_seq_length)
    assert isinstance(parts, Path)
    return qwen.Places(
        qwen.PictureProcessor.read(parts).image_processor if parts.exists() else qwen.PUBLISHED
    )


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
