"""Where a result came from: the commit, the source code that a model is, and canonical JSON."""

import ast
import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "code_version", "git_state"]

MODELS = Path(__file__).parents[1] / "models"  # importing it takes torch's seconds


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


def git_state() -> tuple[str, bool]:
    """Returns the commit and whether the code that runs differs; ("", False) outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(MODELS.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        code = ("models", "search_spaces", "study")  # a cluster's nodes have no more than these
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *code))
    except (OSError, subprocess.CalledProcessError):
        return "", False


@cache
def code_version(module: str) -> str:
    """Returns a hash of the source of a module of ``models`` and of all that it imports there.

    Comments and layout don't count: the hash is over the syntax trees without docstrings.

    Args:
        module: A dotted name such as ``models.stilt``.
    """
    digest = hashlib.sha256()
    for path in sorted(_closure(_path(module))):
        tree = ast.parse(path.read_text())
        _drop_docstrings(tree)
        digest.update(str(path.relative_to(MODELS)).encode())
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _path(module: str) -> Path:
    base = MODELS.parent.joinpath(*module.split("."))
    package = base / "__init__.py"
    return package if package.exists() else base.with_suffix(".py")


def _closure(start: Path) -> set[Path]:
    """Returns the files that a file imports from ``models``, directly or not, and itself."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        if path.name == "__init__.py":  # a package imports every module of it by iteration
            waiting += path.parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("models"):
                names = [node.module or "", *(f"{node.module}.{n.name}" for n in node.names)]
            elif isinstance(node, ast.Import):
                names = [n.name for n in node.names if n.name.startswith("models")]
            else:
                continue
            # The package's own __init__ imports every model; it is no part of any.
            waiting += [_path(name) for name in names if name != "models"]
    return found


def _drop_docstrings(tree: ast.Module) -> None:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
