"""The embedded world's teacher, with all that goes wrong at paid ones: every image ends, and is counted."""

import random
from collections import Counter
from pathlib import Path

from sharecap.captions.courier import Patience
from sharecap.captions.layer import read_layer
from sharecap.captions.run import run
from sharecap.captions.verdict import KINDS
from sharecap.images.add import add
from sharecap.images.catalog import Catalog
from sharecap.scenes.simulator import Settings, serving
from sharecap.scenes.world import WorldSpec, make_world

PASSING = {"429": 0.1, "500": 0.1, "drop": 0.1, "loop": 0.1, "empty": 0.1, "echo": 0.1}
LASTING = {"refusal": 0.05, "truncated": 0.05}
QUICK = Patience(base_s=0.002, cap_s=0.01)


def test_every_picture_of_the_embedded_world_is_a_caption_or_a_named_failure(tmp_path: Path) -> None:
    make_world(tmp_path, WorldSpec(), range(60))
    add([tmp_path / "images"], tmp_path / "dataset")
    settings = Settings(truth=(tmp_path / "truth.jsonl",), faults=PASSING | LASTING, retry_after_s=0.01)
    with serving(settings) as url:
        report = run(
            tmp_path / "dataset", f"{url}#scenes", "scenes", "one", patience=QUICK, rng=random.Random(0)
        )
    assert report.captions + sum(report.failures.values()) == report.images == 60
    assert set(report.failures) <= {*KINDS, "rate_limited", "server_error", "dropped"}
    assert {"refusal:rephrased", "truncated:longer"} <= set(report.remedies)
    assert report.rescued > 0
    captions = list(read_layer(tmp_path / "dataset", "one"))
    source = {image.id: image.source for image in Catalog.open(tmp_path / "dataset")}
    assert all(
        caption.prompt_id.removesuffix("+rephrased") == f"scenes@1/{source[caption.image_id]}"
        for caption in captions
    )
    assert max(Counter(caption.text for caption in captions).values()) == 1
    assert all(40 <= len(caption.text.split()) <= 160 for caption in captions)
