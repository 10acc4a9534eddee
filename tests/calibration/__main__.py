"""Print the calibration table, and write it where a path is given.

`python -m tests.calibration [--tables 600] [--rows WORD] [--columns NAME ...] [--write FILE]`
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import tests.calibration.everything  # noqa: F401
from tests.calibration.harness import (
    CLOSE,
    COLUMNS,
    FRESH,
    MOST,
    MOST_SCANS,
    ROWS,
    markdown,
    measure_until_clear,
    misses,
)

HEAD = """# Calibration of the statistics, {date}

How often each test rejects at a nominal 5%, by simulation; made by `make calibration`. A cell is a
share of the tables in percent with its Monte Carlo error; `*` marks a miss of a limit that
`tests/calibration` holds, `-` a column that refuses to answer such a table. The tables are drawn
from seeds that nothing was tuned on. A row has {tables} tables; where a cell with a limit then lies
within {close:g} Monte Carlo errors of it, on either side, the row is drawn on to {most} tables of
the same stream ({most_scans} in the scan), and all of its cells are those of all its tables. The
rule was fixed before the draws.

Known misses: the scan flags too often where rows of families are copies of each other but for .15
of their spread, too far apart to be told from neighbours (looser copies; the report names the
flagged families whose rows clump), and where family effects have heavy tails. A family whose slope
is turned round is found in a quarter of tables, one shifted along x in half of its rows in a tenth.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=600)
    parser.add_argument("--rows", default="", help="only rows whose name or group holds this")
    parser.add_argument("--columns", nargs="*", help="only these columns")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    names = [
        name
        for name, row in ROWS.items()
        if (chosen.rows in name or chosen.rows in row.group)
        and (chosen.columns is None or {*chosen.columns} & {*COLUMNS[row.group]})
    ]
    most = min((ROWS[name].most for name in names), default=MOST)
    if chosen.tables > most:
        parser.error(f"--tables {chosen.tables}: at most {most}, to which a row is drawn on")
    found = {}
    for name in names:
        start = time.monotonic()
        found[name] = measure_until_clear(
            name, chosen.tables, chosen.processes, FRESH, chosen.columns
        )
        sys.stderr.write(f"{name}: {time.monotonic() - start:.0f} s\n")
    broken = [line for name in names for line in misses(name, found[name])]
    text = markdown(found)
    sys.stdout.write(text)
    if chosen.write:
        chosen.write.parent.mkdir(parents=True, exist_ok=True)
        date = chosen.write.stem.removeprefix("calibration-")
        head = HEAD.format(
            date=date, close=CLOSE, most=MOST, most_scans=MOST_SCANS, tables=chosen.tables
        )
        chosen.write.write_text(head + text)
    sys.stderr.writelines(f"{line}\n" for line in broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
