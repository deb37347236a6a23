import hashlib
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from models import create_model
from study.training.weights import (
    divided_name,
    find_file,
    find_weights,
    joined_name,
    read_state_dict,
    wanted_network,
    wanted_of,
    wanted_weights,
)

CONTENT = b"the published weights"
PUBLISHED = f"resnet18-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.count": torch.tensor(3)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that torchvision's weights are downloaded from: empty, as without a network."""
    folder = tmp_path / "server"
    folder.mkdir()
    entry = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=f"file://{folder}/{PUBLISHED}"))
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda network: entry)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


def test_a_file_is_known_by_its_content(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"weights")
    (tmp_path / "b.pt").write_bytes(b"weights")
    names = {
        find_weights(str(tmp_path / f), "resnet18", folder=tmp_path).name for f in ("a.pt", "b.pt")
    }
    assert names == {f"sha256:{hashlib.sha256(b'weights').hexdigest()[:16]}"}
    (tmp_path / "a.pt").write_bytes(b"WEIGHTS")
    changed = find_weights(str(tmp_path / "a.pt"), "resnet18", folder=tmp_path)
    assert changed.name == f"sha256:{hashlib.sha256(b'WEIGHTS').hexdigest()[:16]}"


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such file; give imagenet, kinetics, none"):
        find_weights(str(tmp_path / "none.pt"), "resnet18", folder=tmp_path)


@pytest.mark.usefixtures("server")
def test_without_a_network_the_error_says_where_to_place_the_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"place it at .*resnet18-.*\.pth") as error:
        find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    place = Path(str(error.value).split("place it at ")[1].split(",")[0])
    assert list(place.parent.iterdir()) == []
    place.write_bytes(CONTENT)
    assert find_weights("imagenet", "resnet18", folder=tmp_path / "weights").file == place


def test_a_download_is_kept_and_what_a_killed_one_left_is_removed(server: Path, tmp_path: Path):
    (server / PUBLISHED).write_bytes(CONTENT)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f".{PUBLISHED}.0123456789abcdef.tmp").write_bytes(b"the pub")
    weights = find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    assert weights.name == f"imagenet1k-v1:{PUBLISHED}"
    assert weights.file is not None
    assert list((tmp_path / "weights").iterdir()) == [weights.file]
    assert weights.file.read_bytes() == CONTENT


@pytest.mark.usefixtures("server")
def test_weights_in_torchs_own_cache_are_used(tmp_path: Path):
    cached = tmp_path / "hub" / "checkpoints" / PUBLISHED
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT)
    weights = find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    assert weights.file is not None
    assert weights.file.read_bytes() == CONTENT
    assert weights.name == f"imagenet1k-v1:{PUBLISHED}"


def test_damaged_weights_in_torchs_own_cache_are_not(server: Path, tmp_path: Path):
    (server / PUBLISHED).write_bytes(CONTENT)
    cached = tmp_path / "hub" / "checkpoints" / PUBLISHED
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CONTENT[:-1])
    weights = find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    assert weights.file is not None
    assert weights.file.read_bytes() == CONTENT


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("content", [b"", CONTENT[:-1], b"T" + CONTENT[1:]])
def test_damaged_imagenet_weights_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / PUBLISHED).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{PUBLISHED} is damaged or another: .*; delete it"):
        find_weights("imagenet", "resnet18", folder=tmp_path)


def test_a_backbone_without_imagenet_weights_starts_from_scratch(tmp_path: Path):
    weights = find_weights("imagenet", "small", folder=tmp_path)
    assert (weights.name, weights.file) == ("none", None)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3, "arch": "resnet18"},
        {"model": TENSORS, "optimizer": {"lr": 0.1}},
        {f"module.{name}": value for name, value in TENSORS.items()},
        {f"module.backbone.{name}": value for name, value in TENSORS.items()},
        {
            "model": {"conv.weight": torch.zeros(1)},
            "averaged": {
                "n_averaged": torch.tensor(2),
                **{f"module.{name}": value for name, value in TENSORS.items()},
            },
        },
        {"state_dict": {f"module.{name}": value for name, value in TENSORS.items()}},
    ],
    ids=[
        "bare",
        "state_dict",
        "model",
        "module.",
        "module.backbone.",
        "moving average",
        "state_dict of module.",
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "torch < 1.6"])
def test_a_state_dict_is_read_as_tools_wrap_it(tmp_path: Path, content: Any, zipped: bool):
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    read = read_state_dict(tmp_path / "w.pt")
    assert list(read) == list(TENSORS)
    assert all(torch.equal(read[name], value) for name, value in TENSORS.items())


def test_safetensors_are_read_by_their_content(tmp_path: Path):
    safetensors.torch.save_file(TENSORS, tmp_path / "w.bin")
    read = read_state_dict(tmp_path / "w.bin")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) for name, value in TENSORS.items())
    whole = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="begins as safetensors do, but is damaged or cut short"):
        read_state_dict(tmp_path / "w.bin")


