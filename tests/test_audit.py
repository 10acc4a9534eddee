"""The audit of the dependencies: a vulnerability fails it, silence is said and is no pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / ".ci" / "audit"
SOUND = '{"name": "sound", "version": "1.0", "vulns": []}'
WEAK = '{"name": "weak", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}'
UNKNOWN = '{"name": "unknown", "skip_reason": "not found"}'


def audit(tmp_path: Path, answer: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The audit with a program in pip-audit's place that gives this answer, or none."""
    program = tmp_path / "pip-audit"
    write = "" if answer is None else f"open(sys.argv[-1], 'w').write({answer!r})\n"
    program.write_text(f"#!{sys.executable}\nimport sys\n{write}sys.exit(1)\n")
    program.chmod(0o755)
    return subprocess.run(
        [sys.executable, str(AUDIT), *arguments],
        env={**os.environ, "PIP_AUDIT": str(program)},
        capture_output=True,
        text=True,
        check=False,
    )


def packages(*found: str) -> str:
    return '{"dependencies": [' + ", ".join(found) + "]}"


@pytest.mark.parametrize("answer", [None, "", packages(), packages(UNKNOWN)])
def test_where_nothing_was_audited_it_says_so_and_does_not_pass(
    tmp_path: Path, answer: str | None
) -> None:
    done = audit(tmp_path, answer)
    assert done.returncode == 3
    assert done.stdout.startswith("audit: skipped")
    assert len(done.stdout.splitlines()) == 1
    done = audit(tmp_path, answer, "--where-possible")
    assert done.returncode == 0
    assert done.stdout.startswith("audit: skipped")


def test_a_vulnerability_fails_it(tmp_path: Path) -> None:
    for arguments in ((), ("--where-possible",)):
        done = audit(tmp_path, packages(SOUND, WEAK, UNKNOWN), *arguments)
        assert done.returncode == 1
        assert "weak 1.0: PYSEC-1, fixed in 1.1" in done.stdout


def test_what_was_audited_is_counted(tmp_path: Path) -> None:
    done = audit(tmp_path, packages(SOUND, UNKNOWN), "--where-possible")
    assert done.returncode == 0
    assert "audit: 1 of" in done.stdout
    assert "0 vulnerable" in done.stdout
