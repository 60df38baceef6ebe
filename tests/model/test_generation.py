"""Our loop says what transformers' `generate` says, whatever the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sharecap.errors import SharecapError
from sharecap.images.decode import ImageError
from sharecap.model import generation
from sharecap.model.build import Llava
from sharecap.model.cohorts import alike
from sharecap.model.folder import load, save
from sharecap.model.generation import Choice, Decoding, Generator, Query, Reply
from sharecap.records import Usage
from tests.model.tiny import picture, sentencepiece, tiny_llava

TEXTS = [
    "Describe the image.",
    "Is there a circle?",
    "How many squares are there? Yes, No. What colour?",
    "Red?",
]
QUERIES = [Query((picture(i),), TEXTS[i % len(TEXTS)]) for i in range(9)] + [Query((), "What colour is it?")]


def eager_to_stop(llava: Llava, push: float) -> Llava:
    """The stop token made likelier, so that random models end some replies."""
    with torch.no_grad():
        llava.model.lm_head.weight[llava.config.eos_token_id] *= push
    return llava


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Llava:
    return eager_to_stop(tiny_llava(tmp_path_factory.mktemp("tiny")), 2)


def by_transformers(llava: Llava, query: Query, decoding: Decoding) -> Reply:
    """The same reply by plain `generate`, one query at a time."""
    content: list[dict[str, str]] = [{"type": "image"}] * len(query.images) + [
        {"type": "text", "text": query.text}
    ]
    text = llava.processor.apply_chat_template([{"role": "user", "content": content}])
    inputs = llava.processor(images=list(query.images) or None, text=text, return_tensors="pt")
    with torch.no_grad():
        ids = llava.model.generate(**inputs, max_new_tokens=decoding.max_new_tokens, do_sample=False)
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    stopped = new[-1] == llava.config.eos_token_id
    said = llava.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    return Reply(said, "stop" if stopped else "length", Usage(inputs["input_ids"].shape[1], len(new)))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("alone", [True, False])
def test_greedy_replies_are_those_of_transformers_in_the_order_of_the_queries(
    llava: Llava, batch_size: int, alone: bool
) -> None:
    decoding = Decoding(max_new_tokens=24)
    replies = Generator(llava, batch_size, alone=alone).generate(QUERIES, decoding)
    assert replies == [by_transformers(llava, query, decoding) for query in QUERIES]
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}  # both ends are tried


def test_a_reply_tells_how_probable_its_tokens_were(llava: Llava) -> None:
    query = QUERIES[2]
    (reply,) = Generator(llava, 4).generate([query], Decoding(max_new_tokens=24, chances=True))
    content = [{"type": "image"}, {"type": "text", "text": query.text}]
    text = llava.processor.apply_chat_template([{"role": "user", "content": content}])
    inputs = llava.processor(images=list(query.images), text=text, return_tensors="pt")
    with torch.no_grad():
        out = llava.model.generate(
            **inputs, max_new_tokens=24, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
    theirs = [scores[0].softmax(-1).max().item() for scores in out.scores][: len(reply.chances)]
    assert [chance for _, chance in reply.chances] == pytest.approx(theirs, abs=1e-5)
    ends = [end for end, _ in reply.chances]
    assert ends == sorted(ends)
    assert ends[-1] == len(reply.text)


def test_a_start_token_and_shared_heads_change_nothing(tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path, sentencepiece(), num_attention_heads=4, num_key_value_heads=2)
    decoding = Decoding(max_new_tokens=12)
    assert Generator(llava, 4).generate(QUERIES[:4], decoding) == [
        by_transformers(llava, query, decoding) for query in QUERIES[:4]
    ]


def test_sampling_depends_on_query_and_seed_alone(llava: Llava) -> None:
    decoding = Decoding(max_new_tokens=16, temperature=1.0, top_p=0.95, seed=3)
    together = Generator(llava, 16).generate(QUERIES, decoding)
    backwards = Generator(llava, 3).generate(QUERIES[::-1], decoding)[::-1]
    assert together == backwards
    other = Generator(llava, 16).generate(QUERIES, Decoding(max_new_tokens=16, temperature=1.0, seed=4))
    assert sum(a.text != b.text for a, b in zip(together, other, strict=True)) > 5


def test_sampling_from_a_tiny_nucleus_or_a_cold_model_is_greedy(llava: Llava) -> None:
    greedy = Generator(llava, 4).generate(QUERIES, Decoding(max_new_tokens=8))
    assert greedy == Generator(llava, 4).generate(
        QUERIES, Decoding(max_new_tokens=8, temperature=1.0, top_p=1e-6)
    )
    assert greedy == Generator(llava, 4).generate(QUERIES, Decoding(max_new_tokens=8, temperature=1e-4))


def test_sampling_follows_the_models_probabilities(llava: Llava) -> None:
    queries = [Query((), f"Red? {i}") for i in range(400)]
    generator = Generator(llava, 400)
    replies = generator.generate(queries, Decoding(max_new_tokens=1, temperature=1.0))
    prompts = [llava.processor.apply_chat_template([{"role": "user", "content": q.text}]) for q in queries]
    stop = 0.0
    for text in prompts[:: len(prompts) // 20]:
        with torch.no_grad():
            last = llava.model(**llava.processor(text=text, return_tensors="pt")).logits[0, -1]
        stop += last.softmax(-1)[llava.config.eos_token_id].item() / 20
    share = sum(reply.finish_reason == "stop" for reply in replies) / len(replies)
    assert share == pytest.approx(stop, abs=4 * (stop * (1 - stop) / 400) ** 0.5 + 0.01)


def test_the_plain_template_captions_without_a_question_and_stops_at_the_line_end(tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path, parts={"template": "plain"})
    generator = Generator(llava, 4)
    with torch.no_grad():
        llava.model.lm_head.weight[generator.cutter.stop] *= 20
    replies = generator.generate(
        [Query((picture(0),), "A"), Query((picture(0),), "B")], Decoding(max_new_tokens=30)
    )
    assert replies[0] == replies[1]
    assert replies[0].usage.prompt_tokens == llava.image_tokens
    assert replies[0].finish_reason == "stop"
    assert "\n" not in replies[0].text
    save(llava, tmp_path / "model")
    plain = load(tmp_path / "model")
    inputs = plain.processor(images=picture(0), text="<image>", return_tensors="pt")
    ids = plain.model.generate(**inputs, max_new_tokens=30, do_sample=False)  # stops at the line end as well
    assert plain.tokenizer.decode(ids[0, llava.image_tokens :]).strip() == replies[0].text


def test_a_reply_ends_at_the_model_s_own_end_tokens_too(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(max_new_tokens=24)
    before = Generator(llava, 4).generate(QUERIES, decoding)
    said = llava.tokenizer(before[0].text, add_special_tokens=False)["input_ids"]
    own, configured = int(said[len(said) // 2]), llava.model.generation_config
    monkeypatch.setattr(configured, "eos_token_id", [configured.eos_token_id, own])
    replies = Generator(llava, 4).generate(QUERIES, decoding)
    theirs = [by_transformers(llava, query, decoding) for query in QUERIES]
    assert [reply.usage for reply in replies] == [reply.usage for reply in theirs]
    assert before[0].text.startswith(replies[0].text)
    assert len(replies[0].text) < len(before[0].text)
    assert replies[0].finish_reason == "stop"
    monkeypatch.setattr(configured, "eos_token_id", own)  # the template's own end stays one
    assert Generator(llava, 4).generate(QUERIES, decoding) == replies


def test_a_query_may_bound_its_own_reply(llava: Llava) -> None:
    queries = [Query(query.images, query.text, 1 + i % 5) for i, query in enumerate(QUERIES)]
    whole = Generator(llava, 3).generate(QUERIES, Decoding(max_new_tokens=24))
    replies = Generator(llava, 3).generate(queries, Decoding(max_new_tokens=24))
    bounds = [min(1 + i % 5, reply.usage.completion_tokens) for i, reply in enumerate(whole)]
    assert [reply.usage.completion_tokens for reply in replies] == bounds


def test_no_queries_no_replies(llava: Llava) -> None:
    assert Generator(llava).generate([], Decoding()) == []


def test_pictures_may_be_files_and_a_broken_one_is_named(llava: Llava, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    generator = Generator(llava, 4)
    decoding = Decoding(max_new_tokens=6)
    named = [Query((str(tmp_path / "0.png"),), TEXTS[0]), Query((tmp_path / "0.png",), TEXTS[0])]
    assert generator.generate(named, decoding) == generator.generate(QUERIES[:1] * 2, decoding)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1\.png"):
        generator.generate([Query((tmp_path / "1.png",), TEXTS[0])], decoding)


def test_a_query_too_long_for_the_model_is_refused(llava: Llava) -> None:
    with pytest.raises(
        SharecapError, match=r"\d+ tokens where the model has 512 places, for the answer too: query 1"
    ):
        Generator(llava).generate([QUERIES[0], Query((), "very " * 600)], Decoding(max_new_tokens=10))


def test_a_query_that_can_not_be_put_is_an_error_in_its_place_and_no_other_s(llava: Llava) -> None:
    decoding = Decoding(max_new_tokens=10)
    bad = (Query((), "very " * 600), Query((), "Red? </s>"), Query((picture(0),), "<image> or <image>?"))
    asked = [*QUERIES[:2], bad[0], *QUERIES[2:4], *bad[1:]]
    found = Generator(llava, 4).outcomes(asked, decoding)
    wrong = [str(one) for one in found if isinstance(one, SharecapError)]
    assert [one for one in found if isinstance(one, Reply)] == Generator(llava, 4).generate(
        QUERIES[:4], decoding
    )
    assert [isinstance(one, Reply) for one in found] == [query not in bad for query in asked]
    assert all(word in line for word, line in zip(("places", "</s>", "1 images"), wrong, strict=True))


def test_a_reply_ends_where_the_model_has_no_place_left(llava: Llava) -> None:
    long = Query((), "very " * 90)
    long_reply, short_reply = Generator(llava).generate([long, QUERIES[0]], Decoding(max_new_tokens=10**9))
    assert long_reply.finish_reason == "length"
    assert long_reply.usage.prompt_tokens + long_reply.usage.completion_tokens == 512
    assert [short_reply] == Generator(llava).generate(QUERIES[:1], Decoding(max_new_tokens=400))


def test_a_directory_that_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SharecapError, match="not a model"):
        Generator.load(tmp_path)


@pytest.mark.parametrize(("temperature", "batch_size", "count"), [(0.0, 6, 14), (1.0, 6, 14), (1.0, 40, 44)])
def test_a_reply_has_the_same_bits_whatever_is_asked_beside_it(
    llava: Llava, temperature: float, batch_size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of every token, not the tokens alone, in three orders and with no neighbour at all."""
    decoding = Decoding(max_new_tokens=170, temperature=temperature, seed=1)
    of = Choice.of

    def logits_of(queries: list[Query]) -> dict[str, list[bytes]]:
        kept: dict[str, list[bytes]] = {}

        def spy(self: Choice, logits: torch.Tensor, rows: list[int], places: list[int]) -> torch.Tensor:
            for row, i, place in zip(logits, rows, places, strict=True):
                if place == len(kept.setdefault(self.queries[i].text, [])):
                    kept[self.queries[i].text].append(row.numpy().tobytes())
            return of(self, logits, rows, places)

        monkeypatch.setattr(Choice, "of", spy)
        Generator(llava, batch_size).generate(queries, decoding)
        return kept

    queries = [Query((picture(i),), "Red? " * (1 + i % 4) + str(i)) for i in range(count)]
    together = logits_of(queries)
    assert sum(map(len, together.values())) > count * 10
    assert logits_of(queries[::-1]) == together
    assert logits_of(queries[5:] + queries[:5]) == together
    for query in queries[:4]:
        assert logits_of([query])[query.text] == together[query.text]


