"""How a conversation becomes text: `plain` (alignment and pre-training) and `vicuna_v1` (instruction tuning).

A template is data. Implements the paper's two prompt formats (its training scripts' `plain` and `v1`).
It must never decide what is trained on by searching in finished text: segments carry that from the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sharecap.errors import SharecapError, UsageError
from sharecap.records import IMAGE_TOKEN, Conversation, Turn


@dataclass(frozen=True, slots=True)
class Template:
    """Words around the turns. `{text}` stands for the turn's own words."""

    name: str
    system: str  # before the first turn
    user: str  # around a user's words, up to where the answer starts
    answer: str  # around an assistant's words, without the stop
    stop: str | None  # ends an answer; None: the tokenizer's end-of-sequence token
    keeps_question: bool  # False: a user turn becomes its image tokens alone, its words are dropped
    joint: str  # words just before an answer, which decide how its first token is cut; "" where none are


PLAIN = Template("plain", "", "{text}", "{text}", "\n", keeps_question=False, joint="")
VICUNA_V1 = Template(
    name="vicuna_v1",
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    user="USER: {text} ASSISTANT:",
    answer=" {text}",
    stop=None,
    keeps_question=True,
    joint="ASSISTANT:",
)
TEMPLATES = {template.name: template for template in (PLAIN, VICUNA_V1)}


def template_named(name: str) -> Template:
    """The template of that name; `UsageError` that lists the known ones."""
    if name not in TEMPLATES:
        raise UsageError(f"unknown template {name!r}", todo=f"choose one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One user turn and its answer as text: what is given, and what is to be said (None: not yet known)."""

    given: str  # from the start, or from the previous stop, to where the answer begins; holds `<image>`
    said: str | None  # without the stop


def exchanges(template: Template, conversation: Conversation) -> list[Exchange]:
    """The conversation's text in pieces, each wholly given or wholly said.

    The last turn may be a user's: then the last answer is None. `SharecapError` names the row when turns do
    not alternate, an answer is empty, `<image>` does not occur once per image, or `plain` gets several turns.
    """
    where = f"row {conversation.id}"
    turns = image_tokens_first(conversation).turns
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if marks != len(conversation.images):
        raise SharecapError(
            f"{marks} {IMAGE_TOKEN} in the text for {len(conversation.images)} images", where=where
        )
    if not turns or any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise SharecapError("turns must alternate, a user's first", where=where)
    if not template.keeps_question and len(turns) > 2:
        todo = "use vicuna_v1 for conversations"
        raise SharecapError(f"template {template.name} takes one caption a row", where=where, todo=todo)
    pieces = []
    for i in range(0, len(turns), 2):
        user = turns[i].text if template.keeps_question else IMAGE_TOKEN * turns[i].text.count(IMAGE_TOKEN)
        given = (template.system if i == 0 else "") + template.user.replace("{text}", user)
        said = None
        if i + 1 < len(turns):
            answer = turns[i + 1].text
            if not answer.strip():
                raise SharecapError("empty answer", where=where)
            if IMAGE_TOKEN in answer:
                raise SharecapError(f"{IMAGE_TOKEN} in an answer", where=where)
            said = template.answer.replace("{text}", answer)
        pieces.append(Exchange(given, said))
    return pieces


def image_tokens_first(conversation: Conversation) -> Conversation:
    """The row with every `<image>` of its first user turn at the front: "<image>\\nQuestion".

    LLaVA's files have it before or after the question. Images that stand in later turns stay in theirs.
    """
    if not conversation.turns or IMAGE_TOKEN not in conversation.turns[0].text:
        return conversation
    first, *rest = conversation.turns
    return Conversation(conversation.id, conversation.images, (in_front(first), *rest))


def in_front(turn: Turn) -> Turn:
    """The turn with its `<image>` marks first, one line, then its words."""
    count = turn.text.count(IMAGE_TOKEN)
    words = "".join(turn.text.split(IMAGE_TOKEN)).strip()
    return Turn(turn.role, IMAGE_TOKEN * count + "\n" + words)


def question(images: Sequence[str], text: str, row: str = "query") -> Conversation:
    """A conversation of one user turn; a `text` without `<image>` gets it in front."""
    marked = text if IMAGE_TOKEN in text or not images else IMAGE_TOKEN * len(images) + "\n" + text
    return Conversation(row, tuple(images), (Turn("user", marked),))


def jinja(template: Template) -> str:
    """The template as a Hugging Face chat template: plain `apply_chat_template` then writes the same text.

    Messages hold a string or a list of parts {"type": "text", "text": ...} and {"type": "image"}.
    """
    before_user, _, after_user = template.user.partition("{text}")
    before_answer, _, _ = template.answer.partition("{text}")
    stop = "eos_token" if template.stop is None else quoted(template.stop)
    words = (
        "{%- if message['content'] is string %}{{- message['content'] }}"
        "{%- else %}{%- for part in message['content'] if part['type'] == 'text' %}"
        "{{- part['text'] }}{%- endfor %}{%- endif %}"
    )
    marks = (
        "{%- set seen = namespace(images=false) %}{%- if message['content'] is not string %}"
        "{%- for part in message['content'] if part['type'] == 'image' %}"
        "{%- set seen.images = true %}{{- '" + IMAGE_TOKEN + "' }}{%- endfor %}{%- endif %}"
    )
    line = "{%- if seen.images %}{{- '\\n' }}{%- endif %}"
    asked = marks + line + words if template.keeps_question else marks
    return (
        "{{- " + quoted(template.system) + " }}"
        "{%- for message in messages %}{%- if message['role'] == 'user' %}"
        "{{- " + quoted(before_user) + " }}" + asked + "{{- " + quoted(after_user) + " }}"
        "{%- elif message['role'] == 'assistant' %}"
        "{{- " + quoted(before_answer) + " }}" + words + "{{- " + stop + " }}"
        "{%- endif %}{%- endfor %}"
    )


def quoted(text: str) -> str:
    """`text` as a Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
