"""A tracking URI's password reaches no log, no file and no message."""

from __future__ import annotations

from pathlib import Path

import pytest

from flatscale.errors import ConfigError
from flatscale.store.results import Store
from flatscale.study.reading import parse_config
from flatscale.study.redaction import without_password, without_passwords
from tests.records_by_hand import study

URI = "postgresql://me:secret@host:5432/db"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:secret@host:5000/a?token=secret", "https://me:***@host:5000/a"),
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("https://:secret@host", "https://host"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_passwords_are_taken_out_of_any_text() -> None:
    text = f"cannot reach {URI} nor https://x:secret@y/z, but mailto:a@b"
    assert "secret" not in without_passwords(text)
    assert without_passwords("a@b:c and sqlite:///x:y@z") == "a@b:c and sqlite:///x:y@z"


def test_the_stored_study_and_its_hash_hold_no_password(tmp_path: Path) -> None:
    config = study(tracking={"uri": URI})
    store = Store(tmp_path / "store")
    store.prepare(config)
    assert "secret" not in store.study_file.read_text()
    other = study(tracking={"uri": URI.replace("secret", "changed")})
    assert config.content_hash == other.content_hash == store.read_study().content_hash


def test_a_refused_study_shows_no_password() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"name": "a", "tracking": URI})
    assert "secret" not in str(caught.value)
