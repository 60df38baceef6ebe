"""What of a dataset is looked at: filters, words and order, turned into one look-up of the index.

Pages are found by the last row of the page before (keyset), so the thousandth costs what the first does.
All that comes from the browser is checked here; it reaches SQL as bound values only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from sharecap.errors import UsageError
from sharecap.web.index import DUPLICATE, OVERLAP, Index, LayerRow

PAGE = 60
"""Images per page."""

ORDERS = {"": "as in the catalog", "longest": "longest first", "shortest": "shortest first"} | {
    "best": "best score first",
    "worst": "worst score first",
}
STATES = {"": "all", "captioned": "with a caption", "missing": "without one", "marked": "marked by hand"} | {
    "duplicate": "near-duplicates",
    "overlap": "like a benchmark's",
}
FEW = 20_000
"""Images with the words sought up to which they are sorted; of more, one goes along the order and looks."""

_SORTED = {"longest": ("words", True), "shortest": ("words", False), "best": ("score", True)} | {
    "worst": ("score", False)
}


@dataclass(frozen=True)
class Query:
    """The gallery's settings, as they stand in its address."""

    layer: str = ""
    source: str = ""
    state: str = ""  # one of STATES
    failure: str = ""
    flag: str = ""
    least: int | None = None  # words
    most: int | None = None
    score_from: float | None = None
    score_to: float | None = None
    q: str = ""  # words to be found in the caption
    order: str = ""  # one of ORDERS

    def address(self, **changes: object) -> str:
        """The query as part of an address."""
        fields = {k: v for k, v in vars(self).items() if v not in ("", None)} | changes
        return urlencode({k: v for k, v in fields.items() if v not in ("", None)})


@dataclass(frozen=True)
class Found:
    """One page of images, by their places in the catalog."""

    places: list[int]
    after: str  # cursor of the next page; "" on the last one


def parse(fields: dict[str, str], names: Iterable[str]) -> Query:
    """A query out of an address; `UsageError` for what isn't one. `names` are the layers there are."""
    known = list(names)
    layer = fields.get("layer") or known[0]
    if layer not in known:
        raise UsageError("no such layer", where=layer[:100])
    order, state = fields.get("order", ""), fields.get("state", "")
    if order not in ORDERS or state not in STATES:
        raise UsageError("unknown order or state", where=(order or state)[:100])
    words = {k: _number(fields.get(k, ""), int) for k in ("least", "most")}
    scores = {k: _number(fields.get(k, ""), float) for k in ("score_from", "score_to")}
    texts = {k: fields.get(k, "")[:300].strip() for k in ("source", "failure", "flag", "q")}
    return Query(layer, order=order, state=state, **texts, **words, **scores)  # type: ignore[arg-type]


def _number(text: str, kind: type[int] | type[float]) -> float | None:
    try:
        value = kind(text) if text.strip() else None
    except ValueError:
        raise UsageError("not a number", where=text[:100]) from None
    if value is not None and not -1e12 < value < 1e12:
        raise UsageError("a number out of bounds", where=text[:100])
    return value


def match_of(words: str) -> str:
    """What people type as FTS5's own syntax: all words, "phrases", beginnings* and -exclusions."""
    wanted: list[str] = []
    unwanted: list[str] = []
    for minus, phrase, word in re.findall(r'(-?)(?:"([^"]*)"|([^\s"]+))', words.replace("\0", " ")):
        text = phrase or word
        if not re.search(r"\w", text):
            continue
        star = "*" if word.endswith("*") else ""
        (unwanted if minus else wanted).append('"' + text.rstrip("*").replace('"', "") + '"' + star)
    if not wanted:
        return ""
    return " AND ".join(wanted) + "".join(f" NOT {one}" for one in unwanted)


