"""How a conversation becomes text: `plain` (captions), `vicuna_v1` (instruction tuning) and other formats.

A template is data. Implements the formats that LLaVA and the paper train in, and a model's own (chat/own.py).
It must never decide what is trained on by searching in finished text: exchanges carry that from the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharecap.chat.dialogue import Dialogue, Exchange, dialogue_of
from sharecap.chat.own import OWN, OwnTemplate
from sharecap.errors import SharecapError, UsageError
from sharecap.records import IMAGE_TOKEN, Conversation, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin


@dataclass(frozen=True, slots=True)
class Template:
    """Words around the turns. `{text}` stands for the turn's own words."""

    name: str
    prompt: str  # the system prompt of a row that has none of its own
    opening: str  # around the system prompt
    user: str  # around a user's words, up to where the answer starts
    answer: str  # around an assistant's words, without the stop
    stop: str | None  # ends an answer; None: the tokenizer's end-of-sequence token
    joint: (
        str  # what stands just before an answer and decides how its first token is cut; "" where nothing does
    )
    keeps_question: bool = True  # False: a user turn becomes its image tokens alone, its words are dropped
    marks: tuple[str, ...] = ()  # what must be one token in the tokenizer, besides the stop and the image
    image: str = IMAGE_TOKEN  # the token that stands in the text once per image
    starts: bool = True  # the tokenizer's own start token, if it has one, comes before the text

    @property
    def system(self) -> str:
        """The opening of a row without a system prompt of its own."""
        return self.opening.replace("{text}", self.prompt)

    def exchanges(self, dialogue: Dialogue) -> list[Exchange]:
        """The dialogue's text in pieces; `SharecapError` if a template for captions gets several rounds."""
        if not self.keeps_question and len(dialogue.rounds) > 1:
            what = f"template {self.name} takes one caption a row"
            raise SharecapError(what, where=f"row {dialogue.row}", todo="use vicuna_v1 for conversations")
        system = self.prompt if dialogue.system is None else dialogue.system
        written = []
        for i, turn in enumerate(dialogue.rounds):
            user = turn.asked if self.keeps_question else IMAGE_TOKEN * turn.images
            opening = self.opening.replace("{text}", system) if i == 0 else ""
            said = None if turn.answer is None else self.answer.replace("{text}", turn.answer)
            written.append(Exchange(opening + self.user.replace("{text}", user), said, turn.images))
        return written


AnyTemplate = Template | OwnTemplate

PLAIN = Template(
    name="plain",
    prompt="",
    opening="",
    user="{text}",
    answer="{text}",
    stop="\n",
    joint="",
    keeps_question=False,
)
# What LLaVA's training writes; its demo's prompts leave out the spaces after ### and the ends of lines.
VICUNA_V0 = Template(
    name="vicuna_v0",
    prompt=(
        "A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions."
    ),
    opening="{text}\n\n###",
    user=" Human: {text}\n### Assistant:",
    answer=" {text}",
    stop="\n###",
    joint="Assistant:",
)
VICUNA_V1 = Template(
    name="vicuna_v1",
    prompt=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    opening="{text} ",
    user="USER: {text} ASSISTANT:",
    answer=" {text}",
    stop=None,
    joint="ASSISTANT:",
)
# LLaVA's chatml_direct: unlike Qwen's own, no line ends between <|im_end|> and <|im_start|>.
CHATML = Template(
    name="chatml",
    prompt="Answer the questions.",
    opening="<|im_start|>system\n{text}<|im_end|>",
    user="<|im_start|>user\n{text}<|im_end|><|im_start|>assistant\n",
    answer="{text}",
    stop="<|im_end|>",
    joint="<|im_start|>assistant\n",
    marks=("<|im_start|>", "<|im_end|>"),
)
TEMPLATES = {t.name: t for t in (PLAIN, VICUNA_V0, VICUNA_V1, CHATML)}


