"""One integer seed per (seed, thing, purpose): no global state, the same on any machine.

Seeds form a tree. Its root is the study's seed. Who hands a seed on derives it, by the receiver's
name: the data, the probe, the design, a trial's initialisation, order and measurement. The receiver
derives what it draws from the seed it got, and from nothing else.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from another seed and what it is for.

    Args:
        seed: the study's seed, or one that was derived from it.
        purpose: words that name the use, such as a network's id and "initialisation"; different
            words give independent seeds.

    Returns:
        An integer in [0, 2^63), from SHA-256.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
