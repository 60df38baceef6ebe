"""A LLaVA from a vision tower and a language model: the parts' weights, a new projector, its processor.

Implements the paper's architecture (section 4.1): features of the layer before last, no class token, a
two-layer MLP; other towers, language models and projectors of that kind go the same way. Uses transformers'
classes unmodified; it must never write to the parts' folders.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPVisionModel,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    Qwen3VLForConditionalGeneration,
    SiglipVisionModel,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging

from sharecap.chat.templates import jinja, template_named
from sharecap.errors import SharecapError, UsageError
from sharecap.model import qwen
from sharecap.model.pixels import Patches
from sharecap.model.projector import Kind, fill, new_projector
from sharecap.records import IMAGE_TOKEN

PAD_TOKEN = "<pad>"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

TOWERS: dict[str, Any] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,  # SigLIP 2's towers of one size are SigLIPs too
    "siglip_vision_model": SiglipVisionModel,
}
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Places that a tower's features have before those of the patches."""

COLOURS = ("image_mean", "image_std", "resample")
"""What an image processor and its tower must agree on, beside the size."""

Select = Literal["default", "full"]
"""transformers' names: "default" leaves the first place of the features out, "full" takes all."""


@dataclass(frozen=True)
class Parts:
    """What a LLaVA is made of. Names are Hugging Face names or directories."""

    vision: str | Path  # a CLIP or SigLIP or its vision half; pictures get the size that it was made for
    language: str | Path  # a causal language model with its tokenizer
    projector: Kind = "mlp2x_gelu"
    projector_file: Path | None = None  # LLaVA's mm_projector.bin to start from; None: fresh weights
    feature_layer: int = -2  # index into the tower's hidden states; -2: before the last block
    select: Select | None = None  # None: the patches' features alone, whatever the tower
    projector_std: float | None = None  # of its initial weights; None: 0.02, below width 1024 2/sqrt(width)
    template: str = "vicuna_v1"  # the format that the model will be talked to in
    dtype: Literal["float32", "bfloat16"] = "float32"  # of all weights
    seed: int = 0  # of the projector's initial weights

    def __post_init__(self) -> None:
        if self.projector_std is not None and not 0 < self.projector_std < math.inf:
            raise UsageError("projector_std must be a number above 0")


@dataclass
class Llava:
    """A model with all that is needed to talk to it: a LLaVA, or one of Qwen's (model/qwen.py)."""

    model: LlavaForConditionalGeneration | Qwen3VLForConditionalGeneration
    processor: LlavaProcessor | qwen.PictureProcessor
    template: str

    @property
    def config(self) -> Any:
        """The model's configuration with its `vision_config` and `text_config`."""
        return self.model.config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer, which knows `<image>`."""
        found = self.processor.tokenizer
        assert isinstance(found, PreTrainedTokenizerBase)
        return found

    @property
    def image_tokens(self) -> int | qwen.Places:
        """Places that one image takes in the language model; a function of it where they follow its size."""
        if self.config.model_type == qwen.KIND:
            return qwen.Places(self.processor.image_processor)
        return image_tokens(self.config)


def build(parts: Parts) -> Llava:
    """Assemble the model. `SharecapError` if a part can't be read, `UsageError` if it doesn't fit.

    Tokens that the tokenizer lacks get the mean of the other embeddings; that of `<image>` is never used.
    """
    vision, (language, tokenizer) = vision_part(parts), language_part(parts)
    image_id, pad_id = add_tokens(language, tokenizer)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config: Any = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=image_id,
        projector_hidden_act="gelu" if parts.projector == "mlp2x_gelu" else "linear",
        vision_feature_select_strategy=parts.select or patches_only(vision.config),
        vision_feature_layer=parts.feature_layer,
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
        pad_token_id=pad_id,
        dtype=DTYPES[parts.dtype],
        **special,
    )
    config.image_seq_length = image_tokens(config)
    check_vision(config, parts.vision)
    check_language(config.text_config, parts.language)
    model = without_weights(config, parts.language)  # every part is put in below
    model.model.vision_tower = vision
    model.model.language_model = language.base_model
    model.lm_head = language.get_output_embeddings()
    new = new_projector(config, parts.projector, parts.projector_std, parts.seed)
    if parts.projector_file is not None:
        fill(new, parts.projector, parts.projector_file)
    model.model.multi_modal_projector = new.to(DTYPES[parts.dtype])
    config.text_config, config.vision_config = language.config, vision.config
    model.tie_weights()
    generation: Any = GenerationConfig
    model.generation_config = generation(pad_token_id=pad_id, **special)
    return Llava(model.eval(), new_processor(config, tokenizer, parts), parts.template)


def patches_only(vision: Any) -> Select:
    """What leaves the tower's class token out, if it has one."""
    return "default" if CLASS_TOKENS.get(vision.model_type) else "full"


