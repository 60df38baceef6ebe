"""The model card says how the model was made, and nothing from outside becomes markup."""

import yaml

from sharecap.model.card import Score, card

MANIFEST = {
    "config": {
        "stage": "pretrain",
        "language": "/home/me/models/vicuna",
        "template": "plain",
        "rules": [{"part": "vision", "from_block": 12}],
        "betas": [0.9, 0.999],
    },
    "inputs": {"rows": "ab" * 32},
    "metrics": {"final_loss": 1.23456789, "held_out_loss": None, "seconds": 123.0},
    "code_version": "0.1.0",
}


def test_the_card_holds_recipe_inputs_outcome_and_scores() -> None:
    text = card("My model", [MANIFEST], [Score("MMBench", "accuracy", 0.688, 0.67, 0.7, 1000)], "llama2")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "llama2",
    }
    assert "| MMBench, accuracy (1,000 items) | 0.688 (0.67 to 0.7) |" in text
    assert r"| rules\[0\]\.from\_block | 12 |" in text
    assert r"| betas | 0\.9, 0\.999 |" in text
    assert f"| rows | {'ab' * 32} |" in text
    assert r"| final\_loss | 1\.23457 |" in text
    assert "### 1. pretrain" in text
    assert "held" not in text


def test_equal_runs_give_equal_cards_wherever_they_lay() -> None:
    text = card("m", [MANIFEST])
    assert "seconds" not in text
    assert "/home" not in text
    assert "| language | vicuna |" in text


def test_hostile_words_stay_words() -> None:
    evil = 'a|b\n---\n<script>x</script> [l](http://e) `c` ![i](j) "q": 1'
    stage = MANIFEST | {
        "config": {"stage": evil, evil: evil},
        "inputs": {evil: evil},
        "metrics": {"parameters": {evil: evil}},
    }
    text = card(evil, [stage], [Score(evil, evil, 1, 0, 2, 3)], evil)
    assert yaml.safe_load(text.split("---\n")[1])["license"] == " ".join(evil.split())
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    for line in body.splitlines():
        if line.startswith("|") and "script" in line:
            assert line.replace("\\|", "").count("|") == 3  # two cells, whatever is in them
    for raw in ("[l](", "`c`", "![i]"):
        assert raw not in body


def test_what_nobody_knows_the_card_says_plainly() -> None:
    text = card("m", [])
    assert "## Scores\n\nNot measured.\n" in text
    assert "## Licence\n\nNot stated. It follows" in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "unknown"
