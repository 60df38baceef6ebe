"""Pages of preference studies: for who holds one, and for raters, who come by a link of their own.

A rater's pages know trials by number. Which layer stands where is looked up here, when the vote is written.
"""

import json
import re
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from sharecap.errors import SharecapError, UsageError
from sharecap.images.place import place_of
from sharecap.web.gallery import drawn
from sharecap.web.outcome import outcome_of
from sharecap.web.room import Room, away, form, page, room_of, whole
from sharecap.web.study import (
    Study,
    as_csv,
    as_label_studio,
    by_token,
    create,
    open_study,
    studies,
    vote,
    votes,
)

router = APIRouter()

_ANSWERS: dict[str, Literal["left", "right", "tie"]] = {"1": "left", "2": "right", "0": "tie"}
"""What a rater presses, and what it says."""


@router.get("/studies", response_class=HTMLResponse)
def overview(request: Request) -> HTMLResponse:
    """All studies, and the form for a new one."""
    room = room_of(request)
    names = [name for name in room.index.layers() if name != "alt-text"]
    return page(request, "studies.html.j2", studies=studies(room.dataset), layers=names)


@router.post("/studies", response_class=HTMLResponse)
async def new(request: Request) -> Response:
    """Draw a study."""
    room, fields = room_of(request), await form(request)
    layers = [fields[k] for k in ("a", "b", "c") if fields.get(k)]
    raters = fields.get("raters", "").replace(",", "\n").splitlines()
    try:
        images, repeats, seed = (
            int(fields.get(k) or d) for k, d in (("images", 50), ("repeats", 5), ("seed", 0))
        )
    except ValueError:
        raise UsageError("images, repeats and seed are whole numbers") from None

    def work() -> Study:
        name = fields.get("name", "")
        return create(room.dataset, name, layers, raters, images=images, repeats=repeats, seed=seed)

    made = await away(work)
    return Response(headers={"hx-redirect": f"/studies/{made.name}"})


@router.get("/studies/{name}", response_class=HTMLResponse)
def one_study(request: Request, name: str) -> HTMLResponse:
    """Links, progress and results of a study."""
    room = room_of(request)
    study = open_study(room.dataset, name)
    cast = votes(study)
    here = f"{request.url.scheme}://{request.headers.get('host', '')}"  # as who sends the links found it
    progress = [
        (rater, f"{here}/rate/{token}", sum(v.rater == rater for v in cast), len(study.trials(rater)))
        for token, rater in study.raters.items()
    ]
    found = outcome_of(study, cast, lambda image, layer: room.index.score(layer, image))
    return page(request, "study.html.j2", study=study, progress=progress, votes=len(cast), found=found)


@router.get("/studies/{name}/votes.csv")
def download_csv(request: Request, name: str) -> Response:
    """The votes as a table."""
    study = open_study(room_of(request).dataset, name)
    headers = {"content-disposition": f'attachment; filename="{study.name}.csv"'}
    return PlainTextResponse(as_csv(study), headers=headers, media_type="text/csv")


@router.get("/studies/{name}/label-studio.json")
def download_label_studio(request: Request, name: str) -> Response:
    """The votes as Label Studio's tasks."""
    room = room_of(request)
    study = open_study(room.dataset, name)
    places = {}
    for image_id in {pair.image_id for pair in study.pairs}:
        at = room.index.at_of(image_id)
        image = room.index.image(at) if at is not None else None
        if image is not None:
            places[image_id] = place_of(image)
    headers = {"content-disposition": f'attachment; filename="{study.name}.json"'}
    text = json.dumps(as_label_studio(study, places), ensure_ascii=True, indent=1)
    return Response(text, headers=headers, media_type="application/json")


def _rater(room: Room, token: str) -> tuple[Study, str]:
    found = by_token(room.dataset, token)
    if found is None:
        raise UsageError("no such link", todo="ask who sent it to you for a new one")
    return found


@router.get("/rate/{token}", response_class=HTMLResponse)
def rate(request: Request, token: str, trial: int | None = None) -> HTMLResponse:
    """The first open question, or one that is looked at again."""
    study, rater = _rater(room_of(request), token)
    return page(request, "rate.html.j2", token=token, **_question(study, rater, trial))


@router.post("/rate/{token}", response_class=HTMLResponse)
async def rated(request: Request, token: str) -> HTMLResponse:
    """Take a vote; answers with the next question."""
    room, fields = room_of(request), await form(request)

    def work() -> dict[str, Any]:
        study, rater = _rater(room, token)
        choice = _ANSWERS.get(fields.get("choice", ""))
        if choice is None:
            raise UsageError("answer with 1, 2 or 0")
        spent = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", fields.get("seconds", ""))
        vote(study, rater, whole(fields.get("trial", "")), choice, float(spent[0]) if spent else 0.0)
        return _question(study, rater, None)

    return page(request, "question.html.j2", token=token, **await away(work))


@router.get("/rate/{token}/picture/{trial}")
def rated_picture(request: Request, token: str, trial: int) -> Response:
    """The picture of a question, by the question's number."""
    room = room_of(request)
    study, rater = _rater(room, token)
    trials = study.trials(rater)
    if not 0 <= trial < len(trials):
        raise UsageError("no such question")
    at = room.index.at_of(study.pairs[trials[trial].pair].image_id)
    image = room.index.image(at) if at is not None else None
    if image is None:
        raise SharecapError("the image is not in the dataset any more")
    return drawn(room, image, "large")


def _question(study: Study, rater: str, trial: int | None) -> dict[str, Any]:
    """What a rater sees: a number, two texts, and how far they are."""
    trials = study.trials(rater)
    cast = {v.trial: v.choice for v in votes(study) if v.rater == rater}
    left_open = [n for n in range(len(trials)) if n not in cast]
    number = trial if trial is not None and 0 <= trial < len(trials) else next(iter(left_open), None)
    facts: dict[str, Any] = {"number": number, "done": len(cast), "total": len(trials), "given": ""}
    if number is None:
        return facts
    asked = trials[number]
    texts = study.pairs[asked.pair].texts
    given = next((key for key, choice in _ANSWERS.items() if choice == cast.get(number)), "")
    before = number - 1 if number else None
    return facts | {"texts": (texts[asked.left], texts[1 - asked.left]), "given": given, "before": before}
