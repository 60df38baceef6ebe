"""A server that this project did not write: `transformers serve` with a vision model that the test saves."""

import json
import os
import re
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

PROMPT = '[default]\nprompt = "Describe the image."\n'


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "short.toml"
    path.write_text(f'name = "short"\nversion = "1"\n{PROMPT}')
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, pack: Path) -> Path:
    return talking_model(tmp_path_factory.mktemp("model"), load_pack(pack).default or "")


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


def test_transformers_serve_captions_a_dataset_with_the_models_own_words(
    dataset: Path, model: Path, served: str, pack: Path, typed: Typed
) -> None:
    words = ["--prompts", pack, "--layer", "served", "--max-tokens", 60, "--temperature", 0, "--json"]
    code, out, err = typed("caption", dataset, "--teacher", f"{served}#{model}", "--concurrency", 2, *words)
    assert code == 0, err
    report = json.loads(out)
    images = len(Catalog.open(dataset))
    assert (report["captions"], report["failures"], report["requests"]) == (images, {}, images)
    assert report["prompt_tokens"] > 0 < report["completion_tokens"]
    served_words = {caption.image_id: caption.text for caption in read_layer(dataset, "served")}
    assert set(served_words.values()) == {SAYS}
    run(dataset, f"local:{model}", pack, "local", sampling=Sampling(60))
    assert {caption.image_id: caption.text for caption in read_layer(dataset, "local")} == served_words


def test_what_a_foreign_server_refuses_is_a_named_failure_in_its_own_words(
    dataset: Path, served: str, pack: Path, typed: Typed
) -> None:
    words = ["--prompts", pack, "--layer", "refused", "--json"]
    code, out, err = typed("caption", dataset, "--teacher", f"{served}#other", *words)
    assert (code, "not one image got a caption" in err) == (1, True)
    assert json.loads(out)["failures"] == {"rejected": 12}
    assert "Server is pinned to" in (dataset / "layers" / "refused" / "failures.jsonl").read_text()
