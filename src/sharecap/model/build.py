"""A LLaVA from a vision tower and a language model: the parts' weights, a new projector, its processor.

Implements the paper's architecture (section 4.1): features of the layer before last, no class token, a
two-layer MLP. Uses transformers' classes unmodified; it must never write to the parts' folders.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.utils import logging

from sharecap.chat.templates import jinja, template_named
from sharecap.errors import SharecapError, UsageError
from sharecap.records import IMAGE_TOKEN

PAD_TOKEN = "<pad>"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Parts:
    """What a LLaVA is made of. Names are Hugging Face names or directories."""

    vision: str | Path  # a CLIP model or its vision half
    language: str | Path  # a causal language model with its tokenizer
    projector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    feature_layer: int = -2  # index into the tower's hidden states; -2: before the last block
    projector_std: float | None = None  # of its initial weights; None: 0.02, below width 1024 2/sqrt(width)
    template: str = "vicuna_v1"  # the format that the model will be talked to in
    dtype: Literal["float32", "bfloat16"] = "float32"  # of all weights
    seed: int = 0  # of the projector's initial weights


@dataclass
class Llava:
    """A model with all that is needed to talk to it."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
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
    def image_tokens(self) -> int:
        """Places that one image takes in the language model."""
        return int(self.config.image_seq_length)


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
        image_seq_length=(vision.config.image_size // vision.config.patch_size) ** 2,
        projector_hidden_act="gelu" if parts.projector == "mlp2x_gelu" else "linear",
        vision_feature_select_strategy="default",
        vision_feature_layer=parts.feature_layer,
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
        pad_token_id=pad_id,
        dtype=DTYPES[parts.dtype],
        **special,
    )
    if not 1 <= used_blocks(config) <= config.vision_config.num_hidden_layers:
        what = f"{config.vision_config.num_hidden_layers} blocks have no feature layer {parts.feature_layer}"
        raise UsageError(what, where=parts.vision)
    with torch.device("meta"):  # allocates nothing: every part is put in below
        model: Any = LlavaForConditionalGeneration(config)
    model.model.vision_tower = vision
    model.model.language_model = language.base_model
    model.lm_head = language.get_output_embeddings()
    model.model.multi_modal_projector = new_projector(config, parts)
    config.text_config, config.vision_config = language.config, vision.config
    model.tie_weights()
    generation: Any = GenerationConfig
    model.generation_config = generation(pad_token_id=pad_id, **special)
    return Llava(model.eval(), new_processor(config, tokenizer, parts.template), parts.template)


def used_blocks(config: Any) -> int:
    """How many of the tower's blocks come before the features: hidden state i is block i - 1's output."""
    layer, blocks = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise UsageError(f"features of several layers ({layer}) are not supported", todo="use one layer")
    return int(layer if layer >= 0 else blocks + 1 + layer)


def vision_part(parts: Parts) -> Any:
    """The tower, from a folder that holds the vision half or all of a CLIP."""
    kind = read_config(parts.vision).model_type
    if kind not in ("clip", "clip_vision_model"):
        raise UsageError(f"not a CLIP but {kind!r}", where=parts.vision, todo="give a CLIP vision tower")
    return whole(CLIPVisionModel, parts.vision, parts)


def language_part(parts: Parts) -> tuple[Any, PreTrainedTokenizerBase]:
    """The language model and its tokenizer."""
    read_config(parts.language)
    model = whole(AutoModelForCausalLM, parts.language, parts)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(parts.language))
    except (OSError, ValueError) as error:
        raise SharecapError(f"no tokenizer ({first_line(error)})", where=parts.language) from None
    return model, tokenizer


def whole(kind: Any, name: str | Path, parts: Parts) -> Any:
    """All of a part's weights; `SharecapError` if any is missing (transformers would invent it)."""
    try:
        with quiet():
            model, report = kind.from_pretrained(
                str(name), dtype=DTYPES[parts.dtype], output_loading_info=True
            )
    except (OSError, ValueError) as error:
        raise SharecapError(f"cannot load ({first_line(error)})", where=name) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise SharecapError(f"{len(missing)} weights are missing, first {missing[0]}", where=name)
    return model


def read_config(name: str | Path) -> Any:
    """A part's configuration; `SharecapError` in one line if there is none."""
    try:
        return AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError):
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


def new_projector(config: Any, parts: Parts) -> LlavaMultiModalProjector:
    """A projector with fresh weights.

    `linear` is LLaVA's single matrix in the same class: no activation, and a second matrix that is and stays
    the identity (model/trainable.py never trains it), so that plain transformers loads it too.
    """
    projector = LlavaMultiModalProjector(config).to(DTYPES[parts.dtype])
    generator = torch.Generator().manual_seed(parts.seed)
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            std = parts.projector_std
            if std is None:  # 0.02 is made for widths of thousands and stalls narrow models
                std = 0.02 if linear.in_features >= 1024 else 2 * linear.in_features**-0.5
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * std)
            linear.bias.zero_()
        if parts.projector == "linear":
            projector.linear_2.weight.copy_(torch.eye(projector.linear_2.in_features))
    return projector


def new_processor(config: Any, tokenizer: PreTrainedTokenizerBase, template: str) -> LlavaProcessor:
    """The processor that plain transformers needs.

    Pictures are padded to a square in the mean colour, then resized: nothing of them is cut off. (The authors
    cut in pre-training and pad afterwards.)
    """
    size = config.vision_config.image_size
    images = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # CLIP's class token, which the "default" strategy drops again
        chat_template=jinja(template_named(template)),
    )
