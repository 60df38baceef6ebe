"""Protocols: how a benchmark's pictures reach the model. The protocol is part of a result's name and key.

The suffixes and greedy decoding are the paper's in both; they stand with each benchmark.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sharecap.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """Which benchmarks' pictures are cut to their middle square; all others are padded to a square."""

    name: str
    cropped: frozenset[str] = frozenset()


CONSISTENT = Protocol("consistent")
"""Padded everywhere, as in instruction tuning: what the model sees there is what it was taught on."""

SHAREGPT4V = Protocol("sharegpt4v", frozenset({"llava-bench", "mm-vet", "scienceqa", "qbench"}))
"""As the paper's scripts do: three of its five evaluation scripts pass by the padding."""

PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in (CONSISTENT, SHAREGPT4V)}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; `UsageError` that lists the known ones."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol {name!r}", todo=f"choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
