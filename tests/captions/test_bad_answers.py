"""Bad server answers: whatever comes back, the image ends as a named failure and the others are captioned."""

import json
import random
from pathlib import Path

import pytest

from sharecap.captions.courier import Patience
from sharecap.captions.price import Price
from sharecap.captions.run import run
from sharecap.errors import SharecapError

from .conftest import Typed
from .server import Teacher

QUICK = Patience(tries=2, base_s=0.001, cap_s=0.002)


def said(message: object, finish: object = "stop", usage: object = None) -> str:
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return "raw=" + json.dumps({"choices": choices, "usage": usage})


GOOD = {"role": "assistant", "content": "A red boat lies on the water."}

BAD = {
    "nothing": ("raw=", "malformed"),
    "no JSON": ("raw=Service ready.", "malformed"),
    "half a JSON": ('raw={"choices": [{"mess', "malformed"),
    "a JSON list": ("raw=[1, 2]", "malformed"),
    "a JSON number": ("raw=7", "malformed"),
    "null": ("raw=null", "malformed"),
    "HTML with status 200": ("html", "malformed"),
    "bytes that are no text": ("latin", "malformed"),
    "endless nesting": ("raw=" + "[" * 100_000, "malformed"),
    "no choices": ('raw={"id": "x"}', "malformed"),
    "empty choices": ('raw={"choices": []}', "malformed"),
    "choices of a wrong type": ('raw={"choices": "a boat"}', "malformed"),
    "no message": ('raw={"choices": [{"text": "a boat"}]}', "malformed"),
    "a message of a wrong type": (said("a boat"), "malformed"),
    "content as a number": (said({"content": 7}), "malformed"),
    "content as a list": (said({"content": [{"type": "text", "text": "a boat"}]}), "malformed"),
    "null content": (said({"content": None}), "empty"),
    "a finish reason of a wrong type": (said(GOOD, finish=3), "malformed"),
    "negative usage": (said(GOOD, usage={"prompt_tokens": -5, "completion_tokens": 3}), "malformed"),
    "usage beyond all measure": (
        said(GOOD, usage={"prompt_tokens": 10**30, "completion_tokens": 3}),
        "malformed",
    ),
    "usage of a wrong type": (said(GOOD, usage={"prompt_tokens": "many"}), "malformed"),
    "an event stream": ('raw=data: {"choices": [{"delta": {"content": "A"}}]}\n\n', "malformed"),
    "an error with status 200": ('raw={"error": {"message": "overloaded"}}', "malformed"),
    "half a stream": ("half", "dropped"),
    "a stream without end": ("flood", "malformed"),
    "a bomb": ("bomb", "malformed"),
    "a rejection without a body": ("418", "rejected"),
}


@pytest.mark.parametrize("answer", BAD)
def test_a_bad_answer_is_a_named_failure_of_its_image_alone(
    dataset: Path, teacher: Teacher, answer: str
) -> None:
    action, kind = BAD[answer]
    order: dict[str, int] = {}
    teacher.script = lambda seen: action if order.setdefault(seen.image, len(order)) == 2 else "ok"
    report = run(
        dataset,
        f"{teacher.url}#model",
        "sharegpt4v",
        "one",
        patience=QUICK,
        rng=random.Random(0),
        price=Price(1, 2),
    )
    assert (report.captions, report.failures) == (11, {kind: 1})
    assert report.cost_usd is not None
    assert report.cost_usd < 1


@pytest.mark.parametrize("status", ["301", "302", "307", "308"])
def test_a_redirect_stops_at_once_and_is_not_followed(dataset: Path, teacher: Teacher, status: str) -> None:
    teacher.script = lambda _: status
    with pytest.raises(SharecapError, match="redirects"):
        run(dataset, f"{teacher.url}#model", "sharegpt4v", "one", concurrency=1)
    assert len(teacher.log) == 1


def test_a_run_without_a_single_caption_ends_with_code_1_and_what_to_do(
    dataset: Path, teacher: Teacher, typed: Typed
) -> None:
    teacher.script = lambda _: "400"
    code, out, err = typed("caption", dataset, "--teacher", f"{teacher.url}#model", "--json")
    assert (code, json.loads(out)["captions"]) == (1, 0)
    assert "not one image got a caption" in err
    assert "--retry-failed" in err
