"""A model's own chat template (Hugging Face's Jinja), taken apart into what is given and what is said.

The conversation is rendered up to each answer and up to its end; each text must go on from the one before it,
so what lies between them is the answer, by construction. It must never look for answers in a finished text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from jinja2 import TemplateError

from sharecap.chat.dialogue import LEADING, Dialogue, Exchange
from sharecap.errors import SharecapError
from sharecap.records import IMAGE_TOKEN

if TYPE_CHECKING:  # planning from lengths must not wait for transformers to load
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

OWN = "own"
PROBE, REPLY = "probe question", "probe answer"
TODO = "use a template of sharecap's (vicuna_v1, chatml) or mend the model's"
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """What a `Template` says of itself, found out from the model's chat template by two probes."""

    tokenizer: "PreTrainedTokenizerBase"  # renders, and fills in its own special tokens
    jinja: str
    image: str  # the token that the template writes once per image
    typed: bool  # whether it reads contents as lists of parts; else as strings, with `image` in them
    stop: str  # the special token that ends an answer
    joint: str  # what it writes between a question and its answer, from the last special token on
    name: str = OWN
    marks: tuple[str, ...] = ()
    starts: bool = False  # a start token, where the model wants one, is in the template

    @classmethod
    def of(cls, speaker: "ProcessorMixin | PreTrainedTokenizerBase") -> Self:
        """That of a processor or tokenizer; `SharecapError` if it has none that can be learned from."""
        from transformers import ProcessorMixin

        tokenizer: Any = speaker.tokenizer if isinstance(speaker, ProcessorMixin) else speaker
        found = speaker.chat_template
        jinja = found.get("default") if isinstance(found, dict) else found
        if not jinja:
            raise SharecapError("the model has no chat template", where=tokenizer.name_or_path, todo=TODO)
        image = getattr(speaker, "image_token", None) or IMAGE_TOKEN
        bare = cls(tokenizer, jinja, image, typed=True, stop="", joint="")
        typed = cls(tokenizer, jinja, image, bare.reads_parts(), "", "")
        asked = typed.render([typed.message("user", PROBE)], answer=True)
        told = typed.render([typed.message("user", PROBE), typed.message("assistant", REPLY)])
        control = re.compile("|".join(map(re.escape, control_tokens(tokenizer))) or "(?!)")
        end = control.search(told, told.rfind(REPLY)) if REPLY in told else None
        if end is None or PROBE not in asked:
            what = "the model's chat template ends no answer with a special token"
            raise SharecapError(what, where=tokenizer.name_or_path, todo=TODO)
        after = asked[asked.rfind(PROBE) + len(PROBE) :]
        last = [mark.start() for mark in control.finditer(after)]
        joint = after[last[-1] :] if last else after
        return cls(tokenizer, jinja, image, typed.typed, end[0], joint)

    def reads_parts(self) -> bool:
        """Whether the template writes the text of a content that is a list of parts."""
        try:
            text = self.render([self.message("user", PROBE)])
        except SharecapError:
            return False
        return PROBE in text and "'type'" not in text  # a list that is printed as Python would print it

    def render(self, messages: Sequence[Message], answer: bool = False, row: str | None = None) -> str:
        """The messages as text, up to where the next answer starts if `answer`."""
        where = self.tokenizer.name_or_path if row is None else f"row {row}"
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.jinja, tokenize=False, add_generation_prompt=answer
            )
        except (TemplateError, TypeError) as error:
            raise SharecapError(
                f"the model's chat template fails ({error})", where=where, todo=TODO
            ) from None
        assert isinstance(text, str)
        return text

    def message(self, role: str, text: str) -> Message:
        """One turn as the template reads it. Images that lead the text need no line of their own here."""
        if not self.typed:
            return {"role": role, "content": text.replace(IMAGE_TOKEN, self.image)}
        leading = LEADING.match(text)
        first = leading[0].count(IMAGE_TOKEN) if leading else 0
        words = text[leading.end() :] if leading else text
        content: list[Message] = [{"type": "image"}] * first
        for i, piece in enumerate(words.split(IMAGE_TOKEN)):
            content += [{"type": "image"}] * (i > 0)
            content += [{"type": "text", "text": piece}] * bool(piece)
        return {"role": role, "content": content}

    def exchanges(self, dialogue: Dialogue) -> list[Exchange]:
        """The dialogue's text in pieces; `SharecapError` where the texts do not go on from each other.

        What the template writes after the last answer's stop is left out: no token of it is learned.
        """
        row = dialogue.row
        messages = [] if dialogue.system is None else [self.message("system", dialogue.system)]
        done = ""
        written: list[Exchange] = []
        for turn in dialogue.rounds:
            messages.append(self.message("user", turn.asked))
            asked = self.render(messages, answer=True, row=row)
            given = self.rest(asked, done, row)
            if turn.answer is None:
                return [*written, Exchange(given, None, turn.images)]
            messages.append(self.message("assistant", turn.answer))
            answered = self.rest(self.render(messages, row=row), asked, row)
            said, stop, _ = answered.partition(self.stop)
            if not stop or said.strip() != turn.answer.strip() or not asked.endswith(self.joint):
                what = (
                    f"the model's chat template writes {answered[:60]!r} for the answer {turn.answer[:60]!r}"
                )
                raise SharecapError(what, where=f"row {row}", todo=TODO)
            written.append(Exchange(given, said, turn.images))
            done = asked + said + stop
        return written

    def rest(self, text: str, before: str, row: str) -> str:
        """`text` after `before`, with which it must start."""
        if not text.startswith(before):
            what = "the model's chat template changes earlier turns when later ones come"
            raise SharecapError(what, where=f"row {row}", todo=TODO)
        return text[len(before) :]


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts that the tokenizer turns into special tokens, longest first."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *added}, key=lambda text: (-len(text), text))
