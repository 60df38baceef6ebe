"""Prompt packs: every source of the paper and of the embedded world is asked for what matters in it."""

import re
from pathlib import Path

import pytest

from sharecap.captions.prompts import known_packs, load_pack
from sharecap.errors import UsageError
from sharecap.records import Image

ASKED = {
    "everyday": {"relative"},
    "web": {"relative"},
    "dense": set(),
    "signs": {"text"},
    "emblems": {"name"},
    "paintings": {"style"},
}
"""Words by which the embedded world's teacher knows that more than objects is asked for."""


def image(source: str, path: str = "/x.png") -> Image:
    return Image("0" * 64, source, path, 8, 8, "PNG", 100, "0" * 16)


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_the_packs_that_ship_load() -> None:
    assert known_packs() == ["scenes", "sharegpt4v", "unified"]
    for name in known_packs():
        assert load_pack(name).name == name


@pytest.mark.parametrize("source", ["coco", "lcs", "sam", "textcaps", "wikiart", "landmark", "celebrity"])
def test_each_source_of_the_paper_has_its_own_prompt(source: str) -> None:
    pack = load_pack("sharegpt4v")
    prompt = pack.render(image(source))
    assert prompt.id == f"sharegpt4v@2/{source}"
    assert prompt.text.startswith(pack.role)
    assert prompt.text.endswith(pack.constraints.replace("{words}", "150"))
    assert pack.sources[source] in prompt.text


def test_an_unknown_source_gets_the_default() -> None:
    assert load_pack("sharegpt4v").render(image("holiday")).id == "sharegpt4v@2/default"


@pytest.mark.parametrize("source", ASKED)
def test_scenes_prompts_ask_for_what_the_source_has_and_no_more(source: str) -> None:
    prompt = load_pack("scenes").render(image(source))
    assert words(prompt.text) & {"relative", "text", "name", "style"} == ASKED[source]


def test_the_shared_parts_of_scenes_ask_for_nothing_special() -> None:
    pack = load_pack("scenes")
    assert not words(pack.role + pack.constraints) & {"relative", "text", "name", "style"}


@pytest.mark.parametrize("source", ["everyday", "web", "dense"])
def test_scenes_prompts_ask_for_every_attribute(source: str) -> None:
    text = load_pack("scenes").render(image(source)).text
    assert {"objects", "colours", "sizes", "textures", "many", "where"} <= words(text)


def test_one_instruction_serves_every_source() -> None:
    pack = load_pack("unified")
    assert len({pack.render(image(source)) for source in ("coco", "sam", "everyday")}) == 1


def test_a_route_finds_the_source_by_path() -> None:
    prompt = load_pack("sharegpt4v").render(image("data", "/data/wikiart/images/1.jpg"))
    assert prompt.id == "sharegpt4v@2/wikiart"


def test_a_source_without_prompt_or_default_is_wrong_usage_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'holiday'.*dense, emblems, everyday, paintings, signs, web"):
        load_pack("scenes").check([image("everyday"), image("holiday")])
    with pytest.raises(UsageError, match="holiday"):
        load_pack("scenes").render(image("holiday"))


def test_an_unknown_pack_is_wrong_usage_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"scenes, sharegpt4v, unified"):
        load_pack("nonsense")


BAD = {
    "no TOML": "name = ",
    "name": 'version = "1"\n[default]\nprompt = "x"',
    "colour": 'name = "p"\nversion = "1"\ncolour = "red"\n[default]\nprompt = "x"',
    "default.prompt": 'name = "p"\nversion = "1"\n[default]\nprompt = ""',
    "no prompt": 'name = "p"\nversion = "1"',
    "route leads": 'name = "p"\nversion = "1"\n[default]\nprompt="x"\n[[route]]\npath="*"\nsource="y"',
    "version": 'name = "p"\nversion = 1\n[default]\nprompt="x"',
}


@pytest.mark.parametrize("says", BAD)
def test_a_malformed_pack_is_one_clear_error(tmp_path: Path, says: str) -> None:
    (tmp_path / "p.toml").write_text(BAD[says])
    with pytest.raises(UsageError, match=says) as caught:
        load_pack(tmp_path / "p.toml")
    assert "p.toml" in str(caught.value)


def test_a_pack_of_ones_own_is_loaded_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('name = "mine"\nversion = "3"\n[source.cats]\nprompt = "Which cat?"')
    assert load_pack(tmp_path / "p.toml").render(image("cats")).id == "mine@3/cats"


def test_the_digest_changes_with_one_letter(tmp_path: Path) -> None:
    digests = set()
    for ask in ("Which cat?", "Which cats?"):
        (tmp_path / "p.toml").write_text(f'name = "mine"\nversion = "3"\n[source.cats]\nprompt = "{ask}"')
        digests.add(load_pack(tmp_path / "p.toml").digest)
    assert len(digests) == 2