def test_a_step_takes_fewer_rows_only_where_every_product_has_the_same_bits(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.nn.Linear.forward

    def forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        bump = 1e-7 if len(x) in wrong and self is llava.model.lm_head else 0.0
        return real(self, x) + bump * (torch.arange(len(x)) == len(x) - 1)[:, None]  # in its last row only

    wrong: tuple[int, ...] = ()
    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    before = alike(llava.model, 70)
    assert before[-1] == 70
    assert set(before) <= {16, 32, 48, 64, 70}
    wrong = (16, 48)
    assert alike(llava.model, 70) == [n for n in before if n not in wrong]
    wrong = (70,)
    assert alike(llava.model, 70) == [70]
    assert alike(llava.model, 7) == [7]


def test_rows_that_do_not_fit_the_memory_are_halved_and_nothing_is_lost(
    llava: Llava, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = generation.write

    def write(model: Any, cohorts: Any, rows: int) -> torch.Tensor:
        tried.append(rows)
        if rows > room:
            raise torch.OutOfMemoryError
        return real(model, cohorts, rows)

    monkeypatch.setattr(generation, "write", write)
    decoding, room = Decoding(max_new_tokens=8), 3
    generator = Generator(llava, 16)
    replies = generator.generate(QUERIES, decoding)
    assert (generator.batch_size, tried[:3]) == (2, [16, 8, 4])
    assert [r.text for r in replies] == [r.text for r in Generator(llava, 2).generate(QUERIES, decoding)]
    room = 0
    with pytest.raises(SharecapError, match="not enough memory for one reply"):
        generator.generate(QUERIES, decoding)
