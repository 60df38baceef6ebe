"""Pages over the images: the gallery, one image beside all its layers, thumbnails, and edits by hand."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from sharecap.captions.diff import Change, word_changes
from sharecap.captions.layer import Missing
from sharecap.captions.sentences import pieces
from sharecap.errors import SharecapError, UsageError
from sharecap.images.decode import ImageError
from sharecap.images.place import place_of
from sharecap.records import Caption, Image
from sharecap.web.index import ALT_TEXT, DUPLICATE, LayerRow
from sharecap.web.query import ORDERS, STATES, Query, parse
from sharecap.web.review import Marks, shown
from sharecap.web.room import Room, away, form, page, printable, room_of, whole
from sharecap.web.thumbs import SIDES, shrunk

router = APIRouter()

FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}
"""An image's name is the digest of its bytes, so what it looks like never changes."""


SHOWN = 20_000
"""Characters of a caption that an image's page cuts into sentences and compares; no teacher says as much."""


@dataclass(frozen=True)
class Card:
    """One image of the gallery."""

    image: Image
    said: Caption | Missing | None
    marks: Marks
    text: str  # the caption as it is with edits


@dataclass(frozen=True)
class Sentence:
    """One sentence of a caption."""

    number: int  # 1 is the first
    was: str  # as it is sealed
    now: str  # with the edits
    gap: str  # white space after it
    verdict: str  # "right", "wrong" or ""
    changes: list[Change]  # from `was` to `now`, word by word; empty where it is as it was


@dataclass(frozen=True)
class Said:
    """What one layer says of an image, ready to be shown."""

    layer: LayerRow
    caption: Caption | Missing | None
    marks: Marks
    sentences: list[Sentence]
    changes: list[Change]  # against the layer looked at, word by word
    words: int
    unshown: int  # characters beyond `SHOWN`


@router.get("/", response_class=HTMLResponse)
def gallery(request: Request) -> HTMLResponse:
    """The first page, with filters around it."""
    room = room_of(request)
    room.refresh()
    return page(request, "gallery.html.j2", **_gallery(room, dict(request.query_params)))


@router.get("/page", response_class=HTMLResponse)
def next_page(request: Request) -> HTMLResponse:
    """A further page; with `inner` only its cards, for a page that had been emptied."""
    room, fields = room_of(request), dict(request.query_params)
    query = _query(room, fields)
    template = "cards.html.j2" if fields.get("inner") else "page.html.j2"
    return page(request, template, query=query, after=fields.get("after", ""), **_cards(room, query, fields))


@router.get("/found", response_class=HTMLResponse)
def found(request: Request) -> HTMLResponse:
    """How many images the query finds, and how far the index is."""
    room = room_of(request)
    query = _query(room, dict(request.query_params))
    marked = room.marked(query.layer) if query.state == "marked" else ()
    state = room.index.state()
    known = room.counts.get((state.content, query)) if query.state != "marked" else None
    count = room.finder.count(query, marked) if known is None else known
    if len(room.counts) >= 1_000:
        room.counts.clear()
    room.counts[state.content, query] = count
    failed, troubles = room.builder.trouble(), [room.named(one) for one in room.index.troubles()]
    about: dict[str, Any] = {"count": count, "state": state, "query": query, "troubles": troubles}
    return page(request, "found.html.j2", failed=room.named(failed), **about)


def _query(room: Room, fields: dict[str, str]) -> Query:
    """What the address asks for; without a word on the layer, the dataset's first."""
    names = list(room.index.layers())
    if not names or fields.get("layer", "") not in ("", *names):
        names = room.index.names()  # it may be sealed and not in yet
    return parse(fields, names)


def _gallery(room: Room, fields: dict[str, str]) -> dict[str, Any]:
    query = _query(room, fields)
    index = room.index
    flags = sorted({flag for words in index.words("flags").values() for flag in words.split()})
    lists = {
        "layers": index.names(),
        "sources": list(index.words("source").values()),
        "failures": list(index.words("failure").values()),
        "flags": flags,
    }
    choices: dict[str, Any] = {
        "writable": room.review.writable,
        "orders": ORDERS,
        "states": STATES,
        "dataset": room.dataset.name,
    }
    return {
        "query": query,
        "after": fields.get("after", ""),
        **lists,
        **choices,
        **_cards(room, query, fields),
    }


