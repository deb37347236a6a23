import os
from pathlib import Path

import pytest
import torch

from study.training.checkpoint import load_checkpoint, save_checkpoint


class _Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3)}, "history": [{"loss": 0.1, "x": None}]})
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], torch.arange(3))
    assert state["history"] == [{"loss": 0.1, "x": None}]


def test_a_failed_save_leaves_the_former_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "one.pt"
    save_checkpoint(path, {"model": torch.arange(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"one\.pt can't be read .*delete it"):
        load_checkpoint(path)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Bomb()}, "bomb.pt")
    with pytest.raises(ValueError, match="can't be read"):
        load_checkpoint(Path("bomb.pt"))
    assert not Path("exploded").exists()
