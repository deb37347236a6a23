"""The commands of ``docs/weights.md``, typed as they stand, up to where training would begin."""

import hashlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.models.video import s3d

from models import create_model
from study import request, run
from tests.staged_study import merged_classes
from tests.training.test_initialisation import pytorch_i3d, renamed

PAGE = (Path(__file__).parents[1] / "docs" / "weights.md").read_text()
COMMANDS = [
    line[2:]
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands name, and what torchvision would send."""
    folder = tmp_path_factory.mktemp("weights")
    tsn: Any = create_model("tsn", num_classes=7, flow_length=5)
    tsm: Any = create_model("tsm", num_classes=7)
    stilt = create_model("stilt", num_classes=7, backbone="small", flow_length=3)
    saved: dict[str, Any] = {
        "tsm.pth": {"state_dict": renamed(tsm.backbones["spatial"].state_dict(), "tsm")},
        "i3d-rgb.pt": pytorch_i3d(3),
        "i3d-flow.pt": pytorch_i3d(2),
        "trained.pt": {"model": stilt.state_dict()},
        "s3d.pth": s3d(num_classes=400).state_dict(),
    }
    for stream, kind in (("spatial", "rgb"), ("temporal", "flow")):
        saved[f"tsn-{kind}.pth"] = renamed(tsn.backbones[stream].state_dict(), "tsn")
    for name, content in saved.items():
        torch.save(content, folder / name)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_the_guides_commands_are_accepted(
    command: str,
    weights: Path,
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stores").mkdir()
    Path("stores/mine").symlink_to(tiny_store)
    merged_classes(tiny_store, Path("stores/kinetics"))
    Path("weights").symlink_to(weights)
    digest = hashlib.sha256((weights / "s3d.pth").read_bytes()).hexdigest()[:8]
    Path(f"s3d-{digest}.pth").symlink_to(weights / "s3d.pth")
    sent = SimpleNamespace(url=f"file://{tmp_path}/s3d-{digest}.pth")
    torchvisions = SimpleNamespace(KINETICS400_V1=sent)
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda network: torchvisions)
    monkeypatch.setattr(request, "_check_stacks", lambda *_: None)  # the store's are of 3 fields
    monkeypatch.setattr(run, "run_study", lambda *_, **__: [])

    python, module, name, *arguments = shlex.split(command)
    assert (python, module, name) == ("python", "-m", "study.run")
    assert run.main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    named = set(re.findall(r"weights/([\w.-]+)", command))
    if "=kinetics" in command:
        named.add(f"s3d-{digest}.pth")
    for file in named:
        assert f"from {file}: " in said
    assert ("of a training of artnet on folder; left out" in said) == ("--pretrain" in command)


def test_the_guide_names_every_hyperparameter_that_is_off_by_default() -> None:
    rows = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in row} >= {
        "optimizer",
        "label_smoothing",
        "mixup_alpha",
        "cutmix_alpha",
        "class_balance",
        "ema_decay",
        "activation_checkpointing",
    }
