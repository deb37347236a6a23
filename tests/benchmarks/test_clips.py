import pytest

from benchmarks import clips, readme
from study import prepare, run


def test_readmes_commands_are_ones_that_are_taken() -> None:
    made, studied = clips.commands(readme.README.read_text())
    assert made[:3] == ["python", "-m", "study.prepare"]
    assert studied[:3] == ["python", "-m", "study.run"]
    stored = prepare._parser().parse_args(made[3:]).store
    asked = run._parser().parse_args(studied[3:])
    assert asked.data == stored == "stores/weizmann"
    assert len(set(asked.split)) == len(asked.split) == 3, "persons, as the text says"
    assert clips.STUDY == "stilt-weizmann"


def test_what_is_written_takes_the_place_of_what_was() -> None:
    text = f"before\n\n{clips.MARK}\nafter\n```console\n$ ls\n```\n"
    once = clips.written(text, "a\n")
    assert once == f"before\n\n{clips.MARK}```\na\n```\n\nafter\n```console\n$ ls\n```\n"
    assert clips.written(once, "b\n") == once.replace("\na\n", "\nb\n")
    with pytest.raises(ValueError, match="there is no"):
        clips.written("nothing", "a\n")
