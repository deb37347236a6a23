"""The journal as Optuna's own tools open it."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search_spaces.space import Choice, Real
from study.search import Readings, Search, Trial, trials_of
from study.search_journal import write_journal

PARAMETERS = (
    Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
    Choice(name="options.towers", choices=(("relu3", "relu5"), ("relu5",))),
)


def make_search(name: str = "embedded-1/stil/abc", *, trials: int = 12) -> Search:
    return Search(
        name=name, parameters=PARAMETERS, trials=trials, rungs=(1, 3, 9), sampler="random"
    )


def trials(search: Search, *, known: int = 1000) -> tuple[Trial, ...]:
    """The trials of a search of which the first are known to their end; some fail."""
    asked: list[Mapping[str, Any]] = []

    def readings(values: Mapping[str, Any]) -> Readings:
        asked.append(values)
        if len(asked) > known:
            return Readings()
        chance = random.Random(str(sorted(values.items())))
        if chance.random() < 0.2:
            return Readings(values={1: 0.25}, failed=True)
        return Readings(values={epoch: chance.random() for epoch in search.rungs})

    return trials_of(search, readings)


def opened(path: Path, search: Search) -> optuna.Study:
    return optuna.load_study(
        study_name=search.name, storage=JournalStorage(JournalFileBackend(str(path)))
    )


def told(path: Path, search: Search) -> list[tuple[Any, ...]]:
    return [
        (trial.number, trial.state.name, trial.params, trial.value, trial.intermediate_values)
        for trial in opened(path, search).trials
    ]


def expected(ended: tuple[Trial, ...]) -> list[tuple[Any, ...]]:
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    return [
        (
            trial.number,
            names[trial.state],
            dict(trial.values),
            trial.readings[9] if trial.state == "complete" else None,
            dict(trial.readings),
        )
        for trial in ended
    ]


def test_optuna_reads_the_trials_in_their_order(tmp_path: Path) -> None:
    search, path = make_search(), tmp_path / "searches" / "mine.journal"
    ended = trials(search)
    assert {trial.state for trial in ended} == {"complete", "pruned", "failed"}
    write_journal(path, search, ended)
    assert told(path, search) == expected(ended)
    best = max(trial.readings[9] for trial in ended if trial.state == "complete")
    assert opened(path, search).best_value == best


def test_the_dashboard_shows_the_same_trials(tmp_path: Path) -> None:
    search, path = make_search(), tmp_path / "mine.journal"
    ended = trials(search)
    write_journal(path, search, ended)
    dashboard = optuna_dashboard.wsgi(JournalStorage(JournalFileBackend(str(path))))

    def answer(url: str) -> Any:
        environ: dict[str, Any] = {"PATH_INFO": url, "QUERY_STRING": "after=0"}
        setup_testing_defaults(environ)
        return json.loads(b"".join(dashboard(environ, lambda *_: None)))

    (study,) = answer("/api/studies")["study_summaries"]
    assert study["study_name"] == search.name
    shown = answer(f"/api/studies/{study['study_id']}")["trials"]
    assert [(one["number"], one["state"]) for one in shown] == [
        (trial.number, {"failed": "Fail"}.get(trial.state, trial.state.capitalize()))
        for trial in ended
    ]
    for one, trial in zip(shown, ended, strict=True):
        drawn = {point["step"]: point["value"] for point in one["intermediate_values"]}
        assert drawn == trial.readings
        values = {p["name"]: p["param_external_value"] for p in one["params"]}
        assert float(values["learning_rate"]) == trial.values["learning_rate"]
        assert str(trial.values["options.towers"]) in values["options.towers"]


def test_two_searches_stand_in_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "mine.journal"
    one, other = make_search("embedded-1/stil/abc"), make_search("embedded-2/stil/abc", trials=3)
    for search in (one, other):
        write_journal(path, search, trials(search))
    assert told(path, one) == expected(trials(one))
    assert told(path, other) == expected(trials(other))


def test_writing_again_adds_nothing_and_later_trials_are_added(tmp_path: Path) -> None:
    search, path = make_search(), tmp_path / "mine.journal"
    write_journal(path, search, trials(search, known=5))
    content = path.read_bytes()
    write_journal(path, search, trials(search, known=5))
    assert path.read_bytes() == content
    assert told(path, search) == expected(trials(search)[:5])
    write_journal(path, search, trials(search))
    assert path.read_bytes().startswith(content)
    assert told(path, search) == expected(trials(search))
    longer = make_search(trials=20)
    write_journal(path, longer, trials(longer))
    assert told(path, longer) == expected(trials(longer))


@pytest.mark.parametrize("damage", ["garbage", "binary", "truncated", "list"])
def test_a_damaged_journal_begins_again(tmp_path: Path, damage: str) -> None:
    search, path = make_search(), tmp_path / "mine.journal"
    ended = trials(search)
    write_journal(path, search, ended)
    content = path.read_bytes()
    path.write_bytes(
        {
            "garbage": b"not a journal\nat all\n",
            "binary": bytes(range(256)),
            "truncated": content[: len(content) * 2 // 3],
            "list": b"[]\n",
        }[damage]
    )
    write_journal(path, search, ended)
    assert told(path, search) == expected(ended)


def test_a_search_of_other_trials_begins_again_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.journal"
    search, other = make_search(), make_search("embedded-2/stil/abc")
    for one in (search, other):
        write_journal(path, one, trials(one))
    changed = Search(
        name=search.name, parameters=PARAMETERS, trials=4, rungs=(1, 3, 9), sampler="qmc"
    )
    write_journal(path, changed, trials(changed))
    assert told(path, changed) == expected(trials(changed))
    assert told(path, other) == expected(trials(other))


def test_the_lock_of_a_killed_writer_does_not_block(tmp_path: Path) -> None:
    search, path = make_search(), tmp_path / "mine.journal"
    write_journal(path, search, trials(search, known=3))
    Path(f"{path}.lock").symlink_to(path)  # as Optuna's lock is
    write_journal(path, search, trials(search))
    assert told(path, search) == expected(trials(search))
