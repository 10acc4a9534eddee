"""Statistics and report of a store, as a Ray job or by hand: python jobs/analyze.py STORE.

Takes the arguments of `flatscale report`; needs neither torch nor Ray.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flatscale.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "report")
    main()
