"""A real folder of a tiny Qwen3-VL, and rows with pictures of many sizes."""

from pathlib import Path

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from sharecap.records import Conversation, Turn
from tests.model.tiny import byte_level, picture

MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
SIZES = ((40, 28), (32, 32), (16, 90), (64, 48), (33, 20))  # width, height


def qwen_folder(directory: Path) -> Path:
    """A Qwen3-VL of 3 vision and 3 language blocks, width 32; a place is 16 x 16 pixels.

    What DeepStack adds after a last language block would reach no answer, so there is one more.
    """
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"extra_special_tokens": MARKS})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in MARKS}
    torch.manual_seed(0)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": 0.15,
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    Qwen2VLImageProcessorPil(
        patch_size=8, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    ).save_pretrained(directory)
    (directory / "video_preprocessor_config.json").write_text(
        '{"video_processor_type": "Qwen3VLVideoProcessor"}'
    )
    return directory


def sized_rows(directory: Path) -> list[Conversation]:
    """A picture of its own size for each, and one row of words alone."""
    directory.mkdir(parents=True, exist_ok=True)
    made = []
    for i, size in enumerate(SIZES):
        path = directory / f"{i}.png"
        picture(i, *size).save(path)
        turns = (Turn("user", "<image>\nIs there a circle?"), Turn("assistant", f"There are {i}."))
        made.append(Conversation(f"row{i}", (str(path),), turns))
    return [*made, Conversation("words", (), (Turn("user", "How many?"), Turn("assistant", "Yes, 3.")))]