def template_named(
    name: str, speaker: "ProcessorMixin | PreTrainedTokenizerBase | None" = None
) -> AnyTemplate:
    """The template of that name; `UsageError` that lists the known ones.

    `own` is the chat template of `speaker`, a processor or tokenizer, and needs one.
    """
    if name == OWN and speaker is not None:
        return OwnTemplate.of(speaker)
    if name not in TEMPLATES:
        what = f"unknown template {name!r}" if name != OWN else "template own needs a model's processor"
        raise UsageError(what, todo=f"choose one of {', '.join(TEMPLATES)}, {OWN}")
    return TEMPLATES[name]


def exchanges(template: AnyTemplate, conversation: Conversation) -> list[Exchange]:
    """The conversation's text in pieces, each wholly given or wholly said.

    The last turn may be a user's: then the last answer is None. `SharecapError` names a row that can't be
    written exactly (`dialogue_of`).
    """
    return template.exchanges(dialogue_of(conversation))


def question(images: Sequence[str], text: str, row: str = "query") -> Conversation:
    """A conversation of one user turn; a `text` without `<image>` gets it in front."""
    marked = text if IMAGE_TOKEN in text or not images else IMAGE_TOKEN * len(images) + "\n" + text
    return Conversation(row, tuple(images), (Turn("user", marked),))


def jinja(template: AnyTemplate) -> str:
    """The template as a Hugging Face chat template: plain `apply_chat_template` then writes the same text.

    Messages hold a string or a list of parts {"type": "text", "text": ...} and {"type": "image"}.
    """
    if isinstance(template, OwnTemplate):
        return template.jinja
    before_system, after_system = parts(template.opening)
    before_user, after_user = parts(template.user)
    before_answer, after_answer = parts(template.answer)
    stop = "eos_token" if template.stop is None else quoted(template.stop)
    image = quoted(IMAGE_TOKEN)
    read = (
        "{%- set said.images = 0 %}{%- set said.first = 0 %}{%- set said.words = '' %}"
        "{%- if message['content'] is string %}{%- set said.words = message['content'] %}{%- else %}"
        "{%- for part in message['content'] if part['type'] == 'image' %}"
        "{%- set said.images = said.images + 1 %}{%- endfor %}"
        "{%- for part in message['content'] %}"
        "{%- if part['type'] == 'text' %}{%- set said.words = said.words + part['text'] %}"
        "{%- elif part['type'] == 'image' and (said.images == 1 or not said.words | trim) %}"
        "{%- set said.first = said.first + 1 %}"
        "{%- elif part['type'] == 'image' %}{%- set said.words = said.words + " + image + " %}"
        "{%- endif %}{%- endfor %}{%- endif %}"
    )
    in_front = (
        "{%- if said.first %}{{- " + image + " * said.first }}"
        "{%- if said.words | trim %}{{- '\\n' + said.words | trim }}{%- endif %}"
        "{%- else %}{{- said.words }}{%- endif %}"
    )
    asked = in_front if template.keeps_question else "{{- " + image + " * said.images }}"
    opening = "{{- " + before_system + " + said.words + " + after_system + " }}" if template.opening else ""
    return (
        "{%- set said = namespace(images=0, first=0, words='') %}"
        "{%- for message in messages %}"
        + read
        + "{%- if message['role'] == 'system' %}"
        + opening
        + "{%- else %}"
        "{%- if loop.first %}{{- " + quoted(template.system) + " }}{%- endif %}"
        "{%- if message['role'] == 'user' %}"
        "{{- " + before_user + " }}" + asked + "{{- " + after_user + " }}"
        "{%- elif message['role'] == 'assistant' %}"
        "{{- " + before_answer + " + said.words + " + after_answer + " + " + stop + " }}"
        "{%- endif %}{%- endif %}{%- endfor %}"
    )


def parts(around: str) -> tuple[str, str]:
    """What stands before and after `{text}`, as Jinja literals."""
    before, _, after = around.partition("{text}")
    return quoted(before), quoted(after)


def quoted(text: str) -> str:
    """`text` as a Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