def test_a_prefix_of_some_names_is_a_name(tmp_path: Path):
    tensors = {"module.weight": torch.zeros(1), "weight": torch.ones(1)}
    torch.save(tensors, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == list(tensors)


class _Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


def _saved(content: Any, **options: Any) -> bytes:
    torch.save(content, "saved.pt", **options)
    return Path("saved.pt").read_bytes()


def _script() -> bytes:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save("script.pt")
    return Path("script.pt").read_bytes()


WHAT_IS_NO_STATE_DICT = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello world\n", "was not written by torch.save .it begins with b'hello"),
    "page": (lambda: b"<!DOCTYPE html><html></html>", "begins with b'<!DOCTYPE html><'"),
    "zeros": (lambda: bytes(1000), "was not written by torch.save"),
    "half": (lambda: _saved(TENSORS)[:600], "is damaged, cut short"),
    "end lost": (lambda: _saved(TENSORS)[:-5], "is damaged, cut short"),
    "old half": (
        lambda: _saved(TENSORS, _use_new_zipfile_serialization=False)[:200],
        "is damaged",
    ),
    "pickle": (lambda: pickle.dumps({"a": 1}), "is damaged, or holds Python objects"),
    "pickled code": (lambda: pickle.dumps(_Bomb()), "never loaded"),
    "code": (lambda: _saved({"a": _Bomb()}), "never loaded"),
    "network": (lambda: _saved(torch.nn.Linear(1, 1)), "never loaded"),
    "program": (_script, "a TorchScript program"),
    "list": (lambda: _saved([torch.zeros(1)]), "holds a value of type list"),
    "tensor": (lambda: _saved(torch.zeros(1)), "holds a value of type Tensor"),
    "nothing": (lambda: _saved({}), "holds an empty dict"),
    "numbers": (lambda: _saved({"a": 1.5}), "holds a value of type float under 'a'"),
    "numbered": (lambda: _saved({0: torch.zeros(1)}), "holds a value of type Tensor under 0"),
    "some tensors": (
        lambda: _saved({"a": torch.zeros(1), "epoch": 3}),
        "type int under 'epoch'",
    ),
    "wrapped list": (
        lambda: _saved({"state_dict": [1]}),
        "type list under 'state_dict'",
    ),
}


@pytest.mark.parametrize("kind", WHAT_IS_NO_STATE_DICT)
def test_what_is_no_state_dict_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, kind: str
):
    monkeypatch.chdir(tmp_path)
    make, flaw = WHAT_IS_NO_STATE_DICT[kind]
    path = tmp_path / "w.pt"
    path.write_bytes(make())
    recwarn.clear()
    with pytest.raises(ValueError, match=rf"weights file {path} .*{flaw}.*; give a state") as error:
        read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not recwarn.list
    assert not Path("exploded").exists()


def test_a_damaged_file_is_read_or_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    path, rng = tmp_path / "w.pt", random.Random(0)
    refused: list[str] = []
    for zipped in (True, False):
        whole = _saved(TENSORS, _use_new_zipfile_serialization=zipped)
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(4):
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content[: rng.choice([None, rng.randrange(len(content))])])
            try:
                read_state_dict(path)
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert all(line.startswith(f"weights file {path} ") and "\n" not in line for line in refused)


def test_an_arms_weights_come_before_a_streams_and_a_streams_before_all() -> None:
    given = {"*": "none", "temporal": "flow.pt", "tsn": "tsn.pt"}
    wanted = wanted_weights(given, default="imagenet", arms=["tsn", "tsm"])
    assert wanted_of(wanted, "tsm") == {"spatial": "none", "temporal": "flow.pt"}
    assert wanted_of(wanted, "tsn") == {"spatial": "tsn.pt", "temporal": "tsn.pt"}
    assert wanted_of(wanted, "temporal") == {"spatial": "none", "temporal": "flow.pt"}
    assert wanted_weights("a.pt", default="imagenet", arms=[]) == {"*": "a.pt"}
    assert wanted_weights({"spatial": "a.pt"}, default="imagenet", arms=[])["*"] == "imagenet"
    with pytest.raises(ValueError, match="no stream or arm 'flow'; there are the streams spatial"):
        wanted_weights({"flow": "a.pt"}, default="imagenet", arms=["tsn"])


@pytest.mark.parametrize(
    "names", [{"spatial": "a:1", "temporal": "none"}, {"spatial": "none", "temporal": "none"}]
)
def test_streams_names_are_joined_and_divided(names: dict[str, str]) -> None:
    assert divided_name(joined_name(names), names) == names
    assert divided_name(joined_name({"spatial": "b"}), ["spatial"]) == {"spatial": "b"}


def test_a_name_leads_back_to_its_file(server: Path, tmp_path: Path) -> None:
    (server / PUBLISHED).write_bytes(CONTENT)
    (tmp_path / "a.pt").write_bytes(b"a")
    wanted = ["none", "imagenet", str(tmp_path / "a.pt")]
    for word in wanted[1:]:
        found = find_weights(word, "resnet18", folder=tmp_path)
        assert find_file(found.name, wanted, folder=tmp_path) == found.file


@pytest.mark.parametrize(
    ("model", "options", "network"),
    [
        ("r2plus1d", {"middle": "torchvision"}, "r2plus1d_18"),
        ("r2plus1d", {}, None),
        ("s3d", {}, "s3d"),
        ("s3d_g", {}, None),
        ("r2plus1d", {"depths": (3, 4, 6, 3)}, None),
        ("tsn", {"backbone": "small"}, None),
    ],
)
def test_kinetics_weights_are_of_networks_equal_to_torchvisions(
    model: str, options: dict[str, Any], network: str | None
) -> None:
    with torch.device("meta"):
        net = create_model(model, num_classes=2, **options)
    if network is not None:
        assert wanted_network("kinetics", net, "spatial") == network
        return
    with pytest.raises(ValueError, match=f"no Kinetics-400 weights of model '{model}'"):
        wanted_network("kinetics", net, "spatial")


def test_towers_of_two_kinds_ask_for_weights_of_two_networks() -> None:
    with torch.device("meta"):
        net = create_model("conv_fusion", num_classes=2, temporal_backbone="vgg_m_2048")
    networks = [wanted_network("imagenet", net, stream) for stream in ("spatial", "temporal")]
    assert networks == ["vgg16", "vgg_m_2048"]
