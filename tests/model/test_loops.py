"""Replies that go round in circles are led out of them; all others keep their bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharecap.captions.verdict import is_loop
from sharecap.model.build import Llava
from sharecap.model.folder import save
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.model.loops import FEWEST, Loops

from .tiny import picture, tiny_llava

FIRST = "The background is white:"
LOOP = "there is a red circle, and a blue square above it;"
REST = "on the left 3 small stars."
ASKED = "Describe the image."
ANY = Decoding(max_new_tokens=120)
FREE = replace(ANY, leaves_loops=True)


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    """Says one sentence again and again, since that is always the likeliest; it could also go on and end."""
    place = tmp_path_factory.mktemp("looping")
    llava = tiny_llava(place)
    save(llava, place / "blank")  # gives the processor its template
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}
    asked = llava.processor.apply_chat_template([turn], add_generation_prompt=True)
    ends = (f"{' '.join([FIRST, *[LOOP] * times])} {REST}</s>" for times in (2, 3))
    said = [*[" ".join([FIRST, *[LOOP] * 7])] * 3, *ends]
    inputs = llava.processor(
        images=[picture(0)] * len(said),
        text=[f"{asked} {words}" for words in said],
        return_tensors="pt",
        padding=True,
    )
    before = llava.processor(images=picture(0), text=asked, return_tensors="pt")["input_ids"].shape[1]
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :before] = -100
    optimizer = torch.optim.AdamW(llava.model.parameters(), lr=1e-2)
    for _ in range(50):
        llava.model(**inputs, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return llava


def test_a_model_in_a_loop_finds_its_way_to_the_end(looping: Llava) -> None:
    queries = [Query((picture(0),), ASKED)]
    (stuck,) = Generator(looping, 1).generate(queries, ANY)
    assert (stuck.finish_reason, is_loop(stuck.text)) == ("length", True)
    (free,) = Generator(looping, 1).generate(queries, FREE)
    assert (free.finish_reason, free.text) == ("stop", f"{FIRST} {LOOP} {LOOP} {REST}")
    assert not is_loop(free.text)


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_what_becomes_of_a_loop_depends_on_nothing_beside_it(looping: Llava, temperature: float) -> None:
    queries = [Query((picture(i),), ASKED) for i in range(5)]
    how = replace(FREE, temperature=temperature, chances=True)
    together = Generator(looping, 4).generate(queries, how)
    assert together == Generator(looping, 4).generate(queries[::-1], how)[::-1]
    assert any(
        a.text != b.text for a, b in zip(together, Generator(looping, 4).generate(queries, ANY), strict=True)
    )


def test_replies_without_a_loop_keep_their_bits(looping: Llava) -> None:
    with torch.no_grad():  # it ends now before it can go round
        pushed = looping.model.lm_head.weight.clone()
        looping.model.lm_head.weight[looping.config.eos_token_id] *= 3
    try:
        queries = [Query((picture(i),), f"{ASKED} {i}") for i in range(8)]
        for temperature in (0.0, 1.0):
            how = replace(ANY, temperature=temperature, chances=True)
            plain = Generator(looping, 4).generate(queries, how)
            assert plain == Generator(looping, 4).generate(queries, replace(how, leaves_loops=True))
            assert sum(reply.usage.completion_tokens for reply in plain) > 2 * len(plain)
    finally:
        with torch.no_grad():
            looping.model.lm_head.weight.copy_(pushed)


def tokens_of(pieces: list[int], sure: list[float] | None = None) -> list[int]:
    """What a model that wants to say `pieces` is not let say: the places of these tokens."""
    loops, barred = Loops(1, len(pieces)), []
    for place, token in enumerate(pieces):
        if loops.left(torch.zeros(1, 99), [0], [place])[0, token].isinf():
            barred.append(place)
        how_sure = np.array([0.9 if sure is None else sure[place]], dtype=np.float32)
        loops.hear([0], [place], np.array([token]), how_sure)
    return barred


def test_only_a_block_that_came_twice_word_for_word_is_a_loop() -> None:
    block = list(range(1, 15))
    changed = [*block[:5], 50, *block[6:]]
    assert tokens_of([0, *block, *block]) == []
    assert (
        tokens_of([0, *block, *changed, *block, *changed[:8]]) == []
    )  # "on the left ...", "on the right ..."
    assert tokens_of([0, *block, *block, *block])[0] == 1 + 2 * len(block)
    assert tokens_of([7] * 30)[0] == 1 + FEWEST


def test_a_loop_is_left_where_the_model_was_least_sure() -> None:
    block = list(range(1, 15))
    sure = [0.9] * 43
    sure[1 + 14 + 4] = 0.4
    assert tokens_of([0, *block, *block, *block], sure)[0] == 1 + 28 + 4
