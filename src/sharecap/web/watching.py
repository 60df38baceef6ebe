"""Pages that watch runs and try models."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from sharecap.captions.captioner import Request as Question
from sharecap.errors import UsageError
from sharecap.records import Image
from sharecap.web.ask import SAMPLING, answer
from sharecap.web.room import Room, away, form, page, room_of, whole
from sharecap.web.runs import CURVES, caption_runs, plot

router = APIRouter()


@router.get("/runs", response_class=HTMLResponse)
def runs(request: Request) -> HTMLResponse:
    """Runs as they are; the page asks for `/runs/now` every two seconds."""
    return page(request, "runs.html.j2", **_now(room_of(request), request))


@router.get("/runs/now", response_class=HTMLResponse)
def runs_now(request: Request) -> HTMLResponse:
    """The part of the page that changes."""
    return page(request, "runs_now.html.j2", **_now(room_of(request), request))


def _now(room: Room, request: Request) -> dict[str, Any]:
    chosen = set(request.query_params.getlist("run"))
    trainings = room.trainings.now()
    shown = [run for run in trainings if not chosen or run.name in chosen][-8:]
    plots = [one for key, title in CURVES.items() if (one := plot(shown, key, title))]
    about = {"trainings": trainings, "chosen": chosen, "plots": plots}
    return {"captions": caption_runs(room.dataset), "now": time.strftime("%H:%M:%S"), **about}


@router.get("/ask", response_class=HTMLResponse)
def ask(request: Request, image: str = "") -> HTMLResponse:
    """The form; `image` is the one that is asked about."""
    room = room_of(request)
    about = _image(room, image) if image else room.index.image(0)
    return page(request, "ask.html.j2", models=[m.name for m in room.models], image=about)


@router.post("/ask")
async def asked(request: Request) -> Response:
    """One model's answer, as it comes."""
    room, fields = room_of(request), await form(request)
    number = whole(fields.get("model", ""))
    if number >= len(room.models):
        raise UsageError("no such model", todo="start the page with --model")
    image = await away(_image, room, fields.get("image", ""))
    question = Question(image, fields.get("question", ""), SAMPLING)
    words = answer(room.models[number], question)
    return StreamingResponse(
        words, media_type="text/plain; charset=utf-8", headers={"cache-control": "no-store"}
    )


def _image(room: Room, image_id: str) -> Image:
    at = room.index.at_of(image_id)
    image = room.index.image(at) if at is not None else None
    if image is None:
        raise UsageError("no such image in this dataset", where=image_id[:80])
    return image
