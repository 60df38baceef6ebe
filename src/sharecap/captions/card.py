"""The dataset card: README.md for a hub and Croissant 1.1 (JSON-LD) with provenance, from what is on record.

Every number comes from manifests, ledger, catalog and register; no caption is quoted. What software cannot
know, the licence of the captions and the terms of the teacher, the user must say.
"""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sharecap import __version__
from sharecap.artifact import Artifact, file_digest, write_atomically
from sharecap.captions.exports import register
from sharecap.captions.exports.parts import TEXTS
from sharecap.captions.exports.register import Export, File
from sharecap.captions.layer import open_layer, side_by_side
from sharecap.captions.ledger import ledger_error, read_only
from sharecap.captions.readme import readme
from sharecap.captions.stats import Lengths
from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog
from sharecap.images.dataset import LEDGER, disk_errors, held
from sharecap.images.failures import failures_of
from sharecap.images.left_out import counted
from sharecap.images.takedown import taken_down

README, CROISSANT = "README.md", "croissant.json"
TOP = 50
"""Licences and sources that are listed by name; the rest is counted as one."""


@dataclass(frozen=True)
class Said:
    """What only the user can say."""

    licence: str  # of the captions, best an SPDX name
    terms: str  # terms of use of the teacher: its name and address, or what they allow
    name: str  # of the data set


@dataclass(frozen=True)
class Origin:
    """One layer that the captions come from."""

    name: str
    captioner: str
    how: str  # prompts, or what it was made of
    pack_digest: str
    sampling: dict[str, Any]
    captions: int
    failures: dict[str, int]
    remedies: dict[str, int]  # "KIND:REMEDY" -> requests whose first answer was no caption
    cost_usd: float | None
    tokens: tuple[int, int] | None
    first: str  # first and last answer, dates; "" if not on record
    last: str
    sealed: str


@dataclass(frozen=True)
class Facts:
    """All that a card says."""

    said: Said
    layer: str
    images: int
    captions: int
    words_mean: float | None
    sources: dict[str, int]  # of the captions
    licences: dict[str, int]  # of the images; "" is unknown
    captioners: dict[str, int]
    origins: list[Origin]  # the layer itself first
    not_taken: dict[str, int]  # files that are no images of the data set, by reason
    left_out: dict[str, int]  # captions without a row in the export, by reason
    taken_down: int
    screened: dict[str, int]  # near-duplicates and images of benchmarks that were dropped, by kind
    exports: list[Export]  # that lie where the card does
    made: str


def write_card(dataset: Path, layer: str, to: Path, said: Said) -> list[Path]:
    """Write both files into `to`, beside an export or alone.

    A file there that sharecap did not write, or that was edited since, is an error and stays. The card is
    registered, so that a takedown brings its counts up to date.
    """
    for what, text in (("--licence", said.licence), ("--terms", said.terms), ("--name", said.name)):
        if not text.strip():
            raise UsageError(f"{what} is empty", todo="a card without it may not be published")
    with disk_errors(to), held(dataset):
        return write_held(dataset, layer, to.resolve(), said)


def write_held(dataset: Path, layer: str, to: Path, said: Said) -> list[Path]:
    """Like `write_card`, for a caller that holds the dataset."""
    earlier = next((e for e in register.exports_of(dataset) if (e.form, e.out) == ("card", str(to))), None)
    written = {file.name: file.sha256 for file in earlier.files} if earlier else {}
    for name in (README, CROISSANT):
        if (to / name).exists() and written.get(name) != file_digest(to / name):
            todo = "move it away, or give another directory with --to"
            raise UsageError(
                "this was not written by sharecap, or was edited since", where=to / name, todo=todo
            )
    found = facts(dataset, layer, to, said)
    texts = {README: readme(found), CROISSANT: json.dumps(croissant(found), indent=1) + "\n"}
    to.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(to / name, text)
    files = [File(n, (to / n).stat().st_size, file_digest(to / n), 0) for n in texts]
    options = {"licence": said.licence, "terms": said.terms, "name": said.name}
    sealed = open_layer(dataset, layer)
    register.record(
        dataset,
        Export("card", layer, sealed.digest, str(to), options, files=files, written=register.now()),
    )
    return [to / name for name in texts]


