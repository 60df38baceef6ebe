"""A trained model in the layout of LLaVA's own repository, for code that was written against it.

One checkpoint for its `LlavaLlamaForCausalLM`, the tuned vision tower inside and beside it. That code passes
over the tower in a checkpoint unless the configuration says that it was tuned; this one must always say so.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from sharecap.artifact import write_atomically
from sharecap.errors import UsageError
from sharecap.model.build import Llava, read_config
from sharecap.model.folder import classic_name, write_weights
from sharecap.model.lora import merged
from sharecap.model.projector import NAMES, Kind

TOWER = "vision_tower"
TOKENIZER = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PREFIXES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower.vision_tower."),
)
FIELDS = (
    *("hidden_act", "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings"),
    *("num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps"),
    *("bos_token_id", "eos_token_id", "attention_bias", "tie_word_embeddings"),
)


def save_original(llava: Llava, directory: Path, language: Path) -> None:
    """Write the folder. `language` is the language model that it was built from, for its tokenizer's files.

    The places of `<image>` and padding that building added are left out: LLaVA's code has no tokens for them.
    The configuration names the tower by this folder's path; change `mm_vision_tower` when it is moved.
    `UsageError` for a model that LLaVA's code has no class for, or if there is something in the directory.
    """
    rows = check(llava, language)
    if directory.exists() and any(directory.iterdir()):
        raise UsageError("directory is not empty", where=directory, todo="choose an empty or new one")
    directory.mkdir(parents=True, exist_ok=True)
    weights = {classic_name(name): tensor for name, tensor in merged(llava.model).items()}
    kind = kind_of(llava)
    renamed = {new: tensor for name, tensor in weights.items() if (new := original_name(name, kind))}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in renamed:
            renamed[name] = renamed[name][:rows].clone()
    write_weights(renamed, directory)
    config = original_config(llava, rows, kind, str((directory / TOWER).resolve()))
    write_atomically(directory / "config.json", json.dumps(config, indent=2))
    for name in TOKENIZER:
        if (language / name).exists():
            shutil.copyfile(language / name, directory / name)
    save_tower(llava, weights, directory / TOWER)


def check(llava: Llava, language: Path) -> int:
    """Rows of the vocabulary that LLaVA's code has; `UsageError` if it could not load the model."""
    kinds = (llava.config.vision_config.model_type, llava.config.text_config.model_type)
    if kinds != ("clip_vision_model", "llama"):
        what = f"LLaVA's own layout is for a CLIP and a Llama, not for {kinds[0]} and {kinds[1]}"
        raise UsageError(what, todo="use the ordinary folder, which every tool of today loads")
    if not (language / "tokenizer.model").is_file():
        todo = "give the directory of the language model (Vicuna) as it was downloaded"
        raise UsageError("no tokenizer.model, which LLaVA's code needs", where=language, todo=todo)
    rows = int(read_config(language).vocab_size)
    ours = len(llava.model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if rows > ours:
        what = f"a language model with {rows} tokens where the trained one has {ours}"
        raise UsageError(what, where=language, todo="give the one that it was built from")
    return rows


def kind_of(llava: Llava) -> Kind:
    return "linear" if llava.config.projector_hidden_act == "linear" else "mlp2x_gelu"


def original_name(name: str, kind: Kind) -> str:
    """A classic name as LLaVA's code has it; "" for the identity that only our class needs."""
    for ours, theirs in PREFIXES:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    last = name.removeprefix("multi_modal_projector.")
    return next((f"model.mm_projector.{theirs}" for theirs, ours in NAMES[kind].items() if ours == last), "")


def original_config(llava: Llava, rows: int, kind: Kind, tower: str) -> dict[str, Any]:
    """config.json for LLaVA's code, which runs on transformers 4.37."""
    config, text = llava.config, llava.config.text_config
    rope = dict(text.rope_parameters)
    scaled = rope["rope_type"] != "default"
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        **{field: getattr(text, field) for field in FIELDS},
        "vocab_size": rows,
        "pad_token_id": 0,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": rope["rope_type"], "factor": rope["factor"]} if scaled else None,
        "torch_dtype": str(llava.model.dtype).removeprefix("torch."),
        "use_cache": True,
        "image_aspect_ratio": "pad",
        "mm_vision_tower": tower,
        "unfreeze_mm_vision_tower": True,  # else the weights in the checkpoint are passed over
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_projector_type": kind,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch"
        if config.vision_feature_select_strategy == "default"
        else "cls_patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
    }


def save_tower(llava: Llava, weights: dict[str, Tensor], directory: Path) -> None:
    """The vision tower as a CLIP folder of its own, with its image processor."""
    directory.mkdir(exist_ok=True)
    prefix = "vision_tower."
    write_weights(
        {n.removeprefix(prefix): tensor.clone() for n, tensor in weights.items() if n.startswith(prefix)},
        directory,
    )
    vision = llava.config.vision_config.to_dict() | {
        "architectures": ["CLIPVisionModel"],
        "_name_or_path": "",
    }
    write_atomically(directory / "config.json", json.dumps(vision, indent=2, default=str))
    images, size = llava.processor.image_processor, llava.config.vision_config.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": size, "width": size},
        "size": {"shortest_edge": size},
        **dict.fromkeys(
            ("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True
        ),
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "resample": int(images.resample),
        "rescale_factor": 1 / 255,
    }
    write_atomically(directory / "preprocessor_config.json", json.dumps(processor, indent=2))
