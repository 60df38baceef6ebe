"""A judge that looks at the model in the middle of training, and the run that stops on its word."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sharecap.model.build import Llava
from sharecap.model.folder import load
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.train.loop import train
from tests.model.tiny import caption_rows, tiny_llava
from tests.train.killed import CONFIG

WORDS = [f"There is a red circle, and {n} blue squares above it." for n in range(6)]
EVERY_TWO = dataclasses.replace(CONFIG, steps=12, eval_every=2, checkpoint_every=3, checkpointing="full")


class Says:
    """A judge with a word ready for each look; keeps what the model answered."""

    def __init__(self, *worths: float, picture: str = "") -> None:
        self.worths, self.picture, self.answers = list(worths), picture, list[str]()

    def __call__(self, llava: Llava) -> float:
        if self.picture:
            query = Query((self.picture,), "Describe the image.")
            self.answers += [r.text for r in Generator(llava).generate([query], Decoding(max_new_tokens=8))]
        return self.worths.pop(0)


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def weights(directory: Path) -> list[torch.Tensor]:
    return [p.detach() for p in load(directory).model.parameters()]


def same(a: Path, b: Path) -> bool:
    return all(map(torch.equal, weights(a), weights(b)))


def test_the_best_by_the_judge_s_word_is_kept_and_the_run_stops_after_looks_in_vain(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path / "pictures", WORDS)
    config = dataclasses.replace(EVERY_TWO, patience=2, eval_rows=2)
    judge = Says(0.1, 0.9, 0.5, 0.6)
    made = train(config, tiny_llava(tmp_path), rows, tmp_path / "out", judge=judge)
    told = {
        line["step"]: line["held_out_quality"] for line in lines(tmp_path / "out") if line["step"] % 2 == 0
    }
    assert told == {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.6}
    assert (made["steps"], made["best_step"], made["held_out_quality"]) == (8, 4, 0.9)
    assert made["held_out_loss"] == lines(tmp_path / "out")[3]["held_out_loss"]  # of the same step
    assert not same(tmp_path / "out/best", tmp_path / "out/model")


def test_a_model_that_answers_while_it_learns_learns_the_same(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path / "pictures", WORDS)
    judge = Says(*range(6), picture=rows[0].images[0])
    train(EVERY_TWO, tiny_llava(tmp_path), rows, tmp_path / "judged", judge=judge)
    train(EVERY_TWO, tiny_llava(tmp_path / "b"), rows, tmp_path / "alone")
    assert same(tmp_path / "judged/model", tmp_path / "alone/model")
    query = Query((rows[0].images[0],), "Describe the image.")
    (reply,) = Generator(load(tmp_path / "judged/model")).generate([query], Decoding(max_new_tokens=8))
    assert judge.answers[-1] == reply.text  # what it says within the loop is what it says when loaded
    assert not (tmp_path / "judged/best").exists()


def test_a_run_that_stopped_early_goes_on_to_the_same_end_after_a_kill(tmp_path: Path) -> None:
    rows = caption_rows(tmp_path / "pictures", WORDS)
    config = dataclasses.replace(EVERY_TWO, patience=2)

    def kill(line: dict[str, Any], _total: int) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt

    train(config, tiny_llava(tmp_path), rows, tmp_path / "whole", judge=Says(0.1, 0.9, 0.5, 0.6))
    start = tiny_llava(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        train(config, start, rows, tmp_path / "killed", kill, judge=Says(0.1, 0.9, 0.5))
    made = train(config, tiny_llava(tmp_path / "c"), rows, tmp_path / "killed", judge=Says(0.6))
    assert (made["steps"], made["best_step"]) == (8, 4)
    for name in ("best", "model"):
        assert same(tmp_path / "killed" / name, tmp_path / "whole" / name)
