"""What a step minimises: the mean loss over the tokens that are learned in it, whatever packs and ranks hold.

Gradients add up pack by pack. Randomness (dropout) is drawn anew for each pack, from the run's seed, the step
and the pack's tokens: a resumed run draws the same, and so does one with other ranks as far as its packs are
the same. It must never depend on what ran before.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharecap.data.loading import PackTensors, Step
from sharecap.model.attention import layout
from sharecap.model.build import grey_picture
from sharecap.model.forward import packed_loss
from sharecap.model.loss import EVEN
from sharecap.train.parallel import World, reshard


class Objective(nn.Module):
    """A pack in, the summed loss of its learned tokens out.

    A module, because what shards weights makes them whole around a module's `forward`: all that touches them,
    head and loss included, happens inside this one.
    """

    def __init__(self, model: Any, device: torch.device, precision: str, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.device, self.precision, self.compiled = model, device, precision, compiled

    def forward(self, pack: PackTensors) -> Tensor:
        if self.compiled and self.device.type == "cpu":
            pack = evened(pack, other_than(self.model.config.image_token_id))
        pixels = None if pack.pixels is None else pack.pixels.to(self.device)
        where = layout(pack.lengths, self.device)
        ids, predict, targets = (x.to(self.device) for x in (pack.ids, pack.predict, pack.targets))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss: Tensor = packed_loss(
                self.model, ids, where, pixels, predict=predict, targets=targets, compiled=self.compiled
            )
        return loss.clone()  # sharding hangs its hooks on the result, and warns of one that is a view


@dataclass(frozen=True)
class Learner:
    """Computes this rank's share of steps."""

    objective: Objective
    world: World
    seed: int
    spare: (
        PackTensors | None
    )  # a picture alone, for ranks that must all run the same modules; None: they needn't

    def learn(self, step: Step) -> Tensor:
        """Add the gradients of this rank's packs; returns their share of the step's loss, a scalar."""
        total = torch.zeros((), device=self.world.device)
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for pack, weight in self.even(step.packs):
                torch.manual_seed(zlib.crc32(pack.ids.numpy().tobytes(), self.seed + step.number))
                loss = weight * self.objective(pack) / step.learned
                loss.backward()
                total += loss.detach()
        return total

    @torch.no_grad()
    def held_out_loss(self, step: Step) -> float:
        """The mean loss over the step's learned tokens, of all ranks. Nothing learns."""
        self.objective.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for pack, weight in self.even(step.packs):
            total += weight * self.objective(pack)
        reshard(self.objective)
        self.objective.train()
        return float(self.world.sum(total)) / step.learned

    def even(self, packs: Sequence[PackTensors]) -> Iterator[tuple[PackTensors, float]]:
        """The packs with their weight, 1. Where ranks must run alike: as many on all, each with a picture.

        Nothing reaches the loss from what is added: packed documents don't see each other, and the packs that
        fill up weigh 0.
        """
        if self.spare is None:
            yield from ((pack, 1.0) for pack in packs)
            return
        (most,) = self.world.most(len(packs))
        yield from ((with_picture(pack, self.spare), 1.0) for pack in packs)
        yield from ((self.spare, 0.0) for _ in range(int(most) - len(packs)))


def evened(pack: PackTensors, token: int) -> PackTensors:
    """The pack with this token as a document of its own at the end, up to a multiple of `EVEN` places."""
    missing = -len(pack.ids) % EVEN
    if not missing:
        return pack
    ids = torch.cat([pack.ids, pack.ids.new_full((missing,), token)])
    return replace(pack, ids=ids, lengths=(*pack.lengths, missing))


def other_than(token: int) -> int:
    """A token that is not this one."""
    return int(token == 0)


def picture_alone(config: Any) -> PackTensors:
    """A pack of one grey picture and nothing else."""
    pixels, places = grey_picture(config)
    ids = torch.full((places,), config.image_token_id)
    return PackTensors(ids, (len(ids),), torch.tensor([0]), ids[:1], pixels)


def with_picture(pack: PackTensors, spare: PackTensors) -> PackTensors:
    """The pack; one without pictures has the spare one as a document of its own at its end."""
    if pack.pixels is not None:
        return pack
    ids = torch.cat([pack.ids, spare.ids])
    return replace(pack, ids=ids, lengths=pack.lengths + spare.lengths, pixels=spare.pixels)
