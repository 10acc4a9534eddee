"""Sequences of tokens: modular arithmetic, and a text file by characters.

A point is (length, vocabulary), each token a row with a single 1. So a network's derivative by its
input is defined: it is that by the one-hot rows, which an embedding maps linearly.
"""

from __future__ import annotations

from math import gcd
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flatscale.data.source import Source, Split, dataset, required_path
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig
from flatscale.study.seeds import derive_seed

_Share = Annotated[float, Field(gt=0, lt=1)]


@dataset("modular_arithmetic")
def modular_arithmetic(
    config: DataConfig,
    *,
    modulus: Annotated[int, Field(ge=2)] = 97,
    operation: Literal["+", "-", "*", "/"] = "+",
    train_share: _Share = 0.5,
    draw: Annotated[int, Field(ge=0)] = 0,
) -> Source:
    """a, b, `=`: which number is a + b (or a - b, a b, a / b) modulo `modulus`?

    All pairs, split at random; `/` is over the b that have an inverse. Networks learn the training
    pairs long before the others (Power et al. 2022).
    """
    a, b = (part.ravel() for part in np.mgrid[:modulus, :modulus])
    if operation == "/":
        inverse = np.array(
            [pow(n, -1, modulus) if gcd(n, modulus) == 1 else -1 for n in range(modulus)]
        )
        a, b = a[inverse[b] >= 0], b[inverse[b] >= 0]
        results = a * inverse[b]
    else:
        results = {"+": a + b, "-": a - b, "*": a * b}[operation]
    rows = np.stack([a, b, np.full_like(a, modulus)], axis=1)
    order = np.random.default_rng(derive_seed(draw, "modular_arithmetic")).permutation(len(rows))
    where = f"the pairs of numbers below {modulus}"
    train, test = (
        _split(rows[part], results[part] % modulus, modulus + 1, where)
        for part in np.split(order, [round(train_share * len(order))])
    )
    names = tuple(map(str, range(modulus)))
    return Source(train=train, test=test, class_names=names, kind="tokens", balanced=False)


@dataset("text")
def text(
    config: DataConfig,
    *,
    length: Annotated[int, Field(ge=1)] = 32,
    stride: Annotated[int, Field(ge=1)] = 1,
    test_share: _Share = 0.1,
) -> Source:
    """A text file in UTF-8: which character follows `length` others? The end is for testing.

    Windows begin every `stride` characters; no training window reaches into the test part.
    """
    path = required_path(config)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    characters = sorted(set(content))
    codes = np.searchsorted(characters, list(content)) if content else np.empty(0, dtype=np.int64)
    cut = round((1 - test_share) * len(codes))
    splits = []
    for part, where in ((codes[:cut], "the beginning"), (codes[cut:], "the end")):
        if len(part) <= length:
            raise DataError(
                f"{where} of {path} has {len(part)} characters; more than data.options.length = "
                f"{length} are needed"
            )
        windows = np.lib.stride_tricks.sliding_window_view(part, length + 1)[::stride]
        splits.append(
            _split(windows[:, :-1], windows[:, -1], len(characters), f"{where} of {path}")
        )
    return Source(
        train=splits[0],
        test=splits[1],
        class_names=tuple(characters),
        kind="tokens",
        balanced=False,
    )


def _split(
    rows: NDArray[np.int64], labels: NDArray[np.int64], vocabulary: int, where: str
) -> Split:
    """Sequences (n, length) that become one-hot when they are read."""
    one_hot = np.eye(vocabulary, dtype=np.float32)
    return Split(
        labels=labels.astype(np.int64), read=lambda chosen: one_hot[rows[chosen]], where=where
    )
