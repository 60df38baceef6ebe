"""Real Hugging Face folders of tiny models, made from a config: what the tests here start from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from sharecap.chat.templates import VICUNA_V1
from sharecap.model.build import Llava, Parts, build
from sharecap.records import Conversation, Turn

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
TEXTS = [
    VICUNA_V1.system + "USER: Describe the image. ASSISTANT: There is a red circle, and a blue square!\n",
    "On the left a large green triangle; above it, 3 small stars. The background is white: nothing else.\n",
    "Is there a circle? How many squares are there? Yes, No. What colour is the triangle?\n",
]


def byte_level(texts: Iterable[str] = TEXTS, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2: a space belongs to the word after it, every text comes back."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return finished(inner, bos)


def sentencepiece(texts: Iterable[str] = TEXTS, legacy: bool = True) -> PreTrainedTokenizerFast:
    """BPE with a space put before each text, byte fallback and a start token: Llama's and Vicuna's kind.

    `legacy` puts the space after each special token as well.
    """
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    inner.train_from_iterator((text.replace("\n", " ") for text in texts), trainer)
    if legacy:
        inner.pre_tokenizer = None  # type: ignore[assignment]
    else:
        inner.normalizer = None  # type: ignore[assignment]
        inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return finished(inner, bos=True)


def finished(inner: Tokenizer, bos: bool) -> PreTrainedTokenizerFast:
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def language_folder(
    directory: Path, tokenizer: PreTrainedTokenizerFast | None = None, **changes: object
) -> Path:
    """A Llama of 2 blocks, width 32. `changes` go to its configuration; `model_type` makes another kind."""
    tokenizer = tokenizer or byte_level()
    torch.manual_seed(0)
    settings = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | changes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def vision_config() -> CLIPVisionConfig:
    """A tower of 4 blocks, width 32, 4 image tokens from 32 x 32 pixels."""
    return CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        initializer_range=0.15,
    )


def vision_folder(directory: Path, kind: str = "clip") -> Path:
    """A CLIP tower, or a SigLIP of the same shape with its pooling head."""
    torch.manual_seed(1)
    if kind == "clip":
        CLIPVisionModel(vision_config()).save_pretrained(directory)
    else:
        siglip_model().save_pretrained(directory)
    return directory


def siglip_model() -> SiglipVisionModel:
    """A SigLIP tower whose patches, like a real one's, do not divide its pictures: 2 x 2 of 35 pixels."""
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=35,
        patch_size=16,
    )
    model = SiglipVisionModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # SigLIP's own initial weights hardly tell pictures apart
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model


def tiny_llava(
    directory: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    parts: dict[str, object] | None = None,
    tower: str = "clip",
    **changes: object,
) -> Llava:
    """A whole model of about 100,000 parameters. `parts` go to Parts, `changes` to the language model."""
    vision = vision_folder(directory / "vision", tower)
    language = language_folder(directory / "language", tokenizer, **changes)
    return build(Parts(vision, language, **(parts or {})))  # type: ignore[arg-type]


def picture(seed: int, width: int = 40, height: int = 28) -> Image.Image:
    """A picture of noise that is not square."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def caption_rows(directory: Path, captions: Sequence[str]) -> list[Conversation]:
    """One row per caption, each about a picture of its own on disk."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, caption in enumerate(captions):
        path = directory / f"{i}.png"
        picture(i).save(path)
        turns = (Turn("user", "<image>\nDescribe the image."), Turn("assistant", caption))
        rows.append(Conversation(f"row{i}", (str(path),), turns))
    return rows
