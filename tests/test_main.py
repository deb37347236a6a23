"""``two-stream-study`` and ``python -m study``, which are one function."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from study import __main__ as commands
from study import query
from study.results.store import COMPACT_ABOVE, ResultStore
from tests.sample_results import training, write_study

ROOT = Path(commands.__file__).parents[1]


def test_the_console_command_is_this_function() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["two-stream-study"].partition(":")
    assert getattr(import_module(module), function) is commands.main


def test_every_command_of_the_study_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    runnable = {
        path.stem
        for path in (ROOT / "study").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }
    assert commands.COMMANDS.keys() == runnable - {"__main__"}
    with pytest.raises(SystemExit) as stopped:
        commands.main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(f"  {name}  " in out for name in commands.COMMANDS)


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_a_commands_help_is_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m study.{command}" in capsys.readouterr().out


def test_a_command_gets_its_arguments_and_its_exit_code_is_returned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ResultStore(tmp_path).write("trainings", "t", [training("t")])
    arguments = ["SELECT training_id FROM trainings", "--results", str(tmp_path)]
    assert commands.main(["query", *arguments]) == query.main(arguments) == 0
    first, second = capsys.readouterr().out.split("training_id")[1:]
    assert first == second
    assert commands.main(["query", "SELEC", "--results", str(tmp_path)]) == 2


@pytest.mark.parametrize("arguments", [[], ["quer"], ["--table", "stilt-4"]])
def test_no_command_and_an_unknown_one_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        commands.main(arguments)
    assert stopped.value.code == 2
    assert "two-stream-study: error" in capsys.readouterr().err


def test_only_the_chosen_command_is_imported() -> None:
    code = (
        "import sys; from study.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'ray', 'duckdb', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_study_starts_without_torchs_compiler_torchvision_and_scipys_statistics() -> None:
    code = (
        "import sys, study.run\n"
        "print([n for n in ('torch._dynamo', 'torchvision', 'scipy.stats') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.fixture
def read_only_results(tmp_path: Path) -> Iterator[Path]:
    """A folder with more small files than a study leaves, and a killed writer's, none writable."""
    root = tmp_path / "results"
    write_study(ResultStore(root), seeds=1, classes=3)
    some = next((root / "trainings").iterdir())
    for number in range(COMPACT_ABOVE + 1):
        shutil.copy(some, some.with_name(f"{number}~{number:020d}-00000000.parquet"))
    killed = root / "trainings" / "x~1.parquet.tmp"
    killed.write_bytes(b"PAR1 half a fi")
    os.utime(killed, (0, 0))
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield root
    for folder in folders:
        folder.chmod(0o755)


def contents(root: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


def test_a_query_and_a_report_change_nothing_in_a_results_folder_that_a_study_would_compact(
    read_only_results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = contents(read_only_results)
    for arguments in (
        ["query", "SELECT count(*) FROM trainings"],
        ["query", "--table", "stilt-4"],
        ["report", "--output", "report.html"],
    ):
        assert commands.main([*arguments, "--results", str(read_only_results)]) == 0
        assert contents(read_only_results) == before
    for folder in (read_only_results, read_only_results / "trainings"):
        folder.chmod(0o755)
    assert ResultStore(read_only_results).compact() > COMPACT_ABOVE
    assert contents(read_only_results) != before
