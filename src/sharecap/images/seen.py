"""Which images of benchmarks a dataset holds: the search for overlap, told from the benchmarks' side.

An image that was not looked at is not one that the dataset lacks: both answers are kept, by digest.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from sharecap import artifact
from sharecap.errors import SharecapError
from sharecap.images.catalog import Catalog

TABLE = "seen.parquet"
SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("benchmark", pa.string()),
        ("item", pa.string()),
        ("image_id", pa.string()),  # the most alike of the catalog; null: none is within the bound
        ("kind", pa.string()),  # exact, near or null
        ("distance", pa.int64()),  # bits, or null
    ]
)


def write_seen(rows: Iterable[Mapping[str, Any]], place: Path) -> None:
    """A row for every image of a benchmark that was looked at."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), place / TABLE, compression="zstd")


def read_seen(dataset: Path, overlap: Path) -> dict[str, bool]:
    """sha256 of every benchmark image that was looked at -> whether the dataset holds it or one like it.

    `overlap` is the finished search; `SharecapError` if there is none of just this catalog.
    """
    todo = f"run `sharecap check {dataset} --against BENCHMARKS`, with the benchmarks' folders"
    catalog = Catalog.open(dataset)
    if not (overlap / artifact.MANIFEST).exists() or not (overlap / TABLE).exists():
        raise SharecapError("not compared with any benchmark yet", where=dataset, todo=todo)
    if artifact.read(overlap).inputs.get("catalog") != catalog.digest:
        raise SharecapError("has changed since it was compared with benchmarks", where=dataset, todo=todo)
    try:
        rows = pq.read_table(overlap / TABLE, columns=["sha256", "kind"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SharecapError(f"cannot read ({str(error).splitlines()[0]})", where=overlap / TABLE) from None
    return {row["sha256"]: row["kind"] is not None for row in rows}
