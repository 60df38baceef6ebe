"""Real Hugging Face folders of tiny models, made from a config: what the tests of model and training start from."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    logging,
)

from sharecap.chat.templates import VICUNA_V1
from sharecap.model.build import Llava, Parts, build

logging.disable_progress_bar()

WORDS = [
    VICUNA_V1.system + "USER: Describe the image. ASSISTANT: There is a red circle, and a blue square!\n",
    "On the left a large green triangle; above it, 3 small stars. The background is white: nothing else.\n",
    "Is there a circle? How many squares are there? Yes, No. What colour is the triangle?\n",
]


def byte_tokenizer(
    texts: Iterable[str] = WORDS, vocabulary: int = 600, bos: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, every text comes back; tokens <unk>, <s>, </s>, <pad> first."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if bos:
        from tokenizers import processors

        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def language_folder(
    directory: Path,
    tokenizer: PreTrainedTokenizerFast | None = None,
    width: int = 32,
    blocks: int = 2,
    heads: int = 2,
    kv_heads: int | None = None,
    std: float = 0.1,
    seed: int = 0,
    tied: bool = False,
) -> Path:
    tokenizer = tokenizer or byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=2048,
        initializer_range=std,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def vision_folder(
    directory: Path, width: int = 32, blocks: int = 4, size: int = 32, patch: int = 16, std: float = 0.1
) -> Path:
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        image_size=size,
        patch_size=patch,
        initializer_range=std,
        initializer_factor=1.0,
    )
    CLIPVisionModel(config).save_pretrained(directory)
    return directory


def tiny_llava(directory: Path, **parts: object) -> Llava:
    """A model of about 100 K parameters; 4 image tokens."""
    vision = vision_folder(directory / "vision")
    language = language_folder(directory / "language")
    return build(Parts(vision, language, **parts))  # type: ignore[arg-type]
