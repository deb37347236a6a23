"""The command as a user meets it: what it prints, and its exit codes."""

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from study.data.flow.compute import FlowSettings
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import Progress
from study.data.store.settings import StoreSettings
from study.prepare import _Display, main
from tests.data.video_files import write_dataset

ROOT = Path(__file__).parents[1]
QUICK = [
    *("--short-side", "24", "--stacks", "2", "--flow-length", "3", "--flow-codec", "jpeg"),
    *("--workers", "1"),
] + [
    word for option in ("scales=1", "warps=1", "iterations=5") for word in ("--flow-option", option)
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "store"
    assert main(["folder", "--videos", str(videos), "--store", str(path), *QUICK]) == 0
    return path


def test_the_flags_are_the_stores_settings(videos, store):
    flow = FlowSettings(scales=1, warps=1, iterations=5)
    assert ClipStore.open(store).settings == StoreSettings(
        dataset=videos.name,
        short_side=24,
        stacks=2,
        flow_length=3,
        flow=flow,
        flow_codec="jpeg",
    )


def test_a_rerun_says_that_there_is_nothing_to_do(videos, store, capsys):
    assert main(["folder", "--videos", str(videos), "--store", str(store), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "there was nothing to do" in out
    assert re.search(r"^10 videos in .*, fingerprint [0-9a-f]{32}; 0 prepared", out, re.M)
    assert "MISSING" not in out


def test_missing_and_skipped_videos_are_said_loudly(videos, tmp_path, capsys):
    mine = tmp_path / "videos"
    (mine / "jump").mkdir(parents=True)
    (mine / "run").mkdir()
    for name in ("jump/p0.avi", "jump/p2.avi", "run/p1.avi", "run/p5.avi"):
        (mine / name).write_bytes((videos / name).read_bytes())
    (mine / "run/p3.avi").write_bytes(b"[red]garbage")
    given = ["folder", "--videos", str(mine), "--store", str(tmp_path / "store"), *QUICK]
    assert main([*given]) == 0
    out = capsys.readouterr().out
    assert "SKIPPED 1 videos" in out
    assert "run/p3: has no video stream" in out


def test_missing_videos_of_official_splits_are_said_loudly(real_data, tmp_path, capsys):
    mine = tmp_path / "Archery"
    mine.mkdir()
    clip = "v_Archery_g01_c01.avi"
    (mine / clip).symlink_to(real_data / "videos/ucf101/Archery" / clip)
    splits = str(real_data / "splits/ucf101")
    given = ["ucf101", "--videos", str(tmp_path), "--splits", splits]
    assert main([*given, "--store", str(tmp_path / "store"), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "MISSING from split 1: 9537 of 9537 train videos, 3782 of 3783 test videos" in out


def test_verification_passes_and_fails(store, tmp_path, capsys):
    assert main(["--verify", "--store", str(store)]) == 0
    assert "10 videos checked" in capsys.readouterr().out
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", str(store), str(copy)], check=True)
    shard = copy / "shards/00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    assert main(["--verify", "--store", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "wrong: " in out
    assert "delete these shards' files and run the command" in out


def test_a_store_is_copied_to_a_uri_and_read_there(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TWO_STREAM_CACHE", str(tmp_path / "cache"))
    uri = (tmp_path / "there").as_uri()
    for said in (r"3 files copied, \d+", "there was nothing to copy"):
        assert main(["--store", str(store), "--upload", uri]) == 0
        assert re.search(rf"The store is at {uri}: {said}", capsys.readouterr().out)
    assert main(["--verify", "--store", uri]) == 0
    assert f"10 videos checked in {uri}: 0 errors" in capsys.readouterr().out
    (shard,) = tmp_path.glob("cache/*/shards/0*.arrow")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    assert main(["--verify", "--store", uri]) == 1
    assert f"{shard.parents[1]}: delete that folder" in capsys.readouterr().out


def test_preparing_at_a_uri_is_refused_with_what_to_do(capsys):
    assert main(["folder", "--store", "s3://bucket/store"]) == 2
    assert "give --store DIR --upload s3://bucket/store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", r"name a dataset: embedded, folder"),
        ("ucf", r'unknown dataset "ucf"; there are: embedded, folder'),
        ("ucf101 --videos {videos}", "needs splits"),
        ("ucf101 --videos {videos} --splits /nowhere", "no splits folder /nowhere"),
        ("folder --videos /nowhere", "no videos folder /nowhere; give --videos DIR"),
        ("ucf101 --videos {videos} --splits /x /y", "takes one folder of lists, but got /x, /y"),
        ("ucf101 --videos {videos} --splits /x --strict", "--strict go with `folder` and its list"),
        ("folder --videos {videos} --classes x", "--classes and --strict go with `folder` and"),
        ("folder --videos {videos} --splits /nowhere.csv", r"no split file /nowhere\.csv"),
        ("folder --videos {videos} --flow-length 5", "flow_length .* needs stacks"),
        ("folder --videos {videos} --flow-option warp=2", "unknown flow option 'warp'; there are"),
        ("folder --videos {videos} --flow-option warps=x", "warps takes a whole number, got 'x'"),
        ("folder --videos {videos} --flow-backend cv", "flow.backend must be one of .*, got 'cv'"),
        (
            "folder --videos {videos} --short-side 2",
            "short_side must be a whole number of at least 8",
        ),
        (
            "folder --videos {videos} --workers 0",
            "workers must be a whole number of at least 1, got 0",
        ),
        ("folder --videos {videos} --deadline 0", "deadline must be a number above 0"),
        ("folder --videos {videos} --group [", "group"),
        ("folder --videos {videos} --upload folder", "'folder' is no URI; give one such as s3://"),
        ("--upload file:///nowhere", "no clip store in"),
        ("--verify", "no clip store in"),
    ],
)
def test_refused_input_gets_one_line_and_leaves_nothing(videos, tmp_path, capsys, words, reason):
    store = tmp_path / "store"
    given = [word.format(videos=videos) for word in words.split()]
    assert main([*given, "--store", str(store)]) == 2
    err = capsys.readouterr().err
    assert re.match(f"refused: .*{reason}", err)
    assert err.count("\n") == 1
    assert not store.exists()


@pytest.mark.parametrize(
    ("backend", "absent", "reason"),
    [
        ("tvl1-gpu", "torch.cuda.is_available", "needs a CUDA device and finds none"),
        ("opencv", "cv2.optflow", "install opencv-contrib-python-headless"),
    ],
)
def test_a_flow_backend_that_cannot_run_here_is_refused_before_anything_is_written(
    videos, tmp_path, monkeypatch, capsys, backend, absent, reason
):
    if backend == "opencv":
        monkeypatch.delattr(absent)
    else:
        monkeypatch.setattr(absent, lambda: False)
    words = ["folder", "--videos", str(videos), "--store", str(tmp_path / "store")]
    assert main([*words, *QUICK, "--flow-backend", backend]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_flow_backend_that_cannot_run_here_is_refused_only_where_there_are_videos_to_do(
    videos, tmp_path, monkeypatch, capsys
):
    mine, store = Path(shutil.copytree(videos, tmp_path / "videos")), tmp_path / "store"
    words = ["folder", "--videos", str(mine), "--store", str(store), *QUICK]
    words += ["--flow-backend", "opencv"]
    assert main(words) == 0
    manifest = store / "manifest.json"
    finished = manifest.read_bytes()
    monkeypatch.delattr("cv2.optflow")
    manifest.unlink()
    assert main(words) == 0
    assert manifest.read_bytes() == finished
    shutil.copy(mine / "run/p9.avi", mine / "run/p10.avi")
    assert main(words) == 2
    assert "install opencv-contrib-python-headless" in capsys.readouterr().err
    assert manifest.read_bytes() == finished
    assert not (store / "staging").exists()


def test_other_settings_than_the_stores_are_refused(videos, store, capsys):
    words = ["folder", "--videos", str(videos), "--store", str(store), *QUICK]
    assert main([*words, "--short-side", "32"]) == 2
    assert "short_side is 24 there, 32 here" in capsys.readouterr().err


def test_when_no_video_can_be_used_the_command_fails(tmp_path, capsys):
    (tmp_path / "videos/run").mkdir(parents=True)
    for name in "abcdefgh":
        (tmp_path / f"videos/run/{name}.avi").write_bytes(b"garbage")
    given = ["--videos", str(tmp_path / "videos"), "--store", str(tmp_path / "store")]
    assert main(["folder", *given, *QUICK]) == 1
    assert "no video could be used" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(videos, tmp_path):
    words = ["folder", "--videos", str(videos), "--store", str(tmp_path / "a store")]
    process = subprocess.Popen(
        [sys.executable, "-m", "study.prepare", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    while not (tmp_path / "a store/settings.json").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Stopped. What was finished is safe" in err
    assert f"python -m study.prepare folder --videos {videos} --store '{tmp_path}/a store'" in err
    assert "Traceback" not in err


def test_a_terminal_shows_a_bar_with_rate_and_time_left(videos, tmp_path):
    ours, theirs = pty.openpty()
    words = ["folder", "--videos", str(videos), "--store", str(tmp_path / "store"), *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "study.prepare", *words],
        stdout=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "10/10" in text
    assert re.search(r"\d+\.\d videos/s", text)


def test_a_dataset_of_ones_own_is_called_as_its_folder_or_as_it_is_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["folder", "--videos", str(videos), *QUICK]
    assert main([*words, "--store", str(tmp_path / "one")]) == 0
    assert main([*words, "--store", str(tmp_path / "two"), "--name", "mine"]) == 0
    stores = [ClipStore.open(tmp_path / name) for name in ("one", "two")]
    assert [store.annotations.dataset for store in stores] == [videos.name, "mine"]
    assert [store.settings.dataset for store in stores] == [videos.name, "mine"]
    for name, said in (
        ("ucf101", "is a dataset of another kind"),
        ("../x", "begins with a letter"),
    ):
        assert main([*words, "--store", str(tmp_path / "three"), "--name", name]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("given", [[], ["--stacks", "2"], ["--flow-option", "warps=1"]])
def test_a_rerun_takes_what_is_not_given_from_the_store(
    videos: Path, store: Path, capsys: pytest.CaptureFixture[str], given: list[str]
) -> None:
    before = (store / "settings.json").read_bytes(), (store / "manifest.json").read_bytes()
    assert main(["folder", "--videos", str(videos), "--store", str(store), *given]) == 0
    assert "there was nothing to do" in capsys.readouterr().out
    assert before == tuple((store / f"{n}.json").read_bytes() for n in ("settings", "manifest"))


def test_a_rerun_with_nothing_to_do_imports_neither_torch_nor_ray_nor_matplotlib(
    videos: Path, store: Path
) -> None:
    words = ["folder", "--videos", str(videos), "--store", str(store)]
    code = f"""
import sys
from study.prepare import main
assert main({words!r}) == 0
heavy = {{"torch", "torchvision", "ray", "matplotlib", "numba", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_the_rate_is_that_of_the_last_minute_and_shown_once_there_is_one() -> None:
    file, now = io.StringIO(), 0.0
    display = _Display(Console(file=file, width=200), clock=lambda: now)

    def shown(second: float, done: int) -> str:
        nonlocal now
        now = second
        display.show(Progress(done=done, total=1000, skipped=0, before=100))
        return file.getvalue().splitlines()[-1]

    assert shown(11, 100) == "prepared 100 of 1000 videos, starting"
    assert shown(25, 150) == "prepared 150 of 1000 videos, 2.0 videos/s, 7 min 5 s left"
    for second in range(26, 400):
        last = shown(second, 150 + (second - 25))
    assert last.startswith("prepared 5")
    assert ", 1.0 videos/s, " in last
    assert ", 400 s a video, " in shown(799, 525)


def test_a_slow_start_is_soon_left_out_of_the_rate() -> None:
    file, now = io.StringIO(), 0.0
    display = _Display(Console(file=file, width=200), clock=lambda: now)
    for second in range(61):
        now = second
        display.show(Progress(done=max(0, second - 30), total=1000, skipped=0, before=0))
    lines = file.getvalue().splitlines()
    assert lines[:2] == ["prepared 0 of 1000 videos, starting"] * 2
    assert all(", 1.0 videos/s, " in line for line in lines[3:])
    assert len(lines) > 4


def test_lists_of_ones_own_become_a_store_with_their_parts(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [f"{('jump', 'run')[number % 2]}/p{number}.avi" for number in range(10)]
    parts = {"train": clips[:6], "val": clips[6:8], "test": [*clips[8:], "run/absent.avi"]}
    for part, listed in parts.items():
        lines = "".join(f"{clip} {int(clip.startswith('run'))}\n" for clip in listed)
        (tmp_path / f"{part}.txt").write_text(lines)
    (tmp_path / "classes").write_text("jump\nrun\n")
    words = ["folder", "--videos", str(videos), "--store", str(tmp_path / "store"), *QUICK]
    words += ["--splits", *(str(tmp_path / f"{part}.txt") for part in parts)]
    words += ["--classes", str(tmp_path / "classes"), "--name", "mine"]
    assert main([*words, "--strict"]) == 2
    assert f"refused: 1 videos are not in {videos}: run/absent.avi" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"IN THE LISTS: 1 videos are not in {videos}: run/absent.avi" in out
    assert (
        "MISSING from split 1: 0 of 6 train videos, 0 of 2 validation videos, 1 of 3 test videos"
    ) in out
    split = ClipStore.open(tmp_path / "store").annotations.splits["1"]
    assert [video.path for video in split.validation] == clips[6:8]


def test_a_folder_without_groups_is_said_to_mix_sources(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["folder", "--videos", str(videos), *QUICK]
    assert main([*words, "--store", str(tmp_path / "one")]) == 0
    assert "NO GROUPS: without --group every video counts as a source" in capsys.readouterr().out
    assert main([*words, "--store", str(tmp_path / "two"), "--group", "(.)$"]) == 0
    assert "NO GROUPS" not in capsys.readouterr().out
