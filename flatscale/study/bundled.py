"""The study files that come with flatscale, by name: `quickstart` is configs/quickstart.yaml."""

from __future__ import annotations

from pathlib import Path

from flatscale.errors import ConfigError
from flatscale.study.registry import nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_studies() -> dict[str, Path]:
    """Every study file in flatscale's `configs`, by its path there without the ending."""
    inside = _PACKAGE / "configs"  # in a wheel; in a clone it stands beside the package
    folder = inside if inside.is_dir() else _PACKAGE.parent / "configs"
    found = sorted(folder.rglob("*.yaml"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def templates() -> dict[str, str]:
    """The text of every bundled study that is whole, by its name: those over a base are not."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in bundled_studies().items()}
    return {name: text for name, text in texts.items() if "\nbase:" not in f"\n{text}"}


def study_file(path: str | Path) -> Path:
    """The file of that path; where there is none, the bundled study of that name.

    Raises:
        ConfigError: there is neither; the bundled names are listed.
    """
    path = Path(path)
    known = bundled_studies()
    if path.exists() or str(path) in known:
        return path if path.exists() else known[str(path)]
    hint = nearest(str(path.with_suffix("")), known)
    raise ConfigError(
        f"cannot read the study file {path}: there is no such file, nor does a study of that name "
        f"come with flatscale{hint}; these do: {', '.join(known)}"
    )
