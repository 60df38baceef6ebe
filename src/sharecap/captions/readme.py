"""README.md of a dataset card: a YAML head as hubs read it, then tables of counts.

Names of sources, models and licences come from outside: nothing of them may become markup.
"""

import html
from typing import TYPE_CHECKING

from sharecap.markdown import markdown, one_line, table, yaml_text

if TYPE_CHECKING:
    from sharecap.captions.card import Facts, Origin

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def said(text: str) -> str:
    """What the user says of the data set: their own Markdown, but no HTML and on one line."""
    return html.escape(one_line(text), quote=False)


def readme(found: "Facts") -> str:
    """The whole file."""
    words = found.said
    parts = [
        _head(found),
        f"# {said(words.name)}",
        f"{found.captions:,} captions of {found.images:,} images, made with sharecap. "
        + (f"{found.words_mean:.1f} words each on average." if found.words_mean is not None else ""),
        "## Licence and terms",
        f"The captions: {said(words.licence)}. Terms of use of the teacher: {said(words.terms)}. "
        "The images keep their own licences:",
        table(("licence of the image", "captions"), _named(found.licences, "not stated")),
        "## Where the captions come from",
        table(("captioner", "captions"), _named(found.captioners, "not stated")),
        *(_origin(origin) for origin in found.origins),
        "## Sources of the images",
        table(("source", "captions"), _named(found.sources, "not stated")),
        "## What is not in it",
        table(("why", "images"), _drops(found)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: "Facts") -> str:
    size = next((name for bound, name in _SIZES if found.captions < bound), "1M<n<10M")
    lines = [
        "---",
        f"pretty_name: {yaml_text(found.said.name)}",
        f"license: {yaml_text(found.said.licence)}",
        "task_categories:",
        "- image-to-text",
        "tags:",
        "- synthetic",
        "- image-captions",
        f"size_categories:\n- {size}",
    ]
    if any(export.form == "hf" for export in found.exports):
        lines += [
            "configs:",
            "- config_name: default",
            "  data_files:",
            "  - split: train",
            '    path: "data/train-*.parquet"',
        ]
    return "\n".join([*lines, "---"])


def _origin(origin: "Origin") -> str:
    cost = "not known (no price was given)" if origin.cost_usd is None else f"{origin.cost_usd:,.4f} USD"
    rows = [
        ("captioner", markdown(origin.captioner)),
        ("made by", markdown(origin.how)),
        ("digest of the prompts", f"`{origin.pack_digest}`" if origin.pack_digest else "no prompts"),
        ("sampling", markdown(", ".join(f"{k} {v}" for k, v in origin.sampling.items() if v is not None))),
        ("captions", f"{origin.captions:,}"),
        ("cost", cost),
        ("tokens in, out", f"{origin.tokens[0]:,}, {origin.tokens[1]:,}" if origin.tokens else ""),
        ("answered", f"{origin.first} to {origin.last}" if origin.first else ""),
        ("asked again", ", ".join(f"{step} {n:,}" for step, n in origin.remedies.items())),
        ("sealed", origin.sealed),
    ]
    kept = [(what, value) for what, value in rows if value]
    return f"### Layer {markdown(origin.name)}\n\n" + table(("", ""), kept)


def _drops(found: "Facts") -> list[tuple[str, str]]:
    rows = [(f"file not taken: {kind}", n) for kind, n in found.not_taken.items()]
    rows += [(f"no caption: {kind}", n) for kind, n in found.origins[0].failures.items()]
    rows += [(f"left out of the export: {kind}", n) for kind, n in found.left_out.items()]
    rows += [(f"image dropped: {kind}", n) for kind, n in found.screened.items()]
    rows.append(("taken down on request", found.taken_down))
    return [(markdown(why), f"{n:,}") for why, n in rows]


def _named(counts: dict[str, int], unnamed: str) -> list[tuple[str, str]]:
    return [(markdown(name) or unnamed, f"{n:,}") for name, n in counts.items()]
