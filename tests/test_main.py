"""``two-stream-study`` and ``python -m study``, which are one function."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from study import __main__ as commands
from study import query
from study.results.store import ResultStore
from tests.sample_results import training

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
