"""Which source code made a result: hashes of modules and of all that they import.

A hash is over the tokens of the source, so that comments, layout and docstrings don't count, and
is the same under every Python that the project supports. (The dump of a syntax tree is not.)
"""

import ast
import hashlib
import importlib.util
import io
import keyword
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = [
    "FUSION",
    "PACKAGES",
    "SEARCH",
    "STARTING",
    "TRAINING",
    "plug_in_files",
    "source_tokens",
    "source_version",
]

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "search_spaces", "study")

TRAINING = (
    "study.training.loop",
    "study.training.clips",
    "study.training.initialisation",
    "study.data.datasets.parts",
    "study.data.store.record",
)
"""What trains and scores every network: the loop, the clips, and which videos are in which part."""

STARTING = ("study.training.inheritance",)
"""What starts networks from trained ones; of no other network's version."""

FUSION = ("models.fusion", "study.scores", "study.results.rows")
"""What makes rows of scores."""

SEARCH = ("study.search", "study.choices")
"""What proposes and prunes trials, and what chooses among them."""

# A checkpoint, or a result, is read back as it was written or not at all. How a plug-in is found
# changes nothing that it computes; its own source counts.
WITHOUT_EFFECT = frozenset({"models.plugins", "study.training.checkpoint", "study.results.store"})

_IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_LAYOUT = {tokenize.NEWLINE: "\n", tokenize.INDENT: "\t", tokenize.DEDENT: "\b"}
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# From Python 3.12 on, the parts of an f-string are tokens of their own; before, it is one string.
_F_START = getattr(tokenize, "FSTRING_START", None)
_F_END = getattr(tokenize, "FSTRING_END", None)


@cache
def source_version(modules: frozenset[str], *, root: Path = ROOT) -> str:
    """Returns a hash of the source of modules and of all that they import of this project.

    Imports inside functions count, and those for type checkers alone don't. A package that imports
    all of its modules in a loop brings in none of them. Of a package that isn't the project's, a
    plug-in's, every module counts, and so do modules beside it that it imports, unless it is
    installed: what it then imports are libraries.

    Args:
        modules: Dotted names, such as ``models.stilt``.
        root: The folder of the project's packages.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: If a module has no source file.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(modules, root).items()):
        digest.update(f"{name}\0{_digest(path.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()[:16]


def plug_in_files(modules: Iterable[str], *, root: Path = ROOT) -> dict[str, Path]:
    """Returns the files of a plug-in's source, as far as `source_version` counts them.

    Args:
        modules: Dotted names of the plug-in's modules; the project's own have no such files.
        root: The folder of the project's packages.

    Returns:
        Each file by the path, relative to a folder of modules, at which it can be imported.

    Raises:
        ValueError: If a module has no source file.
    """
    return {name: path for name, path in _closure(modules, root).items() if name.endswith(".py")}


@cache
def _digest(source: str) -> str:
    return hashlib.sha256("\0".join(source_tokens(source)).encode()).hexdigest()


def source_tokens(source: str) -> list[str]:
    """Returns the tokens of a module's source without comments, layout and docstrings.

    A comma before a closing bracket, which formatters add and remove, is left out where it makes
    no tuple.

    Raises:
        SyntaxError: If it isn't Python.
    """
    tokens: list[str] = []
    line: list[tuple[int, str]] = []
    for kind, text in _joined_f_strings(source):
        if kind in _IGNORED:
            continue
        if kind in _LAYOUT:
            if not all(kind == tokenize.STRING for kind, _ in line):  # a docstring, or nothing
                tokens += [*_without_last_commas([text for _, text in line]), "\n"]
            line = []
            if kind != tokenize.NEWLINE:
                tokens.append(_LAYOUT[kind])
        else:
            line.append((kind, text))
    return tokens


def _joined_f_strings(source: str) -> Iterator[tuple[int, str]]:
    """Yields kind and text of each token; an f-string is one, with the text that it has."""
    lines = source.split("\n")
    start, depth = (0, 0), 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == _F_START:
            start = start if depth else token.start
            depth += 1
        elif token.type == _F_END:
            depth -= 1
            if not depth:
                yield tokenize.STRING, _between(lines, start, token.end)
        elif not depth:
            yield token.type, token.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, from_column), (last, to_column) = start, end
    text = lines[first - 1 : last]
    text[-1] = text[-1][:to_column]
    text[0] = text[0][from_column:]
    return "\n".join(text)


def _without_last_commas(tokens: list[str]) -> list[str]:
    """Returns a line's tokens without the commas before closing brackets that make no tuple."""
    kept: list[str] = []
    commas: list[int] = []  # of each open bracket, or a large number where commas make no tuple
    for token in tokens:
        if token in _BRACKETS:
            before = kept[-1] if kept else ""
            follows_value = before in _BRACKETS.values() or (
                before.isidentifier() and not keyword.iskeyword(before) and before != "case"
            )
            makes_tuple = follows_value == (token == "[") and token != "{"
            commas.append(0 if makes_tuple else 2)
        elif token in _BRACKETS.values():
            if commas.pop() > 1 and kept[-1] == ",":
                kept.pop()
        elif token == "," and commas:
            commas[-1] += 1
        kept.append(token)
    return kept


