"""A study's request as a file, ``study.toml``: the flags of ``study.run`` by name, in groups.

Every study writes its own into its results, and ``--config`` reads one. What stands in a file is
parsed as if it were typed, so a file and a command line allow the same.
"""

import argparse
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from study.request import Study
from study.results.store import ResultStore
from study.training.weights import EVERYWHERE, KINDS

__all__ = [
    "Section",
    "flags_over",
    "flat",
    "read_flags",
    "render_request",
    "value_of",
    "write_request",
]

BY_NAME = ("set", "search")  # flags of NAME=VALUE pairs, each a table of its own in the file
HEADING = """\
# Study {name!r}: protocol {protocol}, code {code}.
# `python -m study.run --config FILE` repeats it; flags that are given with it win.
# What is commented out was not asked for, and came to these values.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Flags that stand together, in ``--help`` and in the file.

    Attributes:
        name: The table's name in the file.
        title: What the flags say, in a few words.
        flags: The flags, as ``argparse`` has them.
    """

    name: str
    title: str
    flags: list[argparse.Action] = field(default_factory=list)


def read_flags(path: str | Path, sections: Sequence[Section]) -> list[str]:
    """Returns the flags that a file asks for, as a command line has them.

    Args:
        path: The file. Each key is a flag without its dashes, in whichever section's table or in
            none; ``set`` and ``search`` are tables of names and values.
        sections: The flags that there are.

    Raises:
        ValueError: If there is no such file, it is no TOML, or it has a key that is no flag, or one
            twice; the message names the nearest.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path} can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config {path} is not TOML: {error}") from None
    flags = {_key(flag): flag for section in sections for flag in section.flags}
    tables = {section.name for section in sections}
    entries = list(_entries(content, tables))
    keys = [key for key, _ in entries]
    if unknown := [key for key in keys if key not in flags]:
        raise ValueError(
            f"--config {path}: {'; '.join(_unknown(k, [*flags, *tables]) for k in unknown)}"
        )
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"--config {path} has {twice[0]} twice")
    return [word for key, value in entries for word in _typed(path, flags[key], value)]


def _entries(content: Mapping[str, Any], tables: set[str]) -> Iterator[tuple[str, Any]]:
    """The keys and values of the file and of its sections."""
    for key, value in content.items():
        if isinstance(value, dict) and key in tables:
            yield from value.items()
        else:
            yield key, value


def _unknown(key: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _key(flag: argparse.Action) -> str:
    return flag.option_strings[-1].removeprefix("--")


def _typed(path: str | Path, flag: argparse.Action, value: Any) -> list[str]:
    """A flag and its value as they are typed."""
    name = flag.option_strings[-1]
    if flag.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"--config {path}: {_key(flag)} must be true or false, got {value!r}")
        return [name] if value else []
    if _key(flag) in BY_NAME and isinstance(value, dict):
        pairs = [f"{key}={_word(item)}" for key, item in flat(value)]
        return [name, *pairs] if pairs else []
    if isinstance(value, dict):
        raise ValueError(f"--config {path}: {_key(flag)} takes no table, but got {value!r}")
    words = [_word(one) for one in (value if isinstance(value, list) else [value])]
    return [name, *words] if flag.nargs == "+" else [f"{name}={','.join(words)}"]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields values by names with dots, for tables within tables, and empty tables."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def value_of(text: str) -> Any:
    """Returns a value of ``--set`` or ``--search``: as JSON has it, and text otherwise."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def flags_over(file: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file and a command line ask for together; what is typed wins.

    Of ``--set`` and ``--search`` that is so name by name, whichever of the two has it in the file;
    ``--epochs`` and ``--set epochs=N`` are one.

    Args:
        file: The file's flags that were given, by their names as attributes.
        typed: Likewise those of the command line.
    """
    named = {_name(pair) for key in BY_NAME for pair in typed.get(key, ())}
    named |= {"epochs"} & typed.keys()
    both = {**file, **typed}
    if "epochs" in named and "epochs" not in typed:
        both.pop("epochs", None)
    for key in BY_NAME:
        kept = [pair for pair in file.get(key, ()) if _name(pair) not in named]
        both[key] = [*kept, *typed.get(key, ())]
    return {key: value for key, value in both.items() if value != []}


def _name(pair: str) -> str:
    return pair.partition("=")[0]


def render_request(sections: Sequence[Section], asked: argparse.Namespace, study: Study) -> str:
    """Returns a study's request as a file's text.

    Args:
        sections: The flags.
        asked: What each was given, or its default.
        study: What all of it came to.
    """
    commit, dirty = study.provenance
    code = f"{commit[:10] or 'unknown'}{' with changes' if dirty else ''}"
    lines = [HEADING.format(name=study.name, protocol=study.protocol, code=code)]
    given, found = _given(asked, study), _came_to(study)
    for section in sections:
        lines.append(f"[{section.name}]  # {section.title}")
        for flag in section.flags:
            if _key(flag) not in BY_NAME:
                lines.append(_line(flag, given[flag.dest], found.get(flag.dest)))
        lines.append("")
    for key in BY_NAME:
        if given[key]:
            lines += [
                f"[{key}]",
                *(f"{_dotted(n)} = {_toml(v)}" for n, v in given[key].items()),
                "",
            ]
    return "\n".join(lines)


def _given(asked: argparse.Namespace, study: Study) -> dict[str, Any]:
    """What was asked, paths in full, and `BY_NAME` as mappings."""
    request = study.request
    changes = dict(request.changes)
    if asked.epochs is not None:
        del changes["epochs"]
    searched = (pair.partition("=") for pair in asked.search)
    return {
        **vars(asked),
        "space": _space(asked.space),
        "data": None if asked.data is None else str(request.store),
        "results": request.results,
        "weights": None if asked.weights is None else _weights(study.weights),
        "pretrain_data": None if asked.pretrain_data is None else str(request.pretrain_store),
        "set": {name: _as_set(value) for name, value in changes.items()},
        "search": {name: text for name, _, text in searched},
    }


def _came_to(study: Study) -> dict[str, Any]:
    """What the study has where nothing was asked for."""
    return {
        "arms": list(study.row_names),
        "dataset": study.store.annotations.dataset,
        "split": [target.split for target in study.targets],
        "trials": study.trials,
        "weights": _weights(study.weights),
        "name": study.name,
    }


def _weights(wanted: Mapping[str, str]) -> list[str]:
    """What networks start from as it is typed, paths in full."""
    words = {
        name: one if one in KINDS else str(Path(one).resolve()) for name, one in wanted.items()
    }
    return [word if name == EVERYWHERE else f"{name}={word}" for name, word in words.items()]


def _space(named: str) -> str:
    """The space as it is typed; the path of a plug-in's file in full."""
    file, colon, name = named.partition(":")
    return f"{Path(file).resolve()}{colon}{name}" if file.endswith(".py") else named


def _as_set(value: Any) -> Any:
    """A value that reads the same from the file: TOML has no null, and text may look like JSON."""
    if value is None or (isinstance(value, str) and value_of(value) != value):
        return json.dumps(value)
    return value


def _line(flag: argparse.Action, value: Any, found: Any) -> str:
    if value != flag.default:
        return f"{_key(flag)} = {_toml(value)}"
    shown = found if value is None else value
    return f"# {_key(flag)} = {'' if shown is None else _toml(shown)}".rstrip()


def _toml(value: Any) -> str:
    written: str = tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string()
    return written


def _dotted(name: str) -> str:
    return ".".join(tomlkit.key(part).as_string() for part in name.split("."))


def write_request(results: ResultStore, study: str, text: str) -> None:
    """Writes a study's request into its results, in the place of its last."""
    results.put_file(f"studies/{study}/study.toml", text.encode())
