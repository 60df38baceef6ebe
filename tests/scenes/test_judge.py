"""The simulator as a judge: right about everything it can read, wrong as often as it is told to be."""

import random

import pytest

from sharecap.captions.sentences import sentences
from sharecap.quality import wording
from sharecap.scenes.facts import CLAIMS, stated, truth
from sharecap.scenes.judge import claims_of, judgement, true_verdict
from sharecap.scenes.language import TOPICS, describe, misremember
from sharecap.scenes.world import Scene, WorldSpec, imagine

SCENES = [imagine(WorldSpec(seed=3), index) for index in range(60)]


def asked(prompt: str, scene: Scene | None = None, errors: float = 0.0, seed: int = 0) -> str:
    said = judgement(prompt, scene, random.Random(seed), errors)
    assert said is not None
    return said


def test_every_fact_of_a_caption_is_one_claim_that_states_it_alone() -> None:
    kinds = set()
    for n, scene in enumerate(SCENES):
        for sentence in sentences(describe(scene, TOPICS, random.Random(n), 0.2)):
            facts = {one.fact for one in stated(sentence)}
            claims = claims_of(sentence)
            assert [{one.fact for one in stated(claim)} for claim in claims] == [
                {fact} for fact in dict.fromkeys(one.fact for one in stated(sentence))
            ]
            kinds |= {fact[0] for fact in facts}
    assert kinds == set(CLAIMS) - {"thing"}
    assert claims_of("There is a red star.") == ["There is a red star."]


def test_what_is_true_is_supported_and_what_no_picture_shows_can_not_be_told() -> None:
    for scene in SCENES:
        for fact in truth(scene):
            verdict = true_verdict(CLAIMS[fact[0]].format(*fact[1:]), scene)
            assert verdict == ("unverifiable" if fact[0] == "renown" else "supported")
        wrong = truth(misremember(scene, random.Random(0), 0.5)) - truth(scene)
        for fact in wrong:
            verdict = true_verdict(CLAIMS[fact[0]].format(*fact[1:]), scene)
            assert verdict == ("unverifiable" if fact[0] == "renown" else "contradicted")
    assert true_verdict("It is a calm and pleasant day.", SCENES[0]) == "unverifiable"


def test_its_answers_are_read_by_the_rules_that_read_any_judge_s() -> None:
    scene = SCENES[0]
    caption = describe(scene, TOPICS, random.Random(0))
    texts = sentences(caption)
    claims = wording.read_claims(asked(wording.split_prompt(texts)), len(texts))
    assert claims
    assert all(wording.read_verdict(asked(wording.check_prompt(c), scene)) == "supported" for _, c in claims)
    questions = wording.read_questions(asked(wording.write_prompt(9), scene), 9)
    assert questions
    for one in questions:
        letter = asked(wording.answer_prompt(caption, one.text, one.options))
        assert letter in (one.right, wording.NOT_TOLD), one
    assert asked(wording.prefer_prompt(caption, "It is a picture."), scene) == "1"
    assert asked(wording.prefer_prompt("It is a picture.", caption), scene) == "2"
    assert asked(wording.prefer_prompt(caption, caption), scene) == "0"


def test_it_errs_at_the_rate_it_is_told() -> None:
    claim = wording.check_prompt(CLAIMS["background"].format(SCENES[0].background))
    said = [asked(claim, SCENES[0], 0.2, seed) for seed in range(1000)]
    assert said.count("supported") == pytest.approx(800, abs=40)
    assert said.count("contradicted") == pytest.approx(100, abs=30)


def test_a_caption_s_question_is_no_judge_s_and_needs_a_picture() -> None:
    assert judgement("Describe the picture.", SCENES[0], random.Random(0), 0.0) is None
    assert judgement(wording.check_prompt("A dog."), None, random.Random(0), 0.0) is None
    assert judgement(wording.split_prompt(["A dog."]), None, random.Random(0), 0.0) is not None