def _closure(modules: Iterable[str], root: Path) -> dict[str, Path]:
    """Returns by name the files of modules and of all that they import, directly or not.

    The project's modules have dotted names, a plug-in's files paths from the folder they are in.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set(WITHOUT_EFFECT)
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        top = name.partition(".")[0]
        name = name if top in PACKAGES else top
        if name in seen:
            continue
        seen.add(name)
        if top in PACKAGES:
            files, folder = _project_files(name, root), None
        else:
            files, folder = _plug_in_files(name)
        found |= files
        for own, path in files.items():
            waiting += (
                one
                for one in _imports(own, path)
                if one.partition(".")[0] in PACKAGES or _is_in(folder, one.partition(".")[0])
            )
    return found


def _project_files(name: str, root: Path) -> dict[str, Path]:
    """Returns the file of a module of the project; none where it is a name in a package."""
    base = root.joinpath(*name.split("."))
    package, module_file = base / "__init__.py", base.with_suffix(".py")
    path = package if package.is_file() else module_file
    return {name: path} if path.is_file() else {}


def _plug_in_files(top: str) -> tuple[dict[str, Path], Path | None]:
    """Returns a plug-in's files, and the folder whose other modules are its own too, if any."""
    spec = importlib.util.find_spec(top)
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations]
        files = {
            f"{top}/{path.relative_to(folder).as_posix()}": path
            for folder in folders
            for path in folder.rglob("[!.]*.py")
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        }
        beside = folders[0].parent
    elif spec is not None and spec.has_location and spec.origin is not None:
        files = {f"{top}.py": Path(spec.origin)}
        beside = Path(spec.origin).parent
    else:
        raise ValueError(
            f"module {top!r} has no source file, so that nothing says which code a training of "
            "its model ran; write the model to a file and import it"
        )
    installed = any(beside.glob("*.dist-info"))
    return files, None if installed else beside


def _is_in(folder: Path | None, top: str) -> bool:
    """Returns whether a module of that name would be imported from the folder."""
    if folder is None or not any((folder / name).exists() for name in (f"{top}.py", top)):
        return False
    spec = importlib.util.find_spec(top)
    if spec is None:
        return False
    places = spec.submodule_search_locations or [spec.origin or ""]
    return Path(next(iter(places))).parent == folder


def _imports(name: str, path: Path) -> Iterator[str]:
    """Yields what a file may import: modules, and names in them that may be modules."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not (node.level and name.endswith(".py")):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level]
            source = ".".join([*(parts if node.level else ()), *filter(None, [node.module])])
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a syntax tree but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)