def without_weights(config: Any, language: object) -> Any:
    """The model with shapes alone; `UsageError` for a language model that transformers' LLaVA can't hold."""
    try:
        with torch.device("meta"):
            return LlavaForConditionalGeneration(config)
    except (AttributeError, ValueError, TypeError) as error:
        what = f"no LLaVA can be made of a {config.text_config.model_type!r} ({first_line(error)})"
        todo = "use a Llama, Mistral, Qwen or another common kind"
        raise UsageError(what, where=language, todo=todo) from None


def used_blocks(config: Any) -> int:
    """How many of the tower's blocks come before the features: hidden state i is block i - 1's output."""
    if config.model_type != "llava":
        return int(config.vision_config.num_hidden_layers)
    layer, blocks = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise UsageError(f"features of several layers ({layer}) are not supported", todo="use one layer")
    return int(layer if layer >= 0 else blocks + 1 + layer)


def image_tokens(config: Any) -> int:
    """Places that one image takes: its patches, and the class token where it is kept."""
    return patches_of(config) + class_tokens(config) - int(config.vision_feature_select_strategy == "default")


def patches_of(config: Any) -> int:
    """Patches of a picture, in a tower of one size."""
    return int(config.vision_config.image_size // config.vision_config.patch_size) ** 2


def class_tokens(config: Any) -> int:
    """Places that a tower of one size has beside its patches."""
    return CLASS_TOKENS.get(config.vision_config.model_type, 0)


def places_taken(config: Any, pictures: Tensor | Patches) -> list[int]:
    """Places that each of the pictures takes in the language model."""
    if isinstance(pictures, Patches):
        return [int(n) for n in pictures.grid.prod(-1) // config.vision_config.spatial_merge_size**2]
    return [image_tokens(config)] * len(pictures)


def grey_picture(config: Any) -> tuple[Tensor | Patches, int]:
    """A grey picture as the model's tower takes it, and the places that it has."""
    if config.model_type == qwen.KIND:
        return qwen.grey(config), 1
    size = config.vision_config.image_size
    return torch.zeros(1, 3, size, size), image_tokens(config)


def check_vision(config: Any, where: object) -> None:
    """`UsageError` if the features that the configuration asks for are not those of a supported tower."""
    vision = config.vision_config
    if vision.model_type not in CLASS_TOKENS:
        todo = "use a CLIP or SigLIP vision tower of fixed size"
        raise UsageError(f"a vision tower of kind {vision.model_type!r}", where=where, todo=todo)
    if not 1 <= used_blocks(config) <= vision.num_hidden_layers:
        what = f"{vision.num_hidden_layers} blocks have no feature layer {config.vision_feature_layer}"
        raise UsageError(what, where=where)
    if config.vision_feature_select_strategy == "default" and not CLASS_TOKENS[vision.model_type]:
        what = 'a tower without class token: select="default" would drop a patch'
        raise UsageError(what, where=where, todo='use select="full"')


def check_language(config: Any, where: object) -> None:
    """`UsageError` for attention that packing doesn't do (model/forward.py), before a step is computed."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if kinds or window is not None:
        what = f"the language model attends to a part of the text ({', '.join(kinds) or f'window {window}'})"
        todo = 'use one with full attention; if rows are shorter than its window, set "sliding_window": null'
        raise UsageError(what, where=where, todo=f"{todo} in its config.json")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UsageError("the language model caps its attention, which is not supported", where=where)


def vision_part(parts: Parts) -> Any:
    """The tower, from a folder that holds the vision half or all of a CLIP or SigLIP."""
    kind = read_config(parts.vision).model_type
    if kind not in TOWERS:
        todo = "give a CLIP or SigLIP vision tower of fixed size"
        raise UsageError(f"not a CLIP or SigLIP but {kind!r}", where=parts.vision, todo=todo)
    # A SigLIP's pooling head comes after the features: never asked, so not loaded.
    extra = {"vision_use_head": False} if TOWERS[kind] is SiglipVisionModel else {}
    return whole(TOWERS[kind], parts.vision, parts, **extra)


def language_part(parts: Parts) -> tuple[Any, PreTrainedTokenizerBase]:
    """The language model and its tokenizer."""
    read_config(parts.language)
    model = whole(AutoModelForCausalLM, parts.language, parts)
    if not model._supports_attention_backend:  # then model/forward.py could not tell packed rows apart
        what = f"{type(model).__name__} computes attention in its own way, which can't be packed"
        raise UsageError(what, where=parts.language, todo="use a Llama, Mistral, Qwen or another common kind")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(parts.language))
    except Exception as error:  # noqa: BLE001 - whatever its absence makes the loaders raise
        raise SharecapError(f"no tokenizer ({first_line(error)})", where=parts.language) from None
    return model, tokenizer


def whole(kind: Any, name: str | Path, parts: Parts, **config: Any) -> Any:
    """All of a part's weights; `SharecapError` if any is missing (transformers would invent it).

    Weights in pickles, as Vicuna's, are read as tensors alone: transformers runs no code that lies in them.
    """
    try:
        with quiet():
            model, report = kind.from_pretrained(
                str(name),
                dtype=DTYPES[parts.dtype],
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **config,
            )
    except UnpicklingError:
        what = "cannot load: its weights are not tensors alone, and code in them is never run"
        raise SharecapError(what, where=name, todo="get it as safetensors") from None
    except Exception as error:  # noqa: BLE001 - whatever a damaged folder makes the loaders raise
        raise SharecapError(f"cannot load ({first_line(error)})", where=name) from None
    sizes = sorted(name for name, *_ in report["mismatched_keys"])
    if sizes:
        what = f"{len(sizes)} weights have not the size that config.json says, first {sizes[0]}"
        raise SharecapError(what, where=name)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise SharecapError(f"{len(missing)} weights are missing, first {missing[0]}", where=name)
    return model


def read_config(name: str | Path) -> Any:
    """A part's configuration; `SharecapError` in one line if there is none."""
    try:
        return AutoConfig.from_pretrained(str(name))
    except Exception:  # noqa: BLE001 - nothing there, or values that its class doesn't take
        todo = "give a Hugging Face name or a directory with config.json and weights"
        raise SharecapError("not a model", where=name, todo=todo) from None


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a one-line message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and weight reports of transformers: what matters in them is checked and raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def add_tokens(model: Any, tokenizer: Any) -> tuple[int, int]:
    """Make sure that `<image>` and a padding token exist, in tokenizer and embeddings; returns their ids."""
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]})
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only the latter is saved
    known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
                table[known:] = table[:known].mean(dim=0)
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)), int(tokenizer.pad_token_id)