def _cards(room: Room, query: Query, fields: dict[str, str]) -> dict[str, Any]:
    marked = set(room.marked(query.layer))
    layer = room.index.layers().get(query.layer)
    if layer is None:  # nothing is in yet
        return {"cards": [], "next": "", "asking": False, "waiting": True}
    found = room.finder.page(query, fields.get("after", ""), marked=marked)
    images = room.index.images(found.places)
    said = room.index.captions(layer, images)
    cards = []
    for at in found.places:
        if at in images:
            image, caption = images[at], said.get(at)
            marks = room.review.marks(layer.name, image.id) if at in marked else Marks()
            text = shown(caption, marks) if isinstance(caption, Caption) else ""
            cards.append(Card(image, caption, marks, text))
    waiting = not cards and not room.index.state().whole
    return {"cards": cards, "next": found.after, "asking": bool(room.models), "waiting": waiting}


def _located(room: Room, image_id: str) -> tuple[int, Image]:
    at = room.index.at_of(image_id)
    image = room.index.image(at) if at is not None else None
    if at is None or image is None:
        raise UsageError("no such image in this dataset", where=image_id[:80])
    return at, image


@router.get("/thumb/{image_id}")
async def thumb(request: Request, image_id: str) -> Response:
    """A thumbnail. What can't be shown is a drawing that says why, so that the gallery stays whole."""
    room = room_of(request)
    # Of images that are in the dataset alone: one that was taken down is gone.
    kept = room.thumbs.kept(image_id) if room.index.at_of(image_id) is not None else None
    if kept is not None:
        return Response(kept, media_type="image/jpeg", headers=FOR_EVER)
    return await away(_picture, room, image_id, "small")


@router.get("/picture/{image_id}")
async def picture(request: Request, image_id: str) -> Response:
    """The picture at the size of a page; never the file itself, which may be anything."""
    return await away(_picture, room_of(request), image_id, "large")


def _picture(room: Room, image_id: str, size: str) -> Response:
    _, image = _located(room, image_id)
    return drawn(room, image, size)


def drawn(room: Room, image: Image, size: str) -> Response:
    """An image as a bounded JPEG, or a drawing of what is wrong with it."""
    try:
        jpeg = room.thumbs.make(image) if size == "small" else shrunk(image, SIDES[size])
    except ImageError as error:
        word = error.reason.replace("_", " ")
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240"><rect width="320" height="240" '
            f'fill="#d9d4c9"/><text x="160" y="126" text-anchor="middle" font-family="sans-serif" '
            f'font-size="22" fill="#55514a">{word}</text></svg>'
        )
        return Response(svg, media_type="image/svg+xml", headers={"cache-control": "no-store"})
    return Response(jpeg, media_type="image/jpeg", headers=FOR_EVER)


@router.get("/image/{image_id}", response_class=HTMLResponse)
def one_image(request: Request, image_id: str) -> HTMLResponse:
    """One image beside all its layers."""
    room, fields = room_of(request), dict(request.query_params)
    query = _query(room, fields)
    at, image = _located(room, image_id)
    marked = room.marked(query.layer) if query.state == "marked" else ()
    beside = [room.index.image(p) if p is not None else None for p in room.finder.beside(query, at, marked)]
    near = [
        ("near-duplicate of" if kind == DUPLICATE else "like a benchmark's image", other, bits)
        for kind, other, bits in room.index.rows("SELECT kind, other, distance FROM near WHERE at = ?", at)
    ]
    ways: dict[str, Any] = {"before": beside[0], "after": beside[1], "near": near, "place": place_of(image)}
    return page(
        request, "image.html.j2", image=image, at=at, query=query, **ways, **_layers(room, query, at, image)
    )


def _layers(room: Room, query: Query, at: int, image: Image) -> dict[str, Any]:
    """All layers' words about an image, the layer looked at first, the others compared with it."""
    rows = room.index.layers()
    first = _row(room, query.layer)
    base = room.index.caption(first, at, image.id)
    marks = room.review.marks(first.name, image.id)
    base_text = shown(base, marks)[:SHOWN] if isinstance(base, Caption) else ""
    said = []
    for layer in [first, *(row for name, row in rows.items() if name != first.name)]:
        caption = room.index.caption(layer, at, image.id)
        if caption is None and layer.name == ALT_TEXT:
            continue
        own = marks if layer is first else room.review.marks(layer.name, image.id)
        text = shown(caption, own) if isinstance(caption, Caption) else ""
        compared = layer is not first and text and base_text
        changes = word_changes(base_text, text[:SHOWN]) if compared else []
        verdicts = room.index.verdicts(layer, at)
        parts, unshown = _sentences(caption, own, verdicts), max(0, len(text) - SHOWN)
        said.append(Said(layer, caption, own, parts, changes, len(text.split()), unshown))
    captions = [c.caption for c in said if isinstance(c.caption, Caption)]
    # Words taken from another layer were paid for there.
    spent = [c.cost_usd for c in captions if c.cost_usd is not None and not c.origin]
    editable = first.name != ALT_TEXT and room.review.writable
    return {"said": said, "cost": sum(spent) if spent else None, "editable": editable}


