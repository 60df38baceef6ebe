"""A saved model: one complete Hugging Face folder that plain transformers loads with bit-equal logits.

Vision tower, processor, tokenizer and chat template are always in it, under the classic llava-hf names
however the model was born. It must never need this package to be read; a note says which template it speaks.
"""

import copy
import json
import os
import re
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from sharecap.artifact import write_atomically
from sharecap.chat.own import OWN
from sharecap.chat.templates import TEMPLATES, jinja, template_named
from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError
from sharecap.model.build import Llava, first_line, quiet

NOTE = "sharecap.json"
"""Names the template that the model was trained with; a folder without it is taken for a LLaVA-1.5."""

CLASSIC = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)


def classic_name(name: str) -> str:
    """A parameter's name in llava-hf's files, which vLLM and older transformers read too."""
    for ours, theirs in CLASSIC:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise AssertionError(f"unknown parameter {name}")


def save(llava: Llava, directory: Path) -> None:
    """Write the whole folder, which may exist. Weights keep their precision; equal models, equal bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {classic_name(name): tensor.detach() for name, tensor in llava.model.state_dict().items()}
    try:
        save_torch_state_dict(state, directory, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, among others, by its number
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error
    config = copy.deepcopy(llava.config)
    config.architectures = [LlavaForConditionalGeneration.__name__]
    for part in (config, config.text_config, config.vision_config):
        part._name_or_path = ""  # where it was loaded from is nobody's business
    config.save_pretrained(directory)
    generation = copy.deepcopy(llava.model.generation_config)
    template = template_named(llava.template, llava.processor)
    stop = Cutter(llava.tokenizer, template, llava.image_tokens).stop
    ends = [i for i in (config.eos_token_id, stop) if i is not None]
    generation.eos_token_id = list(dict.fromkeys(ends))  # plain `generate` stops where we do
    generation.save_pretrained(directory)
    llava.processor.chat_template = jinja(template)
    llava.processor.save_pretrained(directory)
    write_atomically(directory / NOTE, json.dumps({"template": llava.template}))


def load(directory: Path) -> Llava:
    """The model in `directory`, ours or any llava-hf folder; `SharecapError` in one line if it isn't one."""
    todo = "give a directory that training saved, or a llava-hf model's"
    if not directory.is_dir():
        raise SharecapError("no such model directory", where=directory, todo=todo)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError):
        raise SharecapError("not a model (no readable config.json)", where=directory, todo=todo) from None
    if kind != "llava":
        raise SharecapError(f"not a LLaVA but {kind!r}", where=directory, todo=todo)
    template = template_of(directory)
    try:
        with quiet():
            model, report = LlavaForConditionalGeneration.from_pretrained(  # type: ignore[misc]
                str(directory), output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(str(directory))  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - whatever a damaged folder makes the loaders raise
        raise SharecapError(f"damaged model ({first_line(error)})", where=directory, todo=todo) from None
    off = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])  # type: ignore[has-type]
    if off:
        raise SharecapError(
            f"damaged model ({len(off)} tensors missing or unknown, first {off[0]})", where=directory
        )
    if not isinstance(processor, LlavaProcessor):
        raise SharecapError("damaged model (its processor is no LLaVA's)", where=directory, todo=todo)
    return Llava(model.eval(), processor, template)  # type: ignore[has-type]


def template_of(directory: Path) -> str:
    """The template that the folder was trained with."""
    try:
        name = json.loads((directory / NOTE).read_text(encoding="utf-8"))["template"]
    except FileNotFoundError:
        return "vicuna_v1"
    except (OSError, ValueError, KeyError, TypeError):
        raise SharecapError("damaged note", where=directory / NOTE, todo="save the model again") from None
    if name not in (*TEMPLATES, OWN):
        raise SharecapError(f"unknown template {name!r}", where=directory / NOTE, todo="update sharecap")
    return str(name)
