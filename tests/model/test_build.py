"""A LLaVA from parts: their weights, what is new in it, and what is no part."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from sharecap.artifact import files_digest
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Parts, build
from tests.model.tiny import (
    byte_level,
    language_folder,
    picture,
    siglip_model,
    tiny_llava,
    vision_config,
    vision_folder,
)


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_folder(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return language_folder(tmp_path_factory.mktemp("language"))


def test_the_parts_keep_their_weights_and_their_folders(vision: Path, language: Path) -> None:
    digests = files_digest(vision), files_digest(language)
    model = build(Parts(vision, language)).model
    tower, llama = CLIPVisionModel.from_pretrained(vision), LlamaForCausalLM.from_pretrained(language)
    for name, weights in tower.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], weights)
    known = llama.config.vocab_size
    for name, weights in llama.state_dict().items():
        place = (
            "lm_head.weight"
            if name == "lm_head.weight"
            else name.replace("model.", "model.language_model.", 1)
        )
        assert torch.equal(model.state_dict()[place][: len(weights)], weights)
    assert model.get_input_embeddings().weight.shape[0] == known + 1  # <image>; it had a padding token
    assert (files_digest(vision), files_digest(language)) == digests


def test_the_same_parts_and_seed_give_the_same_model(vision: Path, language: Path) -> None:
    one, other, third = (build(Parts(vision, language, seed=seed)).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(weights, other[name]) for name, weights in one.items())
    differing = {name for name, weights in one.items() if not torch.equal(weights, third[name])}
    assert differing == {f"model.multi_modal_projector.linear_{i}.weight" for i in (1, 2)}


def test_a_narrow_projector_starts_wide_and_a_std_can_be_given(vision: Path, language: Path) -> None:
    projector = build(Parts(vision, language)).model.model.multi_modal_projector
    assert projector.linear_1.weight.std().item() == pytest.approx(2 / 32**0.5, rel=0.1)
    projector = build(Parts(vision, language, projector_std=0.02)).model.model.multi_modal_projector
    assert projector.linear_2.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_linear_projector_is_one_matrix(vision: Path, language: Path) -> None:
    projector = build(Parts(vision, language, projector="linear")).model.model.multi_modal_projector
    features = torch.randn(5, 32)
    with torch.no_grad():
        assert torch.equal(projector(features), features @ projector.linear_1.weight.T)


def test_a_whole_clip_gives_its_vision_half(tmp_path: Path, language: Path) -> None:
    text = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision_config(), projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    model = build(Parts(tmp_path / "clip", language)).model
    for name, weights in clip.vision_model.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], weights)


def test_tokens_that_are_missing_are_added_once(vision: Path, tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    llava = build(Parts(vision, language_folder(tmp_path / "has", tokenizer)))
    assert llava.config.text_config.vocab_size == len(tokenizer)
    bare = byte_level()
    bare.pad_token = None
    llava = build(Parts(vision, language_folder(tmp_path / "bare", bare)))
    assert llava.tokenizer.pad_token == "<pad>"
    assert llava.config.pad_token_id == llava.tokenizer.pad_token_id


@pytest.mark.parametrize("layer", [-5, -6, 0, 5])
def test_a_feature_layer_that_is_not_there_is_a_usage_error(vision: Path, language: Path, layer: int) -> None:
    with pytest.raises(UsageError, match=f"4 blocks have no feature layer {layer}"):
        build(Parts(vision, language, feature_layer=layer))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = tiny_llava(tmp_path, tie_word_embeddings=True).model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_what_is_no_part_is_one_clear_line(tmp_path: Path, vision: Path, language: Path) -> None:
    with pytest.raises(
        SharecapError, match=r"not a model: .*nowhere\. give a Hugging Face name or a directory"
    ):
        build(Parts(tmp_path / "nowhere", language))
    with pytest.raises(SharecapError, match=r"not a model: .*nowhere\. give"):
        build(Parts(vision, tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="not a CLIP or SigLIP but 'llama'"):
        build(Parts(language, language))
    with pytest.raises(SharecapError, match="cannot load") as caught:
        build(Parts(vision, vision))
    assert "\n" not in str(caught.value)


def test_a_part_with_missing_weights_is_refused_not_invented(tmp_path: Path, vision: Path) -> None:
    language_folder(tmp_path / "cut")
    weights = load_file(tmp_path / "cut/model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "cut/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SharecapError, match=r"1 weights are missing, first model.norm.weight: .*cut"):
        build(Parts(vision, tmp_path / "cut"))


@pytest.mark.parametrize(
    ("tower", "select", "places"),
    [
        ("clip", None, 4),
        ("clip", "default", 4),
        ("clip", "full", 5),
        ("siglip", None, 4),
        ("siglip", "full", 4),
    ],
)
def test_an_image_takes_as_many_places_as_its_features(
    tower: str, select: str | None, places: int, tmp_path: Path
) -> None:
    llava = tiny_llava(tmp_path, tower=tower, parts={"select": select})
    assert llava.image_tokens == llava.config.image_seq_length == places
    inputs = llava.processor(images=picture(0), text="<image>\nWhat?", return_tensors="pt")
    assert (inputs["input_ids"] == llava.config.image_token_id).sum() == places
    features = llava.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    assert features.shape == (places, 32)


def test_a_siglip_keeps_its_weights_but_for_the_head_that_is_never_asked(tmp_path: Path) -> None:
    whole = SiglipModel(
        SiglipConfig(
            text_config=SiglipTextConfig(
                vocab_size=50,
                hidden_size=32,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=1,
            ),
            vision_config=siglip_model().config,
        )
    )
    whole.save_pretrained(tmp_path / "siglip")
    model = build(Parts(tmp_path / "siglip", language_folder(tmp_path / "language"))).model
    ours = model.model.vision_tower.state_dict()
    theirs = {n: w for n, w in whole.vision_model.state_dict().items() if not n.startswith("head.")}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], weights) for name, weights in theirs.items())


def test_pictures_get_the_colours_that_the_tower_was_made_with(tmp_path: Path, language: Path) -> None:
    siglip = vision_folder(tmp_path / "siglip", "siglip")
    images = build(Parts(siglip, language)).processor.image_processor
    assert list(images.image_mean) == [0.5] * 3  # a SigLIP's, where the folder says nothing
    SiglipImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[0.4] * 3, resample=2).save_pretrained(
        siglip
    )
    images = build(Parts(siglip, language)).processor.image_processor
    assert (list(images.image_mean), list(images.image_std), images.resample) == (
        [0.1, 0.2, 0.3],
        [0.4] * 3,
        2,
    )
    pixels = images(picture(0), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 35, 35)


def test_what_does_not_fit_is_one_clear_line_before_a_step(
    tmp_path: Path, vision: Path, language: Path
) -> None:
    siglip = vision_folder(tmp_path / "siglip", "siglip")
    with pytest.raises(UsageError, match='without class token: select="default" would drop a patch'):
        build(Parts(siglip, language, select="default"))
    window = language_folder(tmp_path / "window", model_type="mistral", sliding_window=8)
    with pytest.raises(
        UsageError, match=r"attends to a part of the text \(window 8\): .*window\. use one with"
    ):
        build(Parts(vision, window))
    layers = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    window = language_folder(tmp_path / "some", model_type="qwen2", **layers)
    with pytest.raises(UsageError, match=r"a part of the text \(sliding_attention\)"):
        build(Parts(vision, window))
    capped = language_folder(tmp_path / "capped", model_type="gemma2", layer_types=["full_attention"] * 2)
    with pytest.raises(UsageError, match=r"a part of the text|caps its attention"):
        build(Parts(vision, capped))


def test_weights_of_another_size_than_the_configuration_says_are_refused(
    tmp_path: Path, vision: Path
) -> None:
    language = language_folder(tmp_path / "language")
    config = json.loads((language / "config.json").read_text()) | {"intermediate_size": 48}
    (language / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        SharecapError, match=r"6 weights have not the size that config.json says, first model"
    ):
        build(Parts(vision, language))


def test_a_language_model_without_tokenizer_is_one_clear_line(tmp_path: Path, vision: Path) -> None:
    bare = language_folder(tmp_path / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(SharecapError, match="no tokenizer") as caught:
        build(Parts(vision, bare))
    assert "\n" not in str(caught.value)


class Payload:
    """Writes a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.touch, (self.target,))


def test_code_in_pickled_weights_never_runs(tmp_path: Path, vision: Path) -> None:
    language = language_folder(tmp_path / "language")
    weights = load_file(language / "model.safetensors")
    (language / "model.safetensors").unlink()
    torch.save(weights, language / "pytorch_model.bin")  # as Vicuna comes
    assert build(Parts(vision, language)).image_tokens == 4
    torch.save(weights | {"model.norm.weight": Payload(tmp_path / "ran")}, language / "pytorch_model.bin")
    with pytest.raises(SharecapError, match="cannot load") as caught:
        build(Parts(vision, language))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{", '{"image_mean": "x"}', '{"image_std": [1, 0, 1]}'])
def test_a_damaged_image_processor_is_never_taken_for_none(tmp_path: Path, language: Path, text: str) -> None:
    tower = vision_folder(tmp_path / "tower")
    (tower / "preprocessor_config.json").write_text(text)
    with pytest.raises(SharecapError, match=r"image processor.*: .*tower"):
        build(Parts(tower, language))