def new_processor(config: Any, tokenizer: PreTrainedTokenizerBase, parts: Parts) -> LlavaProcessor:
    """The processor that plain transformers needs.

    Pictures are padded to a square in the mean colour, then resized: nothing of them is cut off. (The authors
    cut in pre-training and pad afterwards.)
    """
    images = image_processor(config, colours(parts.vision))
    return processor_of(config, images, tokenizer, jinja(template_named(parts.template)))


def processor_of(
    config: Any, images: BaseImageProcessor, tokenizer: Any, chat_template: Any
) -> LlavaProcessor:
    """A processor whose `<image>` takes as many places as the tower gives features."""
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=CLASS_TOKENS[config.vision_config.model_type],
        chat_template=chat_template,
    )


def image_processor(config: Any, colours: dict[str, Any]) -> LlavaImageProcessorPil:
    """Pads pictures to a square and resizes them to the tower's size."""
    size = config.vision_config.image_size
    return LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **colours
    )


def colours(name: str | Path) -> dict[str, Any]:
    """Mean, spread and resampling that a tower's pictures are made with, as its folder says.

    A folder without image processor is taken for what its kind usually is.
    """
    try:
        found, _ = BaseImageProcessor.get_image_processor_dict(str(name))
    except OSError:
        if (file := Path(name) / "preprocessor_config.json").exists():
            raise SharecapError("damaged image processor", where=file) from None
        siglip = TOWERS[read_config(name).model_type] is SiglipVisionModel
        return {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if siglip else {}
    told = {key: found[key] for key in COLOURS if found.get(key) is not None}
    for key in ("image_mean", "image_std"):
        if not is_colour(told.get(key, (1, 1, 1)), least=0 if key == "image_mean" else 1e-6):
            raise SharecapError(f"an image processor with {key} {told[key]!r}", where=name)
    return told


def is_colour(values: Any, least: float) -> bool:
    """Whether these are numbers for red, green and blue."""
    three = isinstance(values, list | tuple) and len(values) == 3
    return three and all(isinstance(x, int | float) and least <= x < math.inf for x in values)
