"""``docs/statistics.md``, typed: its commands run, and what it explains is what they print."""

import re
import shlex
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from study import query, report
from study.results.store import ResultStore
from tests.sample_results import ARMS, write_study

PAGE = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text()
COMMANDS = [
    shlex.split(line[2:])
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command of the page prints, of two invented studies that it names."""
    folder = tmp_path_factory.mktemp("typed")
    results = ResultStore(folder / "results")
    arms = {**ARMS, "stil-awf-entropy": ("stil", "awf-entropy", 0.8)}
    write_study(results, study="stilt-ucf101", arms=arms)
    write_study(results, study="stilt-hmdb51", dataset="hmdb51", classes=6, arms=arms)
    printed = {}
    for python, module, program, *words in COMMANDS:
        assert (python, module) == ("python", "-m")
        main = {"study.query": query.main, "study.report": report.main}[program]
        with chdir(folder), redirect_stdout(StringIO()) as out:
            assert main(words) == 0, words
        printed[" ".join([program, *words])] = out.getvalue()
    return printed


def test_what_the_page_explains_is_what_its_commands_print(typed: dict[str, str]) -> None:
    table = typed["study.query --table stilt-4"]
    both = typed["study.query --compare stilt-ucf101 stilt-hmdb51 --against two-stream"]
    assert re.search(r"\d\d\.\d ± +\d+\.\d \*", table)
    footer = table.partition("Ours on")[2]
    for said in ("protocol", "splits", "seeds", "test videos", "missing", "chance", "views"):
        assert said in footer
    assert "published" in table
    for column in ("ahead", "seeds"):
        assert f"**{column}**" in PAGE or f"`{column}`" in PAGE
        assert re.search(rf"^arm +.*\b{column}\b", both, re.MULTILINE)
    titles = ("Main effects and interactions", "Budget spent", "Expected best by number of trials")
    for title in titles:
        start = title.split(" and ")[0].split(" by ")[0]
        assert re.search(rf"\*\*{start}", PAGE)
        assert re.search(rf"^{title}$", both, re.MULTILINE)
    for name in ("mean", "interquartile mean", "median", "Friedman", "Nemenyi"):
        assert name in both


def test_every_view_and_column_that_the_page_names_is_there(typed: dict[str, str]) -> None:
    listed = typed["study.query --list"]
    for name in ("rows", "predictions", "mean_class_accuracy", "top1", "top5"):
        assert f"`{name}`" in PAGE
        assert re.search(rf"\b{name}\b", listed)
