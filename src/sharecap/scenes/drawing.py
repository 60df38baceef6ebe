"""Draws a scene: anti-aliased shapes on a 3 x 3 grid, signs with readable words, emblems, painted styles.

The same scene and index give the same pixels, byte for byte.
"""

import math
import random

from PIL import Image as Pictures
from PIL import ImageChops, ImageDraw, ImageFilter, ImageFont

from sharecap.scenes.world import COLOURS, SHAPES, Scene, Thing, WorldSpec, names_of

SCALE = 3  # drawn this much larger, then reduced: anti-aliasing
INK = {
    **{"red": (214, 39, 40), "green": (40, 150, 50), "blue": (40, 80, 215), "yellow": (245, 215, 40)},
    **{"purple": (140, 50, 175), "orange": (245, 135, 25), "white": (252, 252, 252), "black": (22, 22, 22)},
}
PAPER = {"grey": (150, 150, 150), "cream": (228, 212, 176), "mint": (160, 212, 186), "slate": (88, 104, 128)}


def draw(scene: Scene, spec: WorldSpec, index: int) -> Pictures.Image:
    """The picture of `scene`, RGB, `spec.side` pixels square."""
    rng = random.Random(f"draw/{spec.seed}/{index}")
    side = spec.side * SCALE
    cell = side / 3
    canvas = Pictures.new("RGB", (side, side), PAPER[scene.background])
    for thing in scene.things:
        _draw_thing(canvas, thing, cell, rng)
    if scene.word:
        _draw_sign(canvas, scene, cell, rng)
    if scene.name:
        centre = ((scene.emblem_col + 0.5) * cell, (scene.emblem_row + 0.5) * cell)
        _draw_emblem(canvas, names_of(spec).index(scene.name), centre, cell * 0.47)
    picture = canvas.resize((spec.side, spec.side), Pictures.Resampling.BOX)
    return _paint(picture, scene.style, rng) if scene.style else picture


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The polygon of a shape with centre (x, y) and radius r; circles and rings are ellipses."""
    if shape in ("square", "diamond"):
        start, corners = (math.pi / 4 if shape == "square" else 0.0), 4
        grow = 1.15 if shape == "square" else 1.1
        angles = [start + math.tau * k / corners for k in range(corners)]
        return [(x + grow * r * math.cos(a), y + grow * r * math.sin(a)) for a in angles]
    if shape == "triangle":
        angles = [-math.pi / 2 + math.tau * k / 3 for k in range(3)]
        return [(x + 1.15 * r * math.cos(a), y + 0.15 * r + 1.15 * r * math.sin(a)) for a in angles]
    if shape == "star":
        points = []
        for k in range(10):
            length = 1.15 * r if k % 2 == 0 else 0.48 * r
            a = -math.pi / 2 + math.tau * k / 10
            points.append((x + length * math.cos(a), y + length * math.sin(a)))
        return points
    if shape == "cross":
        t = 0.36 * r
        steps = [
            (-t, -r),
            (t, -r),
            (t, -t),
            (r, -t),
            (r, t),
            (t, t),
            (t, r),
            (-t, r),
            (-t, t),
            (-r, t),
            (-r, -t),
        ]
        return [(x + dx, y + dy) for dx, dy in [*steps, (-t, -t)]]
    assert shape == "heart", shape
    points = []
    for k in range(40):
        a = math.tau * k / 40
        hx = 16 * math.sin(a) ** 3
        hy = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        points.append((x + hx * r / 16, y - hy * r / 16))
    return points


def _mask(size: tuple[int, int], shape: str, x: float, y: float, r: float) -> Pictures.Image:
    mask = Pictures.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if shape == "ring":
            pen.ellipse((x - 0.55 * r, y - 0.55 * r, x + 0.55 * r, y + 0.55 * r), fill=0)
    else:
        pen.polygon(outline(shape, x, y, r), fill=255)
    return mask


def _draw_thing(canvas: Pictures.Image, thing: Thing, cell: float, rng: random.Random) -> None:
    r = cell * (0.42 if thing.size == "large" else 0.25)
    slack = cell * (0.03 if thing.size == "large" else 0.12)
    box = (round(thing.col * cell), round(thing.row * cell))
    x, y = cell / 2 + rng.uniform(-slack, slack), cell / 2 + rng.uniform(-slack, slack)
    size = (math.ceil(cell), math.ceil(cell))
    mask = _mask(size, thing.shape, x, y, r)
    ink = INK[thing.colour]
    fill = Pictures.new("RGB", size, ink)
    if thing.texture != "plain":
        # The second tone stays close enough to the first for the colour to keep its name.
        shade = tuple(round(c * 0.55 + (255 if sum(ink) < 240 else 0) * 0.45) for c in ink)
        pen = ImageDraw.Draw(fill)
        step = cell * 0.17
        for k in range(round(cell / step) + 2):
            if thing.texture == "striped":
                pen.rectangle((0, k * step, cell, k * step + step * 0.42), fill=shade)
            else:
                for m in range(round(cell / step) + 2):
                    cx, cy, d = m * step + (k % 2) * step / 2, k * step, step * 0.3
                    pen.ellipse((cx - d, cy - d, cx + d, cy + d), fill=shade)
    canvas.paste(fill, box, mask)


def _draw_sign(canvas: Pictures.Image, scene: Scene, cell: float, rng: random.Random) -> None:
    pen = ImageDraw.Draw(canvas)
    top = scene.word_row * cell + rng.uniform(0.04, 0.12) * cell
    inset = rng.uniform(0.05, 0.2) * cell
    box = (inset, top, 3 * cell - inset, top + 0.82 * cell)
    pen.rounded_rectangle(box, radius=cell * 0.12, fill=(250, 250, 245), outline=(30, 30, 30), width=SCALE)
    font = ImageFont.load_default(size=round(cell * 0.66))
    middle = (1.5 * cell + rng.uniform(-0.1, 0.1) * cell, top + 0.4 * cell)
    pen.text(middle, scene.word, fill=(15, 15, 15), font=font, anchor="mm")


def _draw_emblem(canvas: Pictures.Image, k: int, centre: tuple[float, float], r: float) -> None:
    """Emblem number k: a ringed disc with a figure, told apart by ring colour, figure and its colour."""
    x, y = centre
    pen = ImageDraw.Draw(canvas)
    rim, figure = INK[COLOURS[k % 6]], SHAPES[1:7][(k // 6 + k) % 6]
    ink = INK[COLOURS[(k + 1 + k // 6 + k // 36) % 6]]
    pen.ellipse((x - r, y - r, x + r, y + r), fill=rim)
    pen.ellipse((x - 0.8 * r, y - 0.8 * r, x + 0.8 * r, y + 0.8 * r), fill=(250, 250, 250))
    pen.polygon(outline(figure, x, y, 0.6 * r), fill=ink)
    if k >= 36:  # larger vocabularies: a bar across, at one of several angles
        a = math.pi * (k // 36) / 7
        dx, dy = 0.8 * r * math.cos(a), 0.8 * r * math.sin(a)
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=rim, width=round(0.16 * r))


def _paint(picture: Pictures.Image, style: str, rng: random.Random) -> Pictures.Image:
    """The picture as if painted in a style. Colours keep their names."""
    side = picture.width
    if style == "mosaic":
        tiles = picture.resize((side // 4, side // 4), Pictures.Resampling.BOX)
        out = tiles.resize((side, side), Pictures.Resampling.NEAREST)
        pen = ImageDraw.Draw(out)
        for k in range(0, side, 4):
            pen.line((k, 0, k, side), fill=(110, 110, 110))
            pen.line((0, k, side, k), fill=(110, 110, 110))
        return out
    if style == "watercolour":
        soft = picture.filter(ImageFilter.GaussianBlur(1.6))
        return Pictures.blend(soft, Pictures.new("RGB", soft.size, (255, 255, 255)), 0.28)
    if style == "woodcut":
        out = picture.copy()
        pen = ImageDraw.Draw(out)
        for k in range(-side, side, 5):
            pen.line((k, 0, k + side, side), fill=(40, 25, 15))
        return out
    assert style == "pointillist", style
    dots = Pictures.new("RGB", picture.size, (244, 240, 228))
    pen = ImageDraw.Draw(dots)
    for y in range(1, side, 3):
        for x in range(1, side, 3):
            at = (min(side - 1, x + rng.randint(-1, 1)), min(side - 1, y + rng.randint(-1, 1)))
            pen.ellipse((at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1), fill=picture.getpixel(at))
    return ImageChops.darker(dots, Pictures.new("RGB", dots.size, (250, 250, 250)))
