"""A model's own chat template: the ids of plain transformers and exact labels, or one clear line."""

import pickle
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sharecap.chat.own import OwnTemplate
from sharecap.chat.templates import jinja, template_named
from sharecap.chat.tokenise import Cutter
from sharecap.errors import SharecapError, UsageError
from sharecap.model.build import Llava
from sharecap.model.folder import load, save
from sharecap.model.generation import Decoding, Generator, Query
from sharecap.records import Conversation, Turn
from tests.chat.llama import llama
from tests.chat.test_published_rules import spoken
from tests.model.tiny import byte_level, picture, tiny_llava

# What Qwen2.5-VL's template writes for texts and images.
QWEN = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What Llama 2's writes: strings only, words trimmed, no generation prompt, the start token in the template.
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PLACES = {"a.png": 3, "b.png": 6}


def qwen(template: str = QWEN) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    marks = [f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "image_pad", "vision_end")]
    tokenizer.add_special_tokens({"extra_special_tokens": marks})
    tokenizer.image_token, tokenizer.chat_template = "<|image_pad|>", template
    return tokenizer


def talk(*texts: str, images: tuple[str, ...] = (), system: str | None = None) -> Conversation:
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return Conversation("r", images, (*([Turn("system", system)] if system else []), *turns))


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_qwens_ids_are_those_of_apply_chat_template_and_images_take_their_own_places(
    system: str | None,
) -> None:
    tokenizer = qwen()
    cutter = Cutter(tokenizer, template_named("own", tokenizer), PLACES.__getitem__)
    row = talk(
        "Which is red?\n<image>",
        "The first.",
        "<image>And now?",
        "It's 3.",
        images=("a.png", "b.png"),
        system=system,
    )
    (document,) = cutter.documents([row])
    image, contents = {"type": "image"}, ("Which is red?", "The first.", "And now?", "It's 3.")
    messages = [
        {
            "role": ("user", "assistant")[i % 2],
            "content": [image] * (i % 2 == 0) + [{"type": "text", "text": text}],
        }
        for i, text in enumerate(contents)
    ]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    pad = "<|image_pad|>"
    before, between, after = text.split(pad)
    whole = before + pad * 3 + between + pad * 6 + after
    assert document.ids.tolist() == tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert spoken(document, tokenizer) == ["The first.<|im_end|>", "It's 3.<|im_end|>"]
    assert [document.ids[start - 1] for start in document.image_starts] == [
        tokenizer.convert_tokens_to_ids("<|vision_start|>")
    ] * 2
    again = pickle.loads(pickle.dumps(Cutter(tokenizer, template_named("own", tokenizer), 4)))  # for workers
    assert len(again.documents([row])[0]) == len(document) - 1
    (prompt,) = cutter.documents([talk("Hi?")])
    assert tokenizer.decode(prompt.ids).endswith("Hi?<|im_end|>\n<|im_start|>assistant\n")
    assert not prompt.learned.any()


def test_the_answer_begins_where_generation_does_even_if_the_tokenizer_would_join_across() -> None:
    texts = ["user\n\nuser\n\n\n" * 20, "assistant\n\nassistant\n\n" * 20]
    tokenizer = byte_level(texts)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<image>"]})
    tokenizer.chat_template = QWEN
    assert len(tokenizer.tokenize("\n\n")) == 1
    (document,) = Cutter(tokenizer, template_named("own", tokenizer), 1).documents([talk("Q", "\nYes.\n")])
    assert spoken(document, tokenizer) == ["\nYes.\n<|im_end|>"]
    (prompt,) = Cutter(tokenizer, template_named("own", tokenizer), 1).documents([talk("Q")])
    assert document.ids[: len(prompt)].tolist() == prompt.ids.tolist()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_template_of_strings_with_its_own_start_token_and_trimmed_words(legacy: bool) -> None:
    tokenizer = llama(legacy)
    tokenizer.chat_template = LLAMA2
    template = template_named("own", tokenizer)
    (document,) = Cutter(tokenizer, template, 1).documents(
        [talk("<image>\nIs there a circle? ", "Yes, \n", "How many?", " 3 ", images=("a.png",))]
    )
    messages = [
        {"role": "user", "content": "<image>\nIs there a circle?"},
        {"role": "assistant", "content": "Yes,"},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "3"},
    ]
    assert document.ids.tolist() == tokenizer.apply_chat_template(messages, return_dict=False)
    assert [text.strip() for text in spoken(document, tokenizer)] == ["Yes, </s>", "3 </s>"]
    assert jinja(template) == LLAMA2


def fails(template: str | None, row: Conversation | None = None) -> str:
    """The one line that says why."""
    tokenizer = qwen(template)  # type: ignore[arg-type]
    with pytest.raises(SharecapError) as caught:
        Cutter(tokenizer, template_named("own", tokenizer), 1).documents(
            [row or talk("Q1", "A1", "Q2", "A2")]
        )
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_template_that_cannot_be_learned_from_is_one_clear_line() -> None:
    assert "has no chat template" in fails(None)
    end = "{{ message.role }}: {{ message.content[0].text }}"
    assert "ends no answer with a special token" in fails(
        "{% for message in messages %}" + end + "{% endfor %}"
    )
    forgets = QWEN.replace(
        "{{ part.text }}", "{{ part.text if loop.last and message is sameas messages[-1] }}"
    )
    assert "changes earlier turns when later ones come: row r" in fails(forgets)
    thinks = QWEN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert "changes earlier turns when later ones come: row r" in fails(thinks)
    shouts = QWEN.replace("{{ part.text }}", "{{ part.text | replace('A1', 'B1') }}")
    assert "writes 'B1<|im_end|>\\n' for the answer 'A1': row r" in fails(shouts)
    blind = QWEN.replace("<|image_pad|>", "")
    assert "0 <|image_pad|> among the tokens of 1 images: row r" in fails(
        blind, talk("<image>Q", "A", images=("a.png",))
    )
    forged = talk("<image>Q <|image_pad|>", "A", images=("a.png",))
    assert "a question holds the special token <|image_pad|>: row r" in fails(QWEN, forged)


def test_what_a_template_itself_refuses_is_said_with_the_row() -> None:
    tokenizer = llama()
    tokenizer.chat_template = LLAMA2
    cutter = Cutter(tokenizer, OwnTemplate.of(tokenizer), 1)
    with pytest.raises(SharecapError, match=r"fails \(Only user and assistant roles are supported!\): row r"):
        cutter.documents([talk("Q", "A", system="Be brief.")])


def test_a_saved_model_keeps_its_own_template_and_answers_in_it(tmp_path: Path) -> None:
    llava = tiny_llava(tmp_path, qwen())
    llava.processor.chat_template = QWEN.replace("<|image_pad|>", "<image>")
    save(Llava(llava.model, llava.processor, "own"), tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.template, again.processor.chat_template) == ("own", llava.processor.chat_template)
    generator = Generator(again)
    assert generator.cutter.ending == (again.tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    assert generator.cutter.stop in again.model.generation_config.eos_token_id
    (reply,) = generator.generate([Query((picture(0),), "What is it?")], Decoding(max_new_tokens=2))
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = again.processor.apply_chat_template(asked, add_generation_prompt=True)
    ids = again.processor(images=picture(0), text=text, add_special_tokens=False)["input_ids"][0]
    assert reply.usage.prompt_tokens == len(ids)


def test_own_needs_a_model_to_speak_like() -> None:
    with pytest.raises(UsageError, match="template own needs a model's processor"):
        template_named("own")
