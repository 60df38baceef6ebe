"""Words in pictures, read on this machine (OCR). An extra, `sharecap[ocr]`: most work needs no such reader.

Its models lie in the wheel of `rapidocr`; it must never download anything. What it reads may be wrong, and is
hostile where people can write on pictures: whoever uses it must bound and mark it.
"""

import importlib.metadata
from pathlib import Path

from PIL import Image

from sharecap.errors import SharecapError, UsageError
from sharecap.images.decode import ImageError

MAX_SIDE = 2_000
"""Pixels of the longer side of what is read: of larger pictures the engine shrinks thin ones to nothing."""

THINNEST, MIN_SIDE = 8, 64
"""How many times one side may be as long as the other, and pixels of the shorter one. Thinner pictures get
a white margin: the engine blows up the shorter side to 736 pixels, and the other with it."""

INSTALL = "pip install 'sharecap[ocr]'"


class Reader:
    """Reads pictures, each on one core. One reader per thread: the engine keeps state of its own."""

    def __init__(self) -> None:
        try:
            import onnxruntime  # type: ignore[import-untyped]  # noqa: F401 - the engine loads it much later
            import rapidocr
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UsageError(f"no reader of words in pictures ({error})", todo=INSTALL) from None
        models = Path(rapidocr.__file__).parent / "models"
        params: dict[str, object] = {
            # Named, so that the engine has no reason to look for them anywhere else.
            "Det.model_path": _model(models, "*_det_*.onnx"),
            "Cls.model_path": _model(models, "*_cls_*.onnx"),
            "Rec.model_path": _model(models, "*_rec_*.onnx"),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Global.log_level": "critical",
        }
        self._engine = RapidOCR(params=params)

    @property
    def name(self) -> str:
        """What tells this reader from another that may read other words."""
        return f"rapidocr {importlib.metadata.version('rapidocr')}"

    def read(self, picture: Image.Image, where: object) -> tuple[str, ...]:
        """The lines of words in an RGB picture, top down; `ImageError` unread if the engine gives up."""
        from rapidocr.utils.output import RapidOCROutput

        try:
            found = self._engine(_fit(picture))
        except Exception as error:  # noqa: BLE001 - OpenCV, numpy and ONNX Runtime each have their own
            why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            raise ImageError("unread", f"the reader of words gave up ({why})", where) from None
        # Where no line is sure enough to be one, there is another kind of output.
        return tuple(found.txts or ()) if isinstance(found, RapidOCROutput) else ()


def _model(folder: Path, pattern: str) -> str:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        todo = f"install another release of rapidocr: {INSTALL}"
        raise SharecapError(f"{len(found)} models where one should be", where=folder / pattern, todo=todo)
    return str(found[0])


def _fit(picture: Image.Image) -> Image.Image:
    """The picture in a size that the engine can read."""
    scale = MAX_SIDE / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    least = max(MIN_SIDE, max(picture.size) // THINNEST)
    if min(picture.size) >= least:
        return picture
    paper = Image.new("RGB", (max(least, picture.width), max(least, picture.height)), "white")
    paper.paste(picture, ((paper.width - picture.width) // 2, (paper.height - picture.height) // 2))
    return paper
