"""A saved model: one complete Hugging Face folder that plain transformers loads with bit-equal logits.

Vision tower, processor, tokenizer and chat template are always in it, adapters are added up, and the names
are llava-hf's classic ones however the model was born. It must never need this package to be read; a note
says which template it speaks.
"""

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3VLForConditionalGeneration,
)

from sharecap.artifact import write_atomically
from sharecap.chat.own import OWN
from sharecap.chat.templates import TEMPLATES, jinja, template_named
from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError
from sharecap.model import qwen
from sharecap.model.build import (
    COLOURS,
    Llava,
    check_language,
    check_vision,
    first_line,
    image_processor,
    image_tokens,
    processor_of,
    quiet,
)
from sharecap.model.lora import merged

NOTE = "sharecap.json"
"""Names the template that the model was trained with; a folder without it is taken for a LLaVA-1.5.

A captioner's may also say how sure it must be of a name to give it: see `names_at_least`.
"""

NAMES = "names_at_least"

CLASSES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    qwen.KIND: Qwen3VLForConditionalGeneration,
}
PROCESSORS: dict[str, Callable[[Path], Any]] = {
    "llava": lambda directory: AutoProcessor.from_pretrained(str(directory)),  # type: ignore[no-untyped-call]
    qwen.KIND: qwen.PictureProcessor.read,
}

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
    ours = isinstance(llava.processor, LlavaProcessor)
    names = classic_name if ours else str  # Qwen's own names are the same in memory and on disk
    write_weights({names(name): tensor for name, tensor in merged(llava.model).items()}, directory)
    config = copy.deepcopy(llava.config)
    config.architectures = [type(llava.model).__name__]
    for part in (config, config.text_config, config.vision_config):
        part._name_or_path = ""  # where it was loaded from is nobody's business
    config.save_pretrained(directory)
    generation: Any = copy.deepcopy(llava.model.generation_config)
    template = template_named(llava.template, llava.processor)
    ends = [*listed(config.eos_token_id if ours else generation.eos_token_id)]
    stop = Cutter(llava.tokenizer, template, llava.image_tokens).stop
    ends += [] if stop is None else [stop]
    generation.eos_token_id = list(dict.fromkeys(ends))  # plain `generate` stops where we do
    generation.save_pretrained(directory)
    if isinstance(llava.processor, qwen.PictureProcessor):
        llava.processor.save(directory)
    else:
        llava.processor.chat_template = jinja(template)
        llava.processor.save_pretrained(directory)
    write_atomically(directory / NOTE, json.dumps({"template": llava.template}))


def listed(tokens: int | list[int] | None) -> list[int]:
    """A configuration's token ids, of which there may be none, one or several."""
    return [] if tokens is None else [tokens] if isinstance(tokens, int) else list(tokens)


def write_weights(state: dict[str, Tensor], directory: Path) -> None:
    """Safetensors, in several files with an index if they are large. `OSError` for a full disk."""
    try:
        save_torch_state_dict(state, directory, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk, among others, by its number
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error


def load(directory: Path) -> Llava:
    """The model in `directory`, ours or any llava-hf folder; `SharecapError` in one line if it isn't one."""
    todo = "give a directory that training saved, or a llava-hf model's"
    if not directory.is_dir():
        raise SharecapError("no such model directory", where=directory, todo=todo)
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise SharecapError("not a model (no readable config.json)", where=directory, todo=todo) from None
    if not isinstance(kind, str) or kind not in CLASSES:
        raise SharecapError(f"not a LLaVA or Qwen3-VL but {kind!r}", where=directory, todo=todo)
    template = template_of(directory, OWN if kind == qwen.KIND else "vicuna_v1")
    try:
        with quiet():
            model, report = CLASSES[kind].from_pretrained(
                str(directory), output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
            )
            processor = PROCESSORS[kind](directory)
    except Exception as error:  # noqa: BLE001 - whatever a damaged folder makes the loaders raise
        raise SharecapError(f"damaged model ({first_line(error)})", where=directory, todo=todo) from None
    sizes = {name for name, *_ in report["mismatched_keys"]}
    off = sorted(report["missing_keys"] | report["unexpected_keys"] | sizes)
    if off:
        raise SharecapError(
            f"damaged model ({len(off)} tensors missing, unknown or of another size, first {off[0]})",
            where=directory,
        )
    check_language(model.config.text_config, directory)
    if kind == "llava":
        if not isinstance(processor, LlavaProcessor):
            raise SharecapError("damaged model (its processor is no LLaVA's)", where=directory, todo=todo)
        check_vision(model.config, directory)
        model.config.image_seq_length = image_tokens(model.config)
        processor = mended(processor, model.config)
    llava = Llava(model.eval(), processor, template)
    check_tokens(llava, directory)
    return llava


def check_tokens(llava: Llava, where: object) -> None:
    """`SharecapError` for a tokenizer with tokens that the model has no vectors for, before one is asked."""
    embeddings: Any = llava.model.get_input_embeddings()
    rows = len(embeddings.weight)
    beyond = {i: token for token, i in llava.tokenizer.get_vocab().items() if i >= rows}
    if beyond:
        what = f"{len(beyond)} of its tokenizer's tokens have no vectors, first {beyond[min(beyond)]!r}"
        todo = "use the tokenizer that belongs to the weights"
        raise SharecapError(f"damaged model ({what})", where=where, todo=todo)


def mended(processor: LlavaProcessor, config: Any) -> LlavaProcessor:
    """The processor with what llava-hf's older folders leave out.

    They say nothing of the tower, so that `<image>` would take the wrong number of places; and they cut
    pictures, on which LLaVA-1.5 was never tuned: it pads them.
    """
    images = processor.image_processor
    if images.do_center_crop and not getattr(images, "do_pad", None):
        images = image_processor(config, {key: getattr(images, key) for key in COLOURS})
    return processor_of(config, images, processor.tokenizer, processor.chat_template)


def template_of(directory: Path, default: str) -> str:
    """The template that the folder was trained with; `default` if it does not say."""
    note = note_of(directory)
    if note is None:
        return default
    name = note.get("template")
    if not isinstance(name, str):
        raise SharecapError("damaged note", where=directory / NOTE, todo="save the model again")
    if name not in (*TEMPLATES, OWN):
        raise SharecapError(f"unknown template {name!r}", where=directory / NOTE, todo="update sharecap")
    return name


def names_at_least(directory: Path) -> float | None:
    """How probable a name must be for this captioner to give it (captions/names.py); None: it gives all."""
    least = (note_of(directory) or {}).get(NAMES)
    if least is not None and not (isinstance(least, int | float) and least >= 0):
        raise SharecapError(f"{NAMES} is no number from 0", where=directory / NOTE, todo="save it again")
    return least


def abstain(directory: Path, least: float) -> None:
    """From now on the captioner in `directory` leaves out names less probable than this."""
    write_atomically(directory / NOTE, json.dumps({**(note_of(directory) or {}), NAMES: least}))


def note_of(directory: Path) -> dict[str, Any] | None:
    """What the folder's note says; None without one, `SharecapError` if it can't be read."""
    try:
        note = json.loads((directory / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        note = None
    if not isinstance(note, dict):
        raise SharecapError("damaged note", where=directory / NOTE, todo="save the model again")
    return note
