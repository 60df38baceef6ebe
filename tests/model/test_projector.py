"""LLaVA's published projector files: the right one fits to the bit, every other is one clear line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sharecap.errors import SharecapError
from sharecap.model.build import Parts, build
from tests.model.tiny import language_folder, vision_folder

Tensors = dict[str, Any]


def published(kind: str, width: int = 32) -> Tensors:
    """What LLaVA's first stage saves, with tensors in half precision as published."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).half()

    if kind == "linear":
        return {"model.mm_projector.weight": tensor(32, width), "model.mm_projector.bias": tensor(32)}
    return {
        "model.mm_projector.0.weight": tensor(32, width),
        "model.mm_projector.0.bias": tensor(32),
        "model.mm_projector.2.weight": tensor(32, 32),
        "model.mm_projector.2.bias": tensor(32),
    }


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Parts]:
    vision = vision_folder(tmp_path_factory.mktemp("vision"))
    language = language_folder(tmp_path_factory.mktemp("language"))
    return lambda path, kind="mlp2x_gelu": Parts(vision, language, projector=kind, projector_file=path)


def test_the_two_layers_compute_what_llavas_own_do(parts: Callable[..., Parts], tmp_path: Path) -> None:
    saved = published("mlp2x_gelu")
    torch.save(saved, tmp_path / "mm_projector.bin")
    theirs = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
    theirs.load_state_dict({name.removeprefix("model.mm_projector."): x for name, x in saved.items()})
    ours = build(parts(tmp_path / "mm_projector.bin")).model.model.multi_modal_projector
    features = torch.randn(3, 4, 32)
    assert torch.equal(ours(features), theirs(features))


def test_the_first_llavas_one_matrix_computes_the_same(parts: Callable[..., Parts], tmp_path: Path) -> None:
    saved = published("linear")
    torch.save(saved, tmp_path / "mm_projector.bin")
    ours = build(parts(tmp_path / "mm_projector.bin", "linear")).model.model.multi_modal_projector
    weight, bias = (x.float() for x in saved.values())
    features = torch.randn(5, 32)
    torch.testing.assert_close(ours(features), features @ weight.T + bias)


class Payload:
    """Writes a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda _: published("mlp2x_gelu", width=48),
            r"another size \(0.weight is \[32, 48\], .* \[32, 32\]\)",
        ),
        (lambda _: published("linear"), "kind 'linear', not 'mlp2x_gelu': .*build with projector=\"linear\""),
        (lambda x: x | {"model.embed_tokens.weight": torch.zeros(2)}, "1 tensors belong to no projector"),
        (lambda x: x | {"model.mm_projector.4.weight": torch.zeros(2)}, "tensor '4.weight'"),
        (lambda x: dict(list(x.items())[1:]), "tensor '0.weight'"),
        (lambda x: list(x.values()), "holds no named tensors"),
        (lambda _: {}, "not a projector of kind"),
    ],
)
def test_a_file_that_does_not_fit_is_one_clear_line(
    parts: Callable[..., Parts], tmp_path: Path, change: Callable[[Tensors], object], why: str
) -> None:
    torch.save(change(published("mlp2x_gelu")), tmp_path / "mm_projector.bin")
    with pytest.raises(SharecapError, match=why) as caught:
        build(parts(tmp_path / "mm_projector.bin"))
    assert "\n" not in str(caught.value)
    assert "mm_projector.bin" in str(caught.value)


def test_code_in_the_file_never_runs(parts: Callable[..., Parts], tmp_path: Path) -> None:
    torch.save({"model.mm_projector.0.weight": Payload(tmp_path / "ran")}, tmp_path / "evil.bin")
    with pytest.raises(SharecapError, match="cannot be read as tensors"):
        build(parts(tmp_path / "evil.bin"))
    assert not (tmp_path / "ran").exists()
    (tmp_path / "text.bin").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(SharecapError, match="cannot be read as tensors"):
        build(parts(tmp_path / "text.bin"))
    with pytest.raises(SharecapError, match="no such projector file"):
        build(parts(tmp_path / "nowhere.bin"))
