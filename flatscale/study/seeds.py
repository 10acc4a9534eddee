"""One integer seed per (study seed, thing, purpose): no global state, the same on any machine."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from a study seed and what it is for.

    Args:
        seed: the study's seed.
        purpose: words that name the use, such as a trial id and "initialisation"; different words
            give independent seeds.

    Returns:
        An integer in [0, 2^63), from SHA-256.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
