"""Keeping passwords out of everything that is logged, tracked, stored or shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@/\s]*@")


def without_password(uri: str) -> str:
    """A URI fit to be seen: its password, and any query of a server's, left out."""
    try:
        parts = urlsplit(uri)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return without_passwords(uri)
    if not parts.netloc or (parts.password is None and not parts.query):
        return uri
    user = f"{parts.username}:***@" if parts.username else ""
    host = f"{user}{parts.hostname or ''}{port}"
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def without_passwords(text: str) -> str:
    """Any text with the passwords of the URIs in it replaced by `***`."""
    return _PASSWORD.sub(r"\1:***@", text)