class Finder:
    """Answers queries on one index. `marked` are the places that a person has edited, flagged or dropped."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def page(
        self,
        query: Query,
        after: str = "",
        *,
        size: int = PAGE,
        back: bool = False,
        marked: Iterable[int] = (),
    ) -> Found:
        """Up to `size` images after the cursor; `back`: before it, nearest first."""
        layer = self.index.layers().get(query.layer)
        if layer is None:  # nothing of it is in yet
            return Found([], "")
        column, descending = _SORTED.get(query.order, ("at", False))
        if not layer.sorted and column != "at":  # it can't be sorted while it is being taken in
            column, descending = "at", False
        where, values = self._where(query, layer, marked)
        if column != "at":
            where.append(f"f.{column} IS NOT NULL")
        down = descending != back
        if after:
            place = _cursor(after)
            sign = "<" if down else ">"
            if column == "at":
                where.append(f"f.at {sign} ?")
                values.append(int(place[-1]))
            else:
                at_sign = "<" if back else ">"
                where.append(f"(f.{column} {sign} ? OR (f.{column} = ? AND f.at {at_sign} ?))")
                where.append(f"f.{column} {sign}= ?")
                values += [place[0], place[0], int(place[-1]), place[0]]
        ways = f"f.{column} {'DESC' if down else 'ASC'}"
        if column != "at":
            ways += f", f.at {'DESC' if back else 'ASC'}"
        source = self._from(query, layer, column)
        statement = f"SELECT f.at, f.{column} FROM {source} WHERE {' AND '.join(where) or '1'}"
        rows = self.index.rows(f"{statement} ORDER BY {ways} LIMIT {size + 1}", *values)
        places = [int(row[0]) for row in rows[:size]]
        last = rows[size - 1] if len(rows) > size else None
        cursor = "" if last is None else str(last[0]) if column == "at" else f"{last[1]!r}~{last[0]}"
        return Found(places, cursor)

    def count(self, query: Query, marked: Iterable[int] = ()) -> int:
        """How many images there are."""
        layer = self.index.layers().get(query.layer)
        if layer is None:
            return 0
        where, values = self._where(query, layer, marked)
        if match_of(query.q) and not where[1:]:
            source = f"search_{layer.n} WHERE search_{layer.n} MATCH ?"
        elif where:
            source = f"{self._from(query, layer, 'at')} WHERE {' AND '.join(where)}"
        else:
            source = f"facts_{layer.n}"
        return int(self.index.rows(f"SELECT count(*) FROM {source}", *values)[0][0])

    def cursor_of(self, query: Query, at: int) -> str:
        """The cursor that stands at an image."""
        column, _ = _SORTED.get(query.order, ("at", False))
        layer = self.index.layers().get(query.layer)
        if column == "at" or layer is None or not layer.sorted:
            return str(at)
        found = self.index.rows(f"SELECT {column} FROM facts_{layer.n} WHERE at = ?", at)
        return f"{found[0][0]!r}~{at}" if found and found[0][0] is not None else str(at)

    def beside(self, query: Query, at: int, marked: Iterable[int] = ()) -> tuple[int | None, int | None]:
        """The images before and after one, in the query's order."""
        cursor = self.cursor_of(query, at)
        if "~" not in cursor and _SORTED.get(query.order, ("at",))[0] != "at":
            query = replace(query, order="")
        marked = list(marked)
        before = self.page(query, cursor, size=1, back=True, marked=marked).places
        after = self.page(query, cursor, size=1, marked=marked).places
        return next(iter(before), None), next(iter(after), None)

    def _from(self, query: Query, layer: LayerRow, column: str) -> str:
        """Which table is gone along, and which is looked into."""
        if not match_of(query.q):
            return f"facts_{layer.n} f"
        table = f"search_{layer.n}"
        if column != "at" and self._many(query, table):
            return f"facts_{layer.n} f CROSS JOIN {table} ON {table}.rowid = f.at"
        return f"{table} CROSS JOIN facts_{layer.n} f ON f.at = {table}.rowid"

    def _many(self, query: Query, table: str) -> bool:
        statement = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {table} MATCH ? LIMIT {FEW})"
        return bool(self.index.rows(statement, match_of(query.q))[0][0] >= FEW)

    def _where(self, query: Query, layer: LayerRow, marked: Iterable[int]) -> tuple[list[str], list[object]]:
        where: list[str] = []
        values: list[object] = []
        if match := match_of(query.q):
            where.append(f"search_{layer.n} MATCH ?")
            values.append(match)
        for kind, column, word in (("source", "source", query.source), ("failure", "failure", query.failure)):
            if word:
                numbers = [n for n, w in self.index.words(kind).items() if w == word]
                where.append(f"f.{column} = ?")
                values.append(numbers[0] if numbers else -1)
        if query.flag:
            numbers = [n for n, w in self.index.words("flags").items() if query.flag in w.split()]
            where.append(f"f.flags IN ({', '.join(map(str, numbers)) or 'NULL'})")
        bounds = (
            ("words", ">=", query.least),
            ("words", "<=", query.most),
            ("score", ">=", query.score_from),
            ("score", "<=", query.score_to),
        )
        for column, sign, value in bounds:
            if value is not None:
                where.append(f"f.{column} {sign} ?")
                values.append(value)
        by_state = {
            "captioned": "f.words IS NOT NULL",
            "missing": "f.words IS NULL",
            "duplicate": f"f.near & {DUPLICATE}",
            "overlap": f"f.near & {OVERLAP}",
            "marked": f"f.at IN ({', '.join(map(str, map(int, marked))) or 'NULL'})",
        }
        if query.state:
            where.append(by_state[query.state])
        return where, values


def _cursor(text: str) -> list[float]:
    found = re.fullmatch(r"(?:(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)~)?(\d{1,12})", text)
    if not found:
        raise UsageError("not a place in the gallery", where=text[:100])
    return [float(part) for part in found.groups() if part is not None]
