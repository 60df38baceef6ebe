"""What is said to learn learns, and nothing else."""

from pathlib import Path

import pytest
import torch

from sharecap.errors import UsageError
from sharecap.model.attention import layout
from sharecap.model.build import Llava
from sharecap.model.forward import packed_forward
from sharecap.model.trainable import Rule, apply, resolve
from tests.model.tiny import tiny_llava


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return tiny_llava(tmp_path_factory.mktemp("tiny"))


def with_gradient(llava: Llava) -> set[str]:
    """Names of the parameters that one packed step gives a gradient."""
    ids = torch.arange(10, 30)
    ids[:4] = llava.config.image_token_id
    llava.model.zero_grad()
    logits = packed_forward(llava.model, ids, layout([20]), torch.randn(1, 3, 32, 32), torch.arange(19))
    torch.nn.functional.cross_entropy(logits, ids[1:]).backward()
    return {name for name, p in llava.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "rules",
    [
        [Rule("projector", 1e-3)],
        [Rule("vision", 1e-3), Rule("projector", 1e-3), Rule("language", 1e-3)],
        [Rule("vision", 1e-3, from_block=2), Rule("language", 1e-4, from_block=1)],
        [Rule("language", 1e-3)],
    ],
)
def test_the_trainable_parameters_are_those_that_get_a_gradient(llava: Llava, rules: list[Rule]) -> None:
    trainable = resolve(llava.model, rules)
    apply(llava.model, trainable)
    assert with_gradient(llava) == set(trainable.rates)


def test_blocks_after_the_feature_layer_never_learn(llava: Llava) -> None:
    names = resolve(llava.model, [Rule("vision", 1e-3, from_block=1)]).rates
    assert {n.split(".layers.")[1][0] for n in names} == {"1", "2"}  # of 0..3, features before the last
    assert not any("post_layernorm" in n or "embeddings" in n or "pre_layrnorm" in n for n in names)
    everything = resolve(llava.model, [Rule("vision", 1e-3)]).rates
    assert any("embeddings.patch_embedding" in n for n in everything)
    assert any("pre_layrnorm" in n for n in everything)
    assert not any("post_layernorm" in n or ".layers.3." in n for n in everything)


def test_later_rules_override_earlier_ones(llava: Llava) -> None:
    rules = [
        Rule("language", 1e-4),
        Rule("language", 1e-3, from_block=1),
        Rule("vision", 1e-3),
        Rule("vision", 0.0),
    ]
    trainable = resolve(llava.model, rules)
    rates = trainable.rates
    assert rates["model.language_model.embed_tokens.weight"] == 1e-4
    assert rates["model.language_model.layers.0.mlp.up_proj.weight"] == 1e-4
    assert rates["model.language_model.layers.1.mlp.up_proj.weight"] == 1e-3
    assert rates["lm_head.weight"] == 1e-3
    assert not any("vision" in name for name in rates)
    groups = dict(apply(llava.model, trainable))
    assert set(groups) == {1e-4, 1e-3}


def test_the_table_counts_every_parameter_once(llava: Llava) -> None:
    trainable = resolve(llava.model, [Rule("vision", 5e-4, from_block=1), Rule("projector", 2e-3)])
    assert [(x.part, x.blocks, x.learning_rate) for x in trainable.table] == [
        ("vision", "1-2", 5e-4),
        ("projector", "", 2e-3),
    ]
    total = sum(p.numel() for p in llava.model.parameters())
    assert sum(x.parameters for x in trainable.table) + trainable.frozen == total
    assert trainable.lines()[1].split() == ["vision", "1-2", "17,088", "5.0e-04"]


def test_a_linear_projectors_identity_never_learns(tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path, parts={"projector": "linear"})
    names = resolve(llava.model, [Rule("projector", 1e-3)]).rates
    assert set(names) == {f"model.multi_modal_projector.linear_1.{kind}" for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([], "no parameter would learn"),
        ([Rule("vision", 0.0)], "no parameter would learn"),
        ([Rule("vision", 1e-3, from_block=3)], "vision has no used block 3 to train from. use 0 to 2"),
        ([Rule("language", 1e-3, from_block=2)], "language has no used block 2 to train from. use 0 to 1"),
        ([Rule("projector", 1e-3, from_block=1)], "projector has no used block 1"),
        ([Rule("vision", 1e-3, from_block=-1)], "vision has no used block -1"),
    ],
)
def test_rules_that_train_nothing_are_usage_errors(llava: Llava, rules: list[Rule], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        resolve(llava.model, rules)
