"""Text that UTF-8 can hold: what SQLite, Parquet and JSON Lines take. Nothing else of it is changed."""


def storable(text: str) -> str:
    """`text`, where halves of surrogate pairs, which JSON may bring, have become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
