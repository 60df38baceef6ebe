"""The captioners: a chat-completions endpoint, a local checkpoint. `open_teacher` makes one from its name."""

from sharecap.captions.teachers.open import open_teacher

__all__ = ["open_teacher"]
