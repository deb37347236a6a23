"""Where a result came from: fingerprints, canonical JSON and the commit."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "fingerprint", "git_state"]

ROOT = Path(__file__).parents[1]


def canonical_json(value: Any) -> str:
    """Returns JSON with sorted keys and no blanks: equal values give equal strings.

    Raises:
        ValueError: If the value holds something that JSON can't, NaN and infinity among them.
    """
    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} can't be written as JSON: {error}") from None


def fingerprint(value: Any, *, digits: int = 16) -> str:
    """Returns hexadecimal digits of SHA-256 over a value's canonical JSON.

    Raises:
        ValueError: If the value holds something that JSON can't.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def git_state() -> tuple[str, bool]:
    """Returns the commit and whether the code that runs differs; ("", False) outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        code = ("models", "search_spaces", "study")  # a cluster's nodes have no more than these
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *code))
    except (OSError, subprocess.CalledProcessError):
        return "", False
