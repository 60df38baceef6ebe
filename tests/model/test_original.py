"""The layout of LLaVA's own repository: its names, its configuration, and the same logits out of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from sharecap.artifact import file_digest
from sharecap.cli import app
from sharecap.errors import UsageError
from sharecap.model.build import Llava, Parts, build
from sharecap.model.folder import save
from sharecap.model.original import save_original
from tests.model.tiny import language_folder, tiny_llava, vision_folder


def vicuna(directory: Path) -> Path:
    """A language model's folder as it is downloaded: with the file of its slow tokenizer."""
    language_folder(directory)
    (directory / "tokenizer.model").write_bytes(b"pieces")
    return directory


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vicuna(tmp_path_factory.mktemp("vicuna"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory, language: Path) -> Llava:
    return build(Parts(vision_folder(tmp_path_factory.mktemp("vision")), language))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, llava: Llava, language: Path) -> Path:
    directory = tmp_path_factory.mktemp("original") / "llava-tiny"
    save_original(llava, directory, language)
    return directory


def test_the_keys_are_those_of_llavas_checkpoints(saved: Path) -> None:
    layer, block = "model.layers.", "model.vision_tower.vision_tower.vision_model.encoder.layers."
    vision = block.removesuffix("encoder.layers.")
    assert set(load_file(saved / "model.safetensors")) == {
        *("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"),
        *(f"model.mm_projector.{i}.{x}" for i in (0, 2) for x in ("weight", "bias")),
        *(f"{layer}{i}.self_attn.{x}_proj.weight" for i in range(2) for x in "qkvo"),
        *(f"{layer}{i}.mlp.{x}_proj.weight" for i in range(2) for x in ("gate", "up", "down")),
        *(f"{layer}{i}.{x}_layernorm.weight" for i in range(2) for x in ("input", "post_attention")),
        f"{vision}embeddings.class_embedding",
        *(f"{vision}embeddings.{x}_embedding.weight" for x in ("patch", "position")),
        *(f"{vision}{x}.{y}" for x in ("pre_layrnorm", "post_layernorm") for y in ("weight", "bias")),
        *(
            f"{block}{i}.{x}.{y}"
            for i in range(4)
            for x in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
            for y in ("weight", "bias")
        ),
        *(
            f"{block}{i}.self_attn.{x}_proj.{y}"
            for i in range(4)
            for x in ("q", "k", "v", "out")
            for y in ("weight", "bias")
        ),
    }


def test_the_configuration_says_what_llavas_code_asks(saved: Path, language: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    known = json.loads((language / "config.json").read_text())["vocab_size"]
    expected = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": 32,
        "unfreeze_mm_vision_tower": True,
        "image_aspect_ratio": "pad",
        "mm_use_im_start_end": False,
        "vocab_size": known,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "torch_dtype": "float32",
    }
    assert {key: config[key] for key in expected} == expected
    assert Path(config["mm_vision_tower"]) == (saved / "vision_tower").resolve()
    assert (saved / "tokenizer.model").read_bytes() == b"pieces"


@torch.no_grad()
def test_the_weights_put_together_as_llava_does_give_the_same_logits(saved: Path, llava: Llava) -> None:
    weights = load_file(saved / "model.safetensors")
    config = json.loads((saved / "config.json").read_text())
    names = LlamaConfig().to_dict().keys() - {"model_type", "architectures", "torch_dtype", "rope_scaling"}
    language = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k in names}))
    language.load_state_dict({n: w for n, w in weights.items() if "vision" not in n and "mm_" not in n})
    tower = CLIPVisionModel.from_pretrained(config["mm_vision_tower"])
    inside = {n.rpartition("vision_model.")[2]: w for n, w in weights.items() if "vision_tower" in n}
    assert all(torch.equal(w, inside[n]) for n, w in tower.state_dict().items())
    projector = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
    prefix = "model.mm_projector."
    projector.load_state_dict({n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)})

    pixels, words = torch.randn(1, 3, 32, 32), torch.arange(10, 30)
    features = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    embedded = language.get_input_embeddings()(words)[None]
    spliced = torch.cat([embedded[:, :3], projector(features), embedded[:, 3:]], dim=1)
    theirs = language.eval()(inputs_embeds=spliced).logits[0]
    image = torch.full((llava.image_tokens,), llava.config.image_token_id)
    ids = torch.cat([words[:3], image, words[3:]])[None]
    ours = llava.model(input_ids=ids, pixel_values=pixels).logits[0]
    torch.testing.assert_close(ours[:, : theirs.shape[1]], theirs, atol=1e-6, rtol=1e-6)


def test_the_command_writes_the_same_from_a_saved_model_and_overwrites_nothing(
    saved: Path, llava: Llava, language: Path, tmp_path: Path
) -> None:
    save(llava, tmp_path / "model")
    words = ["convert", str(tmp_path / "model"), "--language", str(language), "--to"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "out")], catch_exceptions=False)
    assert done.stdout == f"LLaVA's layout: {tmp_path / 'out'}\n"
    for name in ("model.safetensors", "vision_tower/model.safetensors", "tokenizer.model"):
        assert file_digest(tmp_path / "out" / name) == file_digest(saved / name)
    before = file_digest(tmp_path / "model/config.json")
    error = CliRunner().invoke(app, [*words, str(tmp_path / "model")]).exception
    assert isinstance(error, UsageError)
    assert str(error).startswith("directory is not empty: ")
    assert file_digest(tmp_path / "model/config.json") == before


def test_one_matrix_is_llavas_linear_projector(tmp_path: Path, language: Path) -> None:
    llava = build(Parts(vision_folder(tmp_path / "vision"), language, projector="linear"))
    save_original(llava, tmp_path / "model", language)
    keys = {key for key in load_file(tmp_path / "model/model.safetensors") if "mm_projector" in key}
    assert keys == {"model.mm_projector.weight", "model.mm_projector.bias"}
    assert json.loads((tmp_path / "model/config.json").read_text())["mm_projector_type"] == "linear"


def test_what_llavas_code_could_not_load_is_refused_in_one_line(
    tmp_path: Path, llava: Llava, language: Path
) -> None:
    other = tiny_llava(tmp_path / "siglip", tower="siglip", model_type="qwen2")
    with pytest.raises(UsageError, match="for a CLIP and a Llama, not for siglip_vision_model and qwen2"):
        save_original(other, tmp_path / "a", language)
    with pytest.raises(UsageError, match=r"no tokenizer\.model, which LLaVA's code needs"):
        save_original(llava, tmp_path / "b", language_folder(tmp_path / "bare"))
    large = vicuna(tmp_path / "large")
    config = json.loads((large / "config.json").read_text()) | {"vocab_size": 9999}
    (large / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="9999 tokens where the trained one has"):
        save_original(llava, tmp_path / "c", large)
    assert not any((tmp_path / x).exists() for x in "abc")