def _sentences(caption: Caption | Missing | None, marks: Marks, verdicts: list[str]) -> list[Sentence]:
    if not isinstance(caption, Caption):
        return []
    found = []
    for number, (sentence, gap) in enumerate(pieces(caption.text[:SHOWN]), 1):
        was = sentence.strip()
        now = marks.edits[number].text if number in marks.edits else was
        verdict = verdicts[number - 1] if number <= len(verdicts) else ""
        changes = word_changes(was, now) if was != now else []
        found.append(Sentence(number, was, now, gap, verdict, changes))
    return found


@router.get("/image/{image_id}/sentence", response_class=HTMLResponse)
def sentence(request: Request, image_id: str) -> HTMLResponse:
    """The form that edits one sentence."""
    room, fields = room_of(request), dict(request.query_params)
    query = _query(room, fields)
    at, image = _located(room, image_id)
    caption = _caption(room, query.layer, at, image)
    number = whole(fields.get("n", ""))
    marks = room.review.marks(query.layer, image.id)
    rows = _sentences(caption, marks, [])
    if not 1 <= number <= len(rows):
        raise UsageError("no such sentence", where=image.id)
    row, seen = rows[number - 1], marks.last
    return page(request, "sentence.html.j2", image=image, query=query, row=row, seen=seen)


@router.post("/image/{image_id}/{step}", response_class=HTMLResponse)
async def change(request: Request, image_id: str, step: str) -> HTMLResponse:
    """Edit, flag or drop; answers with the layers as they are then."""
    return await away(_change, request, image_id, step, await form(request))


def _change(request: Request, image_id: str, step: str, fields: dict[str, str]) -> HTMLResponse:
    room = room_of(request)
    query = _query(room, {"layer": fields.get("layer", "")})
    at, image = _located(room, image_id)
    caption = _caption(room, query.layer, at, image)
    seen = whole(fields["seen"]) if "seen" in fields else None
    if step == "edit":
        number, was = whole(fields.get("n", "")), fields.get("was", "")
        # The page shows signs in place of what can't be shown, and sends these.
        here = [one.was for one in _sentences(caption, Marks(), []) if one.number == number]
        was = next((one for one in here if printable(one) == was), was)
        room.review.edit(caption, number, was, fields.get("text", ""), seen)
    elif step == "flag":
        room.review.flag(caption, fields.get("flag", ""), seen)
    elif step == "drop":
        room.review.drop(caption, seen)
    else:
        raise UsageError("no such step", where=step[:40])
    return page(request, "layers.html.j2", image=image, query=query, **_layers(room, query, at, image))


def _row(room: Room, layer: str) -> LayerRow:
    row = room.index.layers().get(layer)
    if row is None:
        todo = "load the page again in a moment"
        raise UsageError("the layer is being taken into the index", where=layer, todo=todo)
    return row


def _caption(room: Room, layer: str, at: int, image: Image) -> Caption:
    caption = room.index.caption(_row(room, layer), at, image.id)
    if not isinstance(caption, Caption) or layer == ALT_TEXT:
        raise UsageError("there is no caption to change", where=layer, todo="choose a layer that has one")
    return caption


@router.post("/undo", response_class=HTMLResponse)
async def undo(request: Request) -> Response:
    """Take the last step back, and show where it was made."""
    room = room_of(request)
    gone = await away(room.review.undo)
    if gone is None:
        raise UsageError("nothing to undo")
    layer, image_id = gone
    here = urlsplit(request.headers.get("hx-current-url", ""))
    query = await away(_query, room, dict(parse_qsl(here.query)))
    if here.path != f"/image/{image_id}" or query.layer != layer:
        return Response(headers={"hx-redirect": f"/image/{image_id}?{Query(layer).address()}"})
    at, image = await away(_located, room, image_id)
    answer = page(
        request, "layers.html.j2", image=image, query=query, **await away(_layers, room, query, at, image)
    )
    answer.headers.update({"hx-retarget": "#layers", "hx-reswap": "innerHTML"})
    return answer


@router.post("/write", response_class=HTMLResponse)
async def write(request: Request) -> HTMLResponse:
    """Seal what was done by hand as a layer of edits."""
    room, fields = room_of(request), await form(request)

    def work() -> str:
        made = room.review.write(fields.get("layer", ""), fields.get("to", ""))
        room.index.refresh()
        return made.path.name

    try:
        name = await away(work)
    except SharecapError as error:
        raise UsageError(error.what, where=error.where, todo=error.todo) from None
    return page(request, "written.html.j2", name=name)
