"""A saved folder is a whole model to plain transformers, and nothing else passes for one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    pipeline,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from sharecap.artifact import files_digest
from sharecap.chat.templates import PLAIN, VICUNA_V1, Template, question
from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError
from sharecap.model.build import Llava
from sharecap.model.folder import load, save
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.model.pixels import Pixels
from sharecap.records import Conversation, Turn
from tests.model.tiny import byte_level, picture, sentencepiece, tiny_llava


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return tiny_llava(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def saved(llava: Llava, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    save(llava, directory)
    return directory


def logits(model: LlavaForConditionalGeneration, processor: object) -> torch.Tensor:
    text = ["USER: <image>\nIs there a circle? ASSISTANT:", "USER: <image>\nHow many? ASSISTANT:"]
    inputs = processor(images=[picture(0), picture(1)], text=text, padding=True, return_tensors="pt")  # type: ignore[operator]
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(
    ("tower", "language"),
    [
        ("clip", {}),
        ("clip", {"tie_word_embeddings": True}),
        ("siglip", {"model_type": "qwen2", "tie_word_embeddings": True}),
        ("siglip", {"model_type": "mistral", "sliding_window": None}),
    ],
)
def test_plain_transformers_gives_bit_equal_logits(
    tower: str, language: dict[str, object], tmp_path: Path
) -> None:
    llava = tiny_llava(tmp_path, tower=tower, **language)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in llava.model.parameters():  # not what a configuration alone would give
            p.add_(0.01 * torch.randn_like(p))
    save(llava, tmp_path / "model")
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    ours = logits(llava.model, llava.processor)
    assert torch.equal(logits(model.eval(), processor), ours)
    again = load(tmp_path / "model")
    assert torch.equal(logits(again.model, again.processor), ours)


def test_the_pipeline_of_plain_transformers_answers_as_we_do(saved: Path, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    ask = pipeline("image-text-to-text", model=str(saved))
    asked = [{"type": "image", "url": str(tmp_path / "a.png")}, {"type": "text", "text": "What is there?"}]
    options = {"max_new_tokens": 8, "do_sample": False}
    theirs = ask(text=[{"role": "user", "content": asked}], return_full_text=False, generate_kwargs=options)
    query = Query((tmp_path / "a.png",), "What is there?")
    (ours,) = Generator.load(saved).generate([query], Decoding(max_new_tokens=8))
    assert theirs[0]["generated_text"].strip() == ours.text


NEWER = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({"vision_tower.vision_model.": "vision_tower."}, id="assembled"),
        pytest.param(NEWER, id="newer"),
        pytest.param(NEWER | {"vision_tower.vision_model.": "model.vision_tower.vision_model."}, id="mixed"),
    ],
)
def test_other_generations_of_key_names_load_and_come_back_as_the_classic_ones(
    names: dict[str, str], saved: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved, tmp_path / "other")
    weights = load_file(saved / "model.safetensors")
    for old, new in names.items():
        weights = {new + n.removeprefix(old) if n.startswith(old) else n: w for n, w in weights.items()}
    assert any(name not in load_file(saved / "model.safetensors") for name in weights)
    save_file(weights, tmp_path / "other/model.safetensors", metadata={"format": "pt"})
    save(load(tmp_path / "other"), tmp_path / "again")
    assert files_digest(tmp_path / "again") == files_digest(saved)


def test_what_an_older_folders_processor_leaves_out_comes_from_the_model(saved: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(saved, old)
    (old / "sharecap.json").unlink()
    for path in old.glob("*processor*.json"):
        path.unlink()
    cuts = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    cuts.save_pretrained(old)
    (old / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}')
    config = json.loads((old / "config.json").read_text()) | {"image_seq_length": 576}
    (old / "config.json").write_text(json.dumps(config))
    llava = load(old)
    assert llava.image_tokens == llava.config.image_seq_length == 4
    assert (
        llava.processor(images=picture(0), text="<image>")["input_ids"][0].count(llava.config.image_token_id)
        == 4
    )
    new = load(saved).processor.image_processor
    ours, theirs = (
        x(picture(0), return_tensors="pt")["pixel_values"] for x in (llava.processor.image_processor, new)
    )
    assert torch.equal(ours, theirs)  # padded, not cut


def test_a_model_loaded_and_saved_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save(load(saved), tmp_path / "again")
    assert files_digest(tmp_path / "again") == files_digest(saved)


def test_the_keys_are_the_classic_ones(saved: Path) -> None:
    with safe_open(saved / "model.safetensors", "pt") as weights:
        keys = set(weights.keys())
    language, vision = "language_model.model.layers.", "vision_tower.vision_model.encoder.layers."
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    expected = {
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        *(f"multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")),
        *(f"{language}{i}.self_attn.{x}.weight" for i in range(2) for x in attention),
        *(f"{language}{i}.mlp.{x}_proj.weight" for i in range(2) for x in ("gate", "up", "down")),
        *(f"{language}{i}.{x}_layernorm.weight" for i in range(2) for x in ("input", "post_attention")),
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.embeddings.position_embedding.weight",
        *(
            f"{vision}{i}.{x}.{kind}"
            for i in range(4)
            for kind in ("weight", "bias")
            for x in (
                *(f"self_attn.{n}" for n in ("q_proj", "k_proj", "v_proj", "out_proj")),
                *("mlp.fc1", "mlp.fc2", "layer_norm1", "layer_norm2"),
            )
        ),
        *(
            f"vision_tower.vision_model.{x}.{kind}"
            for x in ("pre_layrnorm", "post_layernorm")
            for kind in ("weight", "bias")
        ),
    }
    assert keys == expected


def test_the_folder_tells_nothing_of_where_it_was_made(saved: Path) -> None:
    for path in saved.rglob("*.json"):
        assert str(saved.parent.parent) not in path.read_text()
        assert "_name_or_path" not in path.read_text()


@pytest.mark.parametrize("template", [VICUNA_V1, PLAIN], ids=lambda t: t.name)
@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece])
def test_plain_processor_and_chat_template_give_the_ids_that_we_train_on(
    template: Template, tokenizer: object, tmp_path: Path
) -> None:
    llava = tiny_llava(tmp_path, tokenizer(), parts={"template": template.name})  # type: ignore[operator]
    save(llava, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    asked = [{"type": "image"}, {"type": "text", "text": "Is there a circle?"}]
    text = processor.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
    theirs = processor(images=picture(0), text=text, return_tensors="pt")["input_ids"][0]
    (ours,) = Cutter(llava.tokenizer, template, llava.image_tokens).documents(
        [question(["a.png"], "Is there a circle?")]
    )
    assert ours.ids.tolist() == theirs.tolist()


def test_the_chat_template_writes_whole_conversations(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "One?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes, it's 1."}]},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    text = processor.apply_chat_template(messages)
    expected = "USER: <image>\nOne? ASSISTANT: Yes, it's 1.</s>USER: Sure? ASSISTANT: Yes.</s>"
    assert text == VICUNA_V1.system + expected
    row = Conversation(
        "r",
        ("a.png",),
        (
            Turn("user", "<image>\nOne?"),
            Turn("assistant", "Yes, it's 1."),
            Turn("user", "Sure?"),
            Turn("assistant", "Yes."),
        ),
    )
    (document,) = Cutter(processor.tokenizer, VICUNA_V1, 4).documents([row])
    assert processor(images=picture(0), text=text)["input_ids"][0] == document.ids.tolist()


def test_the_saved_processor_pads_to_a_square_in_the_mean_colour(saved: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    assert processor.image_processor.do_pad
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    square = Image.new("RGB", (64, 64), (122, 116, 104))
    square.paste(wide, (0, 16))
    one, other = (processor.image_processor(i, return_tensors="pt")["pixel_values"] for i in (wide, square))
    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(40, 28), (28, 40), (32, 32), (5, 300), (1, 1), (640, 480)])
def test_our_pixels_are_the_processors_to_the_bit(saved: Path, size: tuple[int, int], tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    image = picture(3, *size)
    image.save(tmp_path / "a.png")
    theirs = processor.image_processor([image, image], return_tensors="pt")["pixel_values"]
    pixels = Pixels(processor.image_processor)
    assert torch.equal(pixels([image, tmp_path / "a.png"]), theirs)
    (tmp_path / "a.png").unlink()
    assert torch.equal(pixels([str(tmp_path / "a.png")]), theirs[:1])  # kept from before


def test_pictures_are_kept_only_while_there_is_room(saved: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(saved)
    pixels = Pixels(processor.image_processor, cache_bytes=3 * 32 * 32 * 2)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    assert pixels(paths).shape == (4, 3, 32, 32)
    assert sum(a.nbytes for a in pixels.kept.values()) == 3 * 32 * 32 * 2


def test_the_template_is_kept_and_a_foreign_folder_is_taken_for_vicuna(llava: Llava, tmp_path: Path) -> None:
    save(Llava(llava.model, llava.processor, "plain"), tmp_path / "model")
    assert load(tmp_path / "model").template == "plain"
    (tmp_path / "model/sharecap.json").unlink()
    assert load(tmp_path / "model").template == "vicuna_v1"


def tower_of_another_kind(config: dict[str, dict[str, object]]) -> None:
    config["vision_config"]["model_type"] = "siglip_vision_model"


CHANGES: dict[str, Callable[[dict[str, dict[str, object]]], object]] = {
    "another tower": tower_of_another_kind,
    "windows": lambda x: x["text_config"].update(model_type="mistral", sliding_window=16),
    "another size": lambda x: x["text_config"].update(num_hidden_layers=3),
    "a kind that is a list": lambda x: x.update(model_type=["llava"]),  # type: ignore[call-overload]
    "no such layer": lambda x: x.update(vision_feature_layer=-9),  # type: ignore[call-overload]
}


def broken(saved: Path, directory: Path, how: str) -> Path:
    """A copy of a good model, damaged in one way."""
    if how == "missing":
        return directory / "nowhere"
    if how == "empty":
        directory.mkdir()
        return directory
    shutil.copytree(saved, directory)
    weights, config = directory / "model.safetensors", directory / "config.json"
    texts = {
        "config is no object": (config, "[]"),
        "config of brackets": (config, "[" * 100_000),
        "another kind": (config, json.dumps({"model_type": "llama"})),
        "odd note": (directory / "sharecap.json", "{}"),
        "unknown template": (directory / "sharecap.json", '{"template": "v9"}'),
    }
    if how == "a file":
        return config
    if how in texts:
        texts[how][0].write_text(texts[how][1])
    elif how in CHANGES:
        changed = json.loads(config.read_text())
        CHANGES[how](changed)
        config.write_text(json.dumps(changed))
    elif how == "more tokens":
        tokenizer = AutoTokenizer.from_pretrained(str(saved))
        tokenizer.add_tokens(["<one>", "<two>"])
        tokenizer.save_pretrained(directory)
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "pickled":
        weights.unlink()
        (directory / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    else:
        {"no config": config, "no weights": weights, "no tokenizer": directory / "tokenizer.json"}[
            how
        ].unlink()
    return directory


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "no such model directory"),
        ("a file", "no such model directory"),
        ("empty", "not a model .no readable config.json."),
        ("no config", "not a model .no readable config.json."),
        ("config is no object", "not a model .no readable config.json."),
        ("another kind", "not a LLaVA or Qwen3-VL but 'llama'"),
        ("a kind that is a list", "not a LLaVA or Qwen3-VL but .'llava'."),
        ("config of brackets", "not a model .no readable config.json."),
        (
            "more tokens",
            "damaged model .2 of its tokenizer's tokens have no vectors, first '<one>'.",
        ),
        ("no weights", "damaged model"),
        ("cut weights", "damaged model"),
        ("no tokenizer", "damaged model"),
        ("another size", "damaged model .9 tensors missing, unknown or of another size"),
        ("another tower", "damaged model .*tensors missing, unknown or of another size"),
        ("windows", "attends to a part of the text .window 16."),
        ("pickled", "damaged model"),
        ("no such layer", "4 blocks have no feature layer -9"),
        ("odd note", "damaged note"),
        ("unknown template", "unknown template 'v9'"),
    ],
)
def test_what_is_no_model_is_one_clear_line(
    saved: Path, tmp_path: Path, how: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = broken(saved, tmp_path / "broken", how)
    with pytest.raises(SharecapError, match=why) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")
