"""Writes recorded answers as the file that a benchmark's server or its own scorer takes.

Never writes half a file, and never over one that is there.
"""

import json
from pathlib import Path
from typing import Any

from sharecap.errors import UsageError
from sharecap.evals.benchmarks import mm_vet, mmbench, vizwiz, vqav2
from sharecap.evals.suite import expected, named
from sharecap.images.dataset import disk_errors

LISTS = {"vqav2": vqav2.upload, "vizwiz": vizwiz.upload, "mm-vet": mm_vet.upload}
SHEETS = ("mmbench", "mmbench-cn")


def write_upload(benchmark: str, predictions: Path, labels: Path | None, to: Path) -> int:
    """Write the upload file; returns the number of answers in it."""
    name = named(benchmark)
    if name not in (*LISTS, *SHEETS):
        raise UsageError(f"{name} has no upload file", todo=f"choose from {', '.join((*LISTS, *SHEETS))}")
    if to.exists():
        raise UsageError("this file is there already", where=to, todo="choose another --to")
    if name in SHEETS and labels is None:
        raise UsageError("MMBench's upload repeats the questions", todo="add --labels with the table")
    content: Any
    with expected(name, predictions, todo="are these the predictions, and these the labels?"):
        content = (
            mmbench.upload(predictions, labels) if labels and name in SHEETS else LISTS[name](predictions)
        )
    part = to.with_name(f"{to.name}.part{to.suffix}")
    with disk_errors(to):
        try:
            if name in SHEETS:
                _write_sheet(content, part)
            else:
                part.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)
    return len(content) - (name in SHEETS)  # without the sheet's header


def _write_sheet(rows: list[list[str]], path: Path) -> None:
    import openpyxl  # type: ignore[import-untyped]

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in rows:
        cells = [openpyxl.cell.WriteOnlyCell(sheet, value=value) for value in row]
        for cell in cells:
            cell.data_type = "s"  # an answer that begins with "=" is a text, not a formula
        sheet.append(cells)
    book.save(path)
