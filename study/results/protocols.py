"""Which rows stand side by side: of a study on a dataset, those of one protocol."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from study.data.datasets.catalog import dataset_title
from study.results.store import ResultStore

__all__ = [
    "ENVIRONMENT",
    "Protocol",
    "Selection",
    "differing_settings",
    "newest_protocols",
    "select_protocols",
]

DIFFERENCES_SHOWN = 4
NEVER = datetime.min

ENVIRONMENT = {
    "device_kind": "device",
    "workers": "processes",
    "precision": "precision",
    "compiled": "torch.compile",
    "torch": "torch",
}
"""The columns of ``trainings`` that might change a number and are no part of the protocol."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What the rows of a study on a dataset have in common.

    Attributes:
        protocol: Its hash.
        study: The study's name.
        dataset: The dataset's name.
        settings: What the hash is of.
        started_at: When the study was last started under it.
    """

    protocol: str
    study: str
    dataset: str
    settings: Mapping[str, Any]
    started_at: datetime

    def leaves(self) -> dict[str, Any]:
        """Returns the settings by dotted name, those of the code last."""
        found = dict(_leaves(self.settings))
        return {name: found[name] for name in sorted(found, key=_code_last)}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The protocol whose rows are shown of a study on a dataset, and those whose rows are not.

    Attributes:
        shown: The one.
        others: The others that have rows, the newest first.
    """

    shown: Protocol
    others: tuple[Protocol, ...]

    @property
    def note(self) -> str | None:
        """Which others there are and how they differ; None where there is none."""
        if not self.others:
            return None
        count = f"{len(self.others)} other protocol{'s' if len(self.others) > 1 else ''}"
        said = "; ".join(
            f"{other.protocol} ({_differences(self.shown, other)})" for other in self.others
        )
        return (
            f"Shown of {self.shown.study} on {dataset_title(self.shown.dataset)} is protocol "
            f"{self.shown.protocol}. {count} of it in these results: {said}; --protocol shows one"
        )


def select_protocols(
    store: ResultStore,
    *,
    space: str | None = None,
    study: str | None = None,
    wanted: str | None = None,
) -> dict[tuple[str, str], Selection]:
    """Selects the protocol to show of each study on each dataset: the last started that has rows.

    Args:
        store: The results.
        space: Only rows of this space.
        study: Only this study.
        wanted: The protocol to show instead, or the beginning of its hash.

    Returns:
        By study and dataset; without those that have no row, or none of the wanted protocol.

    Raises:
        ValueError: If no protocol with rows begins so, or the rows have no protocol.
    """
    equal: dict[str, Any] = {
        name: value for name, value in (("space", space), ("study", study)) if value
    }
    rows = store.read("rows", columns=["study", "dataset", "protocol"], **equal)
    distinct = rows.group_by(rows.column_names).aggregate([])
    keys = set(zip(*distinct.to_pydict().values(), strict=True))
    if keys and all(protocol is None for _, _, protocol in keys):
        raise ValueError(
            f"the rows in {store.root!r} are of an earlier version of this program, which didn't "
            "say how they came about; run the study again, or name another folder with --results"
        )
    found = [one for one in _read(store, study) if (one.study, one.dataset, one.protocol) in keys]
    known = {(one.study, one.dataset, one.protocol) for one in found}
    found += [
        Protocol(study=study, dataset=dataset, protocol=protocol, settings={}, started_at=NEVER)
        for study, dataset, protocol in keys - known  # its own line is lost
        if protocol is not None
    ]
    if wanted is not None and not any(one.protocol.startswith(wanted) for one in found):
        there = ", ".join(f"{one.protocol} of {one.study}" for one in found)
        raise ValueError(
            f"--protocol {wanted}: no protocol with rows begins so; "
            f"there {'are ' + there if found else 'is none'}"
        )
    by_study: dict[tuple[str, str], list[Protocol]] = {}
    for one in found:
        by_study.setdefault((one.study, one.dataset), []).append(one)
    return {
        key: Selection(shown=shown, others=tuple(one for one in of_study if one != shown))
        for key, of_study in by_study.items()
        for shown in _first(of_study, wanted)
    }


def newest_protocols(store: ResultStore, study: str) -> dict[str, Protocol]:
    """Returns by dataset the protocol that a study was last started under, rows or not."""
    newest: dict[str, Protocol] = {}
    for one in _read(store, study):
        newest.setdefault(one.dataset, one)
    return newest


def _read(store: ResultStore, study: str | None) -> list[Protocol]:
    """Reads the protocols, the last started first."""
    equal: dict[str, Any] = {} if study is None else {"study": study}
    lines = store.read("protocols", **equal).to_pylist()
    names = ("protocol", "study", "dataset", "started_at")
    found = [
        Protocol(settings=json.loads(line["settings"]), **{name: line[name] for name in names})
        for line in lines
    ]
    return sorted(found, key=lambda one: (one.started_at, one.protocol), reverse=True)


def _first(of_study: Iterable[Protocol], wanted: str | None) -> list[Protocol]:
    return [one for one in of_study if one.protocol.startswith(wanted or "")][:1]


def differing_settings(protocols: Sequence[Protocol]) -> dict[str, list[Any]]:
    """Returns the settings in which protocols differ, with each one's value; None where unset."""
    every = [one.leaves() for one in protocols]
    names = sorted(set().union(*every), key=_code_last)
    values = {name: [leaves.get(name) for leaves in every] for name in names}
    return {name: of for name, of in values.items() if any(value != of[0] for value in of)}


def _code_last(name: str) -> tuple[bool, str]:
    return name.startswith("code."), name


def _differences(shown: Protocol, other: Protocol) -> str:
    """Returns the settings in which two protocols differ, in a few words."""
    differing = [
        _difference(name, theirs, ours)
        for name, (ours, theirs) in differing_settings([shown, other]).items()
    ]
    said = differing[:DIFFERENCES_SHOWN]
    if more := len(differing) - len(said):
        said.append(f"{more} more")
    return ", ".join(said) or "the same settings"


def _difference(name: str, theirs: Any, ours: Any) -> str:
    if name.startswith("code.") or isinstance(theirs, list) or isinstance(ours, list):
        return name
    return f"{name.rpartition('.')[2]} {_said(theirs)} instead of {_said(ours)}"


def _said(value: Any) -> str:
    return "unset" if value is None else str(value)


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
