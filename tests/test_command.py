"""What the commands share."""

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
