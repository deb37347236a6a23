"""Results files that are damaged: named in a line by whatever reads them, and never half read."""

import errno
import random
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from study import __main__ as commands
from study.results.store import DamagedResultError, ResultStore
from tests.sample_results import training, write_study

Damage = Callable[[bytes], bytes]


def footer(content: bytes) -> int:
    """Where the footer begins, by the length that stands before the last four bytes."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "end lost": lambda content: content[:-1],
    "end zeroed": lambda content: content[:-8] + bytes(8),
    "footer zeroed": lambda content: content[: footer(content)] + bytes(64) + content[-8:],
    "length flipped": lambda content: content[:-5] + bytes([content[-5] ^ 64]) + content[-4:],
    "a page zeroed": lambda content: content[:40] + bytes(40) + content[80:],
}


@pytest.fixture(params=["small", "merged"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for n in range(3):
        store.write("trainings", f"t{n}", [training(f"t{n}", seed=n)])
    if request.param == "merged":
        store.compact(above=0)
    return store


def first_file(store: ResultStore, view: str = "trainings") -> Path:
    return min(Path(store.root, view).glob("*.parquet"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_to_do(store: ResultStore, damage: str) -> None:
    path = first_file(store)
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    store.write("trainings", "t9", [training("t9", seed=9)])
    uses = [
        lambda fresh: fresh.read("trainings"),
        lambda fresh: fresh.connect().execute("SELECT * FROM trainings").fetchall(),
    ]
    if not path.name.startswith("~"):  # a large merged file isn't merged again
        uses.append(lambda fresh: fresh.compact(above=0))
    said = (
        rf"results file {re.escape(str(path))} is damaged \(.+\); .* or delete it and run the study"
    )
    for use in uses:
        with pytest.raises(DamagedResultError, match=said) as error:
            use(ResultStore(store.root))
        assert "\n" not in str(error.value)
    path.write_bytes(whole)
    assert sorted(ResultStore(store.root).read("trainings")["seed"].to_pylist()) == [0, 1, 2, 9]


def test_any_flipped_bit_in_the_pages_is_found(store: ResultStore) -> None:
    path, rng = first_file(store), random.Random(0)
    whole = path.read_bytes()
    lines = store.read("trainings").sort_by("seed")
    found = 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.randrange(4, footer(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:  # a flip in a page's header may be one that means nothing
            assert ResultStore(store.root).read("trainings").sort_by("seed").equals(lines)
        except DamagedResultError:
            found += 1
    assert found > 100


@pytest.mark.parametrize("merged", [False, True])
def test_a_damaged_file_of_a_finished_training_must_go_with_the_line_that_says_so(
    tmp_path: Path, merged: bool
) -> None:
    store = ResultStore(tmp_path)
    write_study(store, seeds=1)
    if merged:
        store.compact(above=0)
    path = first_file(store, "epochs")
    path.write_bytes(b"")
    with pytest.raises(DamagedResultError) as error:
        ResultStore(tmp_path).read("epochs")
    pattern = re.search(r"delete it and (\S+) and run", str(error.value))
    assert pattern is not None
    named = [str(one) for one in tmp_path.glob(str(Path(pattern[1]).relative_to(tmp_path)))]
    key = "*" if merged else path.name.partition("~")[0]
    assert named == [str(one) for one in (tmp_path / "trainings").glob(f"{key}~*")]
    assert named


def test_a_storage_that_fails_is_no_damage(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the storage can't be reached")

    monkeypatch.setattr("study.results.store.Scan.read", unreachable)
    with pytest.raises(OSError, match="can't be reached"):
        store.read("trainings")


@pytest.mark.parametrize(
    "command",
    [
        ["query", "SELECT * FROM rows"],
        ["query", "--table", "stilt-4"],
        ["report", "--output", "report.html"],
        ["run", "--space", "stilt", "--resume", "--name", "stilt-ucf101"],
    ],
    ids=["query", "table", "report", "run"],
)
def test_every_command_names_the_damaged_file_in_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ResultStore(tmp_path / "results")
    write_study(store, seeds=1)
    path = first_file(store, "trainings" if command[0] == "run" else "rows")
    path.write_bytes(path.read_bytes()[:-4])
    assert commands.main(command) != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"study.{command[0]}: results file {path} is damaged")
    assert err.count("\n") == 1


def test_a_full_disk_names_its_folder_and_leaves_what_was_there(small_disk: Path) -> None:
    store = ResultStore(small_disk)
    store.write("trainings", "t", [training("t", seed=1)])
    with pytest.raises(OSError, match=r"no space left in .*/disk/trainings to write t~") as error:
        store.write("trainings", "t", [training("t", error=secrets.token_hex(2 << 20))])
    assert error.value.errno == errno.ENOSPC
    assert store.read("trainings")["seed"].to_pylist() == [1]
    assert len(list((small_disk / "trainings").iterdir())) == 1
