"""Adapters learn where they are said to, are added up on export, and are refused where they do nothing."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from sharecap.errors import SharecapError, UsageError
from sharecap.model.attention import layout
from sharecap.model.build import Llava
from sharecap.model.folder import load, save
from sharecap.model.forward import packed_forward
from sharecap.model.lora import Lora
from sharecap.model.trainable import Rule, Trainable, apply, resolve
from tests.model.tiny import tiny_llava

SMALL = Lora(rank=4, alpha=8, dropout=0.0)


@pytest.fixture
def llava(tmp_path: Path) -> Llava:
    return tiny_llava(tmp_path / "tiny")


def inputs(llava: Llava) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(10, 40)
    ids[: llava.image_tokens] = llava.config.image_token_id
    return ids, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def logits(llava: Llava) -> torch.Tensor:
    ids, pixels = inputs(llava)
    return packed_forward(llava.model, ids, layout([len(ids)]), pixels, torch.arange(len(ids) - 1))


def train(llava: Llava, rules: list[Rule], steps: int = 3) -> Trainable:
    """A few steps, as the loop does them."""
    trainable = resolve(llava.model, rules)
    groups = apply(llava.model, trainable)
    optimizer = torch.optim.AdamW([{"params": ps, "lr": rate} for rate, ps in groups])
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(logits(llava), inputs(llava)[0][1:]).backward()
        assert all(p.grad is not None for p in llava.model.parameters() if p.requires_grad)
        optimizer.step()
    return trainable


RULES = [
    Rule("vision", 1e-2, from_block=1, lora=Lora(rank=2, alpha=4, dropout=0.0, targets=("q_proj", "fc2"))),
    Rule("projector", 1e-3),
    Rule("language", 2e-2, lora=SMALL),
]


def test_the_table_shows_adapters_and_resolving_changes_nothing(llava: Llava) -> None:
    before = list(llava.model.state_dict())
    trainable = resolve(llava.model, RULES)
    assert list(llava.model.state_dict()) == before
    assert [(x.part, x.rank, x.blocks, x.tensors) for x in trainable.table] == [
        ("vision", 2, "1-2", 2 * 2 * 2),
        ("projector", None, "", 4),
        ("language", 4, "0-1", 2 * 7 * 2),
    ]
    assert trainable.lines()[-2].endswith("2.0e-02  LoRA of rank 4")
    total = sum(p.numel() for p in llava.model.parameters())
    assert trainable.frozen == total - sum(
        p.numel() for p in llava.model.model.multi_modal_projector.parameters()
    )
    apply(llava.model, trainable)
    learning = {n: p.numel() for n, p in llava.model.named_parameters() if p.requires_grad}
    assert learning.keys() == trainable.rates.keys()
    assert sum(learning.values()) == sum(x.parameters for x in trainable.table)


def test_fresh_adapters_change_no_bit_and_are_the_same_for_the_same_seed(
    llava: Llava, tmp_path: Path
) -> None:
    before = logits(llava)
    apply(llava.model, resolve(llava.model, RULES))
    assert torch.equal(logits(llava), before)
    other = tiny_llava(tmp_path / "other")
    torch.manual_seed(123)
    apply(other.model, resolve(other.model, RULES))
    for (name, one), two in zip(llava.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_saved_model_is_plain_and_holds_what_was_learned(llava: Llava, tmp_path: Path) -> None:
    start = {name: x.clone() for name, x in llava.model.state_dict().items()}
    train(llava, RULES)
    trained = logits(llava).detach()
    save(llava, tmp_path / "model")
    again = load(tmp_path / "model")
    now = again.model.state_dict()
    assert now.keys() == start.keys()
    changed = {name for name in start if not torch.equal(now[name], start[name])}
    language = {n for n in start if ".language_model.layers." in n and n.endswith("_proj.weight")}
    vision = {
        f"model.vision_tower.encoder.layers.{i}.{x}.weight"
        for i in (1, 2)
        for x in ("self_attn.q_proj", "mlp.fc2")
    }
    assert changed == language | vision | {n for n in start if "multi_modal_projector" in n}
    torch.testing.assert_close(logits(again), trained, atol=1e-5, rtol=1e-5)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert all(torch.equal(x, now[name]) for name, x in plain.state_dict().items())
    assert torch.equal(logits(llava), trained)  # saving left the model in work as it was


def test_a_later_rule_takes_blocks_from_the_adapters(llava: Llava) -> None:
    rules = [Rule("language", 1e-3, lora=SMALL), Rule("language", 1e-4, from_block=1)]
    rates = resolve(llava.model, rules).rates
    layer = "model.language_model.layers"
    assert rates[f"{layer}.0.mlp.up_proj.lora_A.default.weight"] == 1e-3
    assert rates[f"{layer}.1.mlp.up_proj.weight"] == 1e-4
    assert f"{layer}.0.mlp.up_proj.weight" not in rates
    assert not any(".1." in name and "lora" in name for name in rates)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([Rule("vision", 0.0, lora=SMALL), Rule("projector", 1e-3)], "LoRA on vision, which is frozen"),
        ([Rule("language", 1e-3, lora=SMALL), Rule("language", 0.0)], "LoRA on language, which is frozen"),
        (
            [Rule("language", 1e-3, lora=Lora(targets=("q_proj", "wq")))],
            "language has no linear map 'wq' to adapt. use down_proj, gate_proj, k_proj",
        ),
    ],
)
def test_adapters_that_would_do_nothing_are_refused(llava: Llava, rules: list[Rule], why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        resolve(llava.model, rules)
    assert "\n" not in str(caught.value)


def test_a_model_that_has_adapters_gets_no_second_ones(llava: Llava) -> None:
    apply(llava.model, resolve(llava.model, RULES))
    with pytest.raises(UsageError, match="has adapters already"):
        resolve(llava.model, RULES)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_senseless_adapters_are_usage_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="LoRA needs"):
        Lora(**wrong)  # type: ignore[arg-type]


def test_without_peft_one_line_says_what_to_install(llava: Llava, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(SharecapError, match=r"LoRA needs peft. pip install 'sharecap\[train\]'"):
        apply(llava.model, resolve(llava.model, RULES))
