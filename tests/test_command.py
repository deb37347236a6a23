"""What the commands share."""

import shlex
from importlib import import_module

import pytest

from study.__main__ import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_is_refused_in_a_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        import_module(f"study.{command}").main(["--no-such-flag"])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"study.{command}: ")
    assert err.endswith("; --help shows all flags\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["gallery", "predict", "run"])
def test_the_examples_of_a_commands_help_are_taken(command: str) -> None:
    module = import_module(f"study.{command}")
    lines = module.EXAMPLES.replace("\\\n", "").splitlines()
    typed = [shlex.split(line) for line in lines if line.startswith("  python -m ")]
    assert typed
    for _, _, name, *words in typed:
        assert name == f"study.{command}"
        module._parser().parse_args(words)
