"""A server that this project did not write: `transformers serve` with a vision model that the test saves."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharecap.captions.captioner import Sampling
from sharecap.captions.layer import read_layer
from sharecap.captions.prompts import load_pack
from sharecap.captions.run import run
from sharecap.images.catalog import Catalog

from .conftest import Typed

pytest.importorskip("torch")
pytest.importorskip("openai", reason="transformers[serving] is not installed")
pytest.importorskip("uvicorn", reason="transformers[serving] is not installed")

from .talking import SAYS, talking_model

PAGE = (Path(__file__).parents[2] / "docs/caption-millions.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"), load_pack("unified").default or "")


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[str]:
    """The address that ends in `/v1`."""
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*words, "--host", "127.0.0.1", "--port", "0", "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=offline,
    ) as server:
        assert server.stderr is not None
        said: list[str] = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                yield f"{found[1]}/v1"
                break
        else:
            pytest.fail(f"transformers serve did not start: {''.join(said)[-2000:]}")
        server.terminate()
        server.stderr.close()


def test_the_page_s_command_captions_with_a_foreign_server_in_the_models_own_words(
    dataset: Path, model: Path, served: str, typed: Typed
) -> None:
    found = re.search(r"<!-- tested: served -->\n```sh\nsharecap (.*?)\n```", PAGE, re.DOTALL)
    assert found is not None
    own = {"big.dataset": str(dataset), "http://127.0.0.1:8000/v1#captioner": f"{served}#{model}"}
    words = [own.get(word, word) for word in shlex.split(found[1])]
    assert set(own.values()) <= set(words)
    code, out, err = typed(*words, "--json")
    assert code == 0, err
    report = json.loads(out)
    images = len(Catalog.open(dataset))
    assert (report["captions"], report["failures"], report["requests"]) == (images, {}, images)
    assert report["prompt_tokens"] > 0 < report["completion_tokens"]
    served_words = {caption.image_id: caption.text for caption in read_layer(dataset, "served")}
    assert set(served_words.values()) == {SAYS}
    run(dataset, f"local:{model}", "unified", "local", sampling=Sampling(60))
    assert {caption.image_id: caption.text for caption in read_layer(dataset, "local")} == served_words


def test_what_a_foreign_server_refuses_is_a_named_failure_in_its_own_words(
    dataset: Path, served: str, typed: Typed
) -> None:
    words = ["--prompts", "unified", "--layer", "refused", "--json"]
    code, out, err = typed("caption", dataset, "--teacher", f"{served}#other", *words)
    assert (code, "not one image got a caption" in err) == (1, True)
    assert json.loads(out)["failures"] == {"rejected": 12}
    assert "Server is pinned to" in (dataset / "layers" / "refused" / "failures.jsonl").read_text()
