"""The folder where Athanor keeps what it need not find out twice."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ATHANOR_CACHE"
"""Environment variable: another folder; empty or `off` for none at all."""


def user_cache() -> Path | None:
    """$ATHANOR_CACHE, or `athanor` in the user's cache folder; None where there is none."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given in ("", "off") else Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "athanor"
    except RuntimeError:  # a user without a home, as in some containers
        return None