def facts(dataset: Path, layer: str, to: Path, said: Said) -> Facts:
    """Gather what the card says. Streams over catalog and layer."""
    catalog = Catalog.open(dataset)
    lengths = Lengths()
    sources, licences, captioners = Counter[str](), Counter[str](), Counter[str]()
    for image, (caption,) in side_by_side(catalog, [layer]):
        if caption:
            lengths.add(caption.text)
            sources[image.source] += 1
            licences[image.licence] += 1
            captioners[caption.captioner] += 1
    here = [e for e in register.exports_of(dataset) if e.written and e.layer == layer and _lies_in(e, to)]
    left_out = Counter[str]()
    for export in here:
        left_out.update(export.left_out)
    return Facts(
        said=said,
        layer=layer,
        images=len(catalog),
        captions=lengths.captions,
        words_mean=lengths.words / lengths.captions if lengths.captions else None,
        sources=_top(sources),
        licences=_top(licences),
        captioners=_top(captioners),
        origins=[_origin(dataset, made) for made in lineage(dataset, layer)],
        not_taken=dict(
            sorted(Counter(f.reason for f in failures_of(dataset) if f.reason != "left_out").items())
        ),
        left_out=dict(sorted(left_out.items())),
        taken_down=len(taken_down(dataset)),
        screened=counted(dataset),
        exports=here,
        made=register.now(),
    )


def lineage(dataset: Path, layer: str) -> list[Artifact]:
    """The layer and, below it, every layer that it was made of."""
    found: dict[str, Artifact] = {}
    waiting = [layer]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = open_layer(dataset, name)
            waiting += [key.removeprefix("layer:") for key in found[name].inputs if key.startswith("layer:")]
    return list(found.values())


def _lies_in(export: Export, to: Path) -> bool:
    out = Path(export.out)
    return (out if export.form in ("hf", "webdataset") else out.parent) == to and export.form not in (
        "card",
        "sidecar",
    )


def _top(counts: Counter[str]) -> dict[str, int]:
    named = dict(counts.most_common(TOP))
    rest = counts.total() - sum(named.values())
    return named | ({f"{len(counts) - TOP} others": rest} if rest else {})


def _origin(dataset: Path, made: Artifact) -> Origin:
    config, metrics = made.config, made.metrics
    pack = str(config.get("pack", ""))
    first, last = _dates(dataset, str(config.get("captioner", "")), pack) if pack else ("", "")
    tokens = (metrics["prompt_tokens"], metrics["completion_tokens"]) if "prompt_tokens" in metrics else None
    return Origin(
        name=made.path.name,
        captioner=str(config.get("captioner", "given")),
        how=_how(config),
        pack_digest=str(config.get("pack_digest", "")),
        sampling=dict(config.get("sampling", {})),
        captions=int(metrics["captions"]),
        failures=dict(metrics["failures"]),
        remedies=dict(metrics.get("remedies", {})),
        cost_usd=metrics.get("cost_usd"),
        tokens=tokens,
        first=first,
        last=last,
        sealed=made.finished[:10],
    )


_HOW = {
    "fused": "{fused} fused with alt-text, prompts {pack}",
    "pack": "prompts {pack}",
    "merged": "merged from {merged} by rule {rule}",
    "edited": "{edits} sentence edits of {edited}",
    "curated": "{curated} curated, {rule}",
    "first_sentence_of": "first sentences of {first_sentence_of}",
}
"""How a layer was made, by the first of these that its configuration has."""


def _how(config: dict[str, Any]) -> str:
    told = next((words for name, words in _HOW.items() if name in config), "given, not made by sharecap")
    return told.format_map({k: ", ".join(v) if isinstance(v, list) else v for k, v in config.items()})


def _dates(dataset: Path, model: str, pack: str) -> tuple[str, str]:
    """Days of the first and the last answer that the ledger has from this model to this pack's prompts."""
    path = dataset / LEDGER
    db = read_only(path)
    if db is None:
        return "", ""
    try:
        low, high = db.execute(
            "SELECT min(changed_at), max(changed_at) FROM requests "
            "WHERE model = ? AND state = 'done' AND substr(prompt_id, 1, ?) = ?",
            (model, len(pack) + 1, f"{pack}/"),
        ).fetchone()
    except sqlite3.Error as error:
        raise ledger_error(error, path) from error
    finally:
        db.close()
    days = [datetime.fromtimestamp(t, UTC).date().isoformat() if t else "" for t in (low, high)]
    return days[0], days[1]


CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the Croissant 1.1 specification asks for, and W3C's PROV."""

_MEDIA = {
    "hf": "application/x-parquet",
    "webdataset": "application/x-tar",
    "llava": "application/json",
}


def croissant(found: Facts) -> dict[str, Any]:
    """The card as Croissant 1.1 JSON-LD."""
    distribution: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for export in found.exports:
        distribution += [_file_object(export, file) for file in export.files]
        if export.form == "hf":
            distribution.append(_SHARDS)
            records.append(_RECORDS)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": found.said.name,
        "description": f"{found.captions} captions of {found.images} images. {_told(found)}",
        "license": found.said.licence,
        "usageInfo": found.said.terms,
        "version": "1.0.0",
        "dateCreated": found.origins[-1].sealed,
        "dateModified": found.made[:10],
        "datePublished": found.made[:10],
        "distribution": distribution,
        "recordSet": records,
        "rai:machineAnnotationTools": sorted({origin.captioner for origin in found.origins}),
        "rai:dataCollectionMissingData": _dropped(found),
        "prov:wasGeneratedBy": [_activity(origin, found.said) for origin in found.origins],
    }


def _file_object(export: Export, file: File) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "contentUrl": file.name,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": _MEDIA[export.form],
        "sha256": file.sha256,
    }


def _told(found: Facts) -> str:
    return "; ".join(f"layer {o.name} by {o.captioner} ({o.how})" for o in found.origins)


def _dropped(found: Facts) -> str:
    drops = {
        "files that could not be taken": found.not_taken,
        "images without a caption": found.origins[0].failures,
        "captions left out of the export": found.left_out,
        "images dropped": found.screened,
    }
    told = [f"{what}: {_listed(kinds)}" for what, kinds in drops.items() if kinds]
    return "; ".join([*told, f"taken down: {found.taken_down}"])


def _listed(kinds: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())


def _activity(origin: Origin, said: Said) -> dict[str, Any]:
    pack = {"@type": "prov:Plan", "@id": f"#pack-{origin.name}", "prov:value": f"sha256:{origin.pack_digest}"}
    activity: dict[str, Any] = {
        "@type": "prov:Activity",
        "@id": f"#layer-{origin.name}",
        "prov:label": f"{origin.how}: {origin.captions} captions",
        "prov:endedAtTime": origin.last or origin.sealed,
        "prov:wasAssociatedWith": {
            "@type": "prov:SoftwareAgent",
            "@id": f"#captioner-{origin.name}",
            "prov:label": origin.captioner,
        },
        "prov:used": [pack] if origin.pack_digest else [],
        "dct:rights": said.terms,
        "dct:extent": _dropped_of(origin),
        "dct:creator": f"sharecap {__version__}",
    }
    if origin.first:
        activity["prov:startedAtTime"] = origin.first
    return activity


def _dropped_of(origin: Origin) -> str:
    cost = "unknown" if origin.cost_usd is None else f"{origin.cost_usd:.4f} USD"
    what = f"captions: {origin.captions}; failed: {_listed(origin.failures) or 'none'}; cost: {cost}"
    return f"{what}; asked again: {_listed(origin.remedies)}" if origin.remedies else what


def _field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"captions/{name}",
        "name": name,
        "dataType": kind,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}, **more},
    }


_SHARDS = {
    "@type": "cr:FileSet",
    "@id": "shards",
    "name": "shards",
    "encodingFormat": _MEDIA["hf"],
    "includes": "data/*.parquet",
}
_RECORDS = {
    "@type": "cr:RecordSet",
    "@id": "captions",
    "name": "captions",
    "key": {"@id": "captions/image_id"},
    "field": [
        _field("image", "sc:ImageObject", transform={"jsonPath": "bytes"}),
        *(_field(name, "sc:Text") for name in TEXTS),
    ],
}
"""Rows of the Parquet shards, column by column."""
