"""Prompt packs: what a captioner is asked about an image, by the image's source (paper, section 3.1).

A pack is data: role sentence + source-specific part + constraints. The rendered text is what enters the
request key, so a pack that changes by one letter never reuses an answer that was given to another question.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharecap.artifact import key_of
from sharecap.errors import UsageError
from sharecap.records import Image


@dataclass(frozen=True, slots=True)
class Prompt:
    """The words that go to the captioner. `id` is "pack@version/source" with the part that was used."""

    id: str
    text: str


@dataclass(frozen=True)
class Pack:
    """A prompt pack, checked."""

    name: str
    version: str
    role: str
    constraints: str
    sources: Mapping[str, str]  # source name -> its part of the prompt
    default: str | None = None  # part for any other source; None: other sources are an error
    routes: tuple[tuple[str, str], ...] = ()  # (path glob, source name), first match wins

    @property
    def digest(self) -> str:
        """Digest of everything that can enter a prompt."""
        return key_of("pack", self, {})

    def render(self, image: Image) -> Prompt:
        """The prompt for `image`; `UsageError` naming the known sources if the pack has none for it."""
        source = self.route(image)
        part = self.sources.get(source, self.default)
        if part is None:
            raise self.unknown([source])
        used = source if source in self.sources else "default"
        text = "\n".join(piece for piece in (self.role, part, self.constraints) if piece)
        return Prompt(f"{self.name}@{self.version}/{used}", text)

    def route(self, image: Image) -> str:
        """The source whose part is used: the image's own if the pack knows it, else the first route's."""
        if image.source in self.sources:
            return image.source
        return next((name for glob, name in self.routes if fnmatchcase(image.path, glob)), image.source)

    def check(self, images: Iterable[Image]) -> None:
        """`UsageError` naming every source that the pack has no prompt for; nothing is sent before this."""
        if self.default is None:
            unknown = {name for image in images if (name := self.route(image)) not in self.sources}
            if unknown:
                raise self.unknown(sorted(unknown))

    def unknown(self, names: list[str]) -> UsageError:
        """The error for sources that the pack doesn't know."""
        listed = ", ".join(repr(name) for name in names[:5]) + (" ..." if len(names) > 5 else "")
        todo = f"it knows {', '.join(sorted(self.sources))}; add a [default] or a [source.NAME] to the pack"
        return UsageError(f"prompt pack {self.name!r} has no prompt for source {listed}", todo=todo)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Part(_Strict):
    prompt: str = Field(min_length=1)


class _Route(_Strict):
    path: str = Field(min_length=1)
    source: str


class _File(_Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    role: str = ""
    constraints: str = ""
    source: dict[str, _Part] = {}
    default: _Part | None = None
    route: list[_Route] = []


def known_packs() -> list[str]:
    """Names of the packs that come with sharecap."""
    folder = resources.files("sharecap.captions") / "packs"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_pack(name_or_path: str | Path) -> Pack:
    """The pack of that name, or from a TOML file; `UsageError` if there is none or it is malformed."""
    text, where = _read(name_or_path)
    try:
        parsed = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the prompt pack is no TOML ({error})", where=where) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"bad prompt pack, {field}: {first['msg']}", where=where) from None
    pack = Pack(
        name=parsed.name,
        version=parsed.version,
        role=parsed.role.strip(),
        constraints=parsed.constraints.strip(),
        sources={name: part.prompt.strip() for name, part in parsed.source.items()},
        default=parsed.default.prompt.strip() if parsed.default else None,
        routes=tuple((route.path, route.source) for route in parsed.route),
    )
    astray = sorted({name for _, name in pack.routes} - set(pack.sources))
    if astray:
        raise UsageError(f"bad prompt pack, a route leads to unknown source {astray[0]!r}", where=where)
    if not pack.sources and pack.default is None:
        raise UsageError("the prompt pack has no prompt", where=where, todo="add a [default] with a prompt")
    return pack


def _read(name_or_path: str | Path) -> tuple[str, object]:
    name = str(name_or_path)
    if name in known_packs():
        return (resources.files("sharecap.captions") / "packs" / f"{name}.toml").read_text("utf-8"), name
    path = Path(name_or_path)
    if not path.is_file():
        todo = f"give a TOML file or one of {', '.join(known_packs())}"
        raise UsageError("no such prompt pack", where=name, todo=todo)
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompt pack ({error})", where=path) from None
