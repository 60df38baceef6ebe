"""The model card says how the model was made, and nothing from outside becomes markup."""

import yaml

from sharecap.model.card import Score, card

MANIFEST = {
    "kind": "train",
    "config": {"template": "plain", "rules": [{"part": "vision", "from_block": 12}], "betas": [0.9, 0.999]},
    "inputs": {"rows": "ab" * 32},
    "metrics": {"final_loss": 1.23456789, "dropped": None},
    "digest": "cd" * 32,
    "finished": "2026-11-27T00:00:00.000+00:00",
    "code_version": "0.1.0",
}


def test_the_card_holds_recipe_inputs_outcome_and_scores() -> None:
    text = card("My model", "llama2", [MANIFEST], [Score("MMBench", "accuracy", 0.688, 0.67, 0.7, 1000)])
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "llama2",
    }
    assert "| MMBench, accuracy of 1,000 questions | 0.688 (0.67 to 0.7) |" in text
    assert r"| rules\[0\]\.from\_block | 12 |" in text
    assert r"| betas | 0\.9, 0\.999 |" in text
    assert f"| rows | {'ab' * 32} |" in text
    assert r"| final\_loss | 1\.23457 |" in text
    assert "dropped" not in text


def test_hostile_words_stay_words() -> None:
    evil = 'a|b\n---\n<script>x</script> [l](http://e) `c` ![i](j) "q": 1'
    stage = MANIFEST | {"kind": evil, "config": {evil: evil}, "inputs": {evil: evil}, "metrics": {evil: evil}}
    text = card(evil, evil, [stage], [Score(evil, evil, 1, 0, 2, 3)])
    assert yaml.safe_load(text.split("---\n")[1])["license"] == " ".join(evil.split())
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    for line in body.splitlines():
        if line.startswith("|") and "script" in line:
            assert line.replace("\\|", "").count("|") == 3  # two cells, whatever is in them
    for raw in ("[l](", "`c`", "![i]"):
        assert raw not in body


def test_without_scores_the_card_says_so() -> None:
    assert "## Scores\n\nNot measured.\n" in card("m", "mit", [], [])
