"""Decoding: the right frames, and a reason where there are none."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Pipe
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
from PIL import Image

from study.data.process import ChildProcess
from study.data.video import decoders
from study.data.video.reader import BadVideoError, VideoReader, resize, resized_size
from tests.data.video_files import decode_all, moving_square, write_video

PATIENCE = 120  # seconds for a decoder on a busy machine
LARGE = 480  # a short side of which one frame fills the connection several times over


@pytest.fixture(scope="module")
def reader():
    with VideoReader(deadline=PATIENCE) as reader:
        yield reader


@pytest.fixture(scope="module")
def avi(tmp_path_factory):
    """A compressed video of 40 frames."""
    folder = tmp_path_factory.mktemp("videos")
    return write_video(folder / "clip.avi", moving_square(40, height=96, width=128))


def test_frames_of_a_lossless_video_come_back_bit_by_bit(reader, tmp_path):
    frames = moving_square(12)
    path = write_video(tmp_path / "clip.avi", frames, codec="ffv1")
    info = reader.open(path)
    assert (info.frames, info.promised, info.width, info.height) == (12, 12, 64, 48)
    np.testing.assert_array_equal(list(reader.read(range(12), short_side=48)), frames)
    some = [0, 4, 5, 11]
    np.testing.assert_array_equal(list(reader.read(some, short_side=48)), frames[some])


def test_frames_are_resized_by_area_averaging(reader, tmp_path):
    frames = moving_square(7)
    path = write_video(tmp_path / "clip.avi", frames, codec="ffv1")
    reader.open(path)
    got = np.stack(list(reader.read([0, 3, 6], short_side=24)))
    blocks = frames[::3].reshape(3, 24, 2, 32, 2, 3).astype(float).mean((2, 4))
    assert got.shape == (3, 24, 32, 3)
    assert np.abs(got - blocks).max() <= 0.5  # area averaging


@pytest.mark.parametrize(
    ("width", "height", "short_side", "size"),
    [
        (320, 240, 256, (341, 256)),
        (240, 320, 256, (256, 341)),
        (64, 64, 64, (64, 64)),
        (5, 2, 1, (3, 1)),  # 2.5 goes up
        (176, 100, 256, (451, 256)),
    ],
)
def test_resized_size_keeps_the_aspect_ratio(width, height, short_side, size):
    assert resized_size(width, height, short_side) == size
    assert resize(np.zeros((height, width, 3), np.uint8), short_side).shape == (*size[::-1], 3)


def test_real_clips_give_the_frames_that_decord_reads_in_order(reader, real_data):
    for clip in ("Archery/v_Archery_g01_c01.avi", "Surfing/v_Surfing_g02_c01.avi"):
        path = real_data / "videos/ucf101" / clip
        other = decord.VideoReader(str(path), num_threads=1)
        info = reader.open(path)
        assert info.frames == info.promised == len(other)
        ours = reader.read(range(info.frames), short_side=240)
        assert all(np.array_equal(frame, other.next().asnumpy()) for frame in ours)


def test_scattered_frames_are_the_same_as_when_all_are_read(reader, real_data):
    """Where seeking goes wrong: packed B-frames, and an edit list that hides 104 of 365 frames."""
    for clip, frames, promised in (
        ("hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi", 48, 49),
        ("misc/LAKawai_rings.mp4", 261, 261),
    ):
        info = reader.open(real_data / "videos" / clip)
        assert (info.frames, info.promised) == (frames, promised)
        every = list(reader.read(range(frames), short_side=32))
        some = [3, 4, 17, 30, frames - 1]
        np.testing.assert_array_equal(
            list(reader.read(some, short_side=32)), [every[i] for i in some]
        )


def test_every_container_of_the_real_clips_can_be_read(reader, real_data):
    for pattern in ("kinetics/*", "ssv2_clips/*", "jester/1*", "ssv2_frames/2*", "hmdb51/*/*"):
        for path in (real_data / "videos").glob(pattern):
            info = reader.open(path)
            assert info.frames >= 20
            assert info.promised is None or abs(info.promised - info.frames) <= 3


def test_reading_can_be_stopped_early(reader, avi):
    info = reader.open(avi)
    for _ in reader.read(range(info.frames), short_side=32):
        break
    assert reader.open(avi) == info


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_video_is_refused(reader, avi, tmp_path, tenths):
    whole = avi.read_bytes()
    path = tmp_path / "clip.avi"
    path.write_bytes(whole[: len(whole) * tenths // 10])
    with pytest.raises(BadVideoError):
        reader.open(path)


def test_a_short_video_says_how_short(reader, avi, tmp_path):
    path = tmp_path / "clip.avi"
    path.write_bytes(avi.read_bytes()[: avi.stat().st_size // 2])
    with pytest.raises(BadVideoError, match=r"of 40 frames \d+ are missing and \d damaged"):
        reader.open(path)


def test_a_truncated_webm_is_refused_though_it_counts_no_frames(reader, real_data, tmp_path):
    whole = (real_data / "videos/ssv2_clips/smth-smth-1.webm").read_bytes()
    for tenths in range(1, 10):
        path = tmp_path / "clip.webm"
        path.write_bytes(whole[: len(whole) * tenths // 10])
        with pytest.raises(BadVideoError):
            reader.open(path)


def test_patched_frames_count_as_damaged(reader, avi, tmp_path):
    data = bytearray(avi.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(6000, len(data) - 2000, 200):
        data[place] = rng.integers(256)
    path = tmp_path / "clip.avi"
    path.write_bytes(data)
    with pytest.raises(BadVideoError, match=r"and \d+ damaged"):
        reader.open(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.touch(), "empty file"),
        (lambda path: path.write_bytes(b"no video" * 99), "can't be read as a video"),
        (lambda path: path.write_bytes(bytes(4096)), "can't be read as a video"),
        (lambda path: path.mkdir(), "folder without frames"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: os.mkfifo(path), "neither a file nor a folder"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(reader, tmp_path, make, reason):
    path = tmp_path / "clip.avi"
    make(path)
    with pytest.raises(BadVideoError, match=reason):
        reader.open(path)


def test_a_file_that_may_not_be_read_is_refused_with_the_reason():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write_video(Path(folder) / "clip.avi", moving_square(3))
        path.chmod(0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # root may read everything
        try:
            with pytest.raises(BadVideoError, match="Permission denied"):
                decoders._PyavDecoder(str(path), decoders._Pulse(Pipe()[0]))
        finally:
            os.seteuid(user)


def test_huge_sizes_in_the_header_are_refused(reader, tmp_path):
    path = write_video(tmp_path / "clip.avi", moving_square(3, height=96, width=128), codec="ffv1")
    data = path.read_bytes()
    for width, height, reason in (
        (60_000, 60_000, "no valid picture size"),
        (15_000, 15_000, "15000×15000 is larger"),
        (16_000, 100, "longer than 16 to 1"),
    ):
        size = (128).to_bytes(4, "little") + (96).to_bytes(4, "little")
        lie = width.to_bytes(4, "little") + height.to_bytes(4, "little")
        assert size in data
        path.write_bytes(data.replace(size, lie))
        with pytest.raises(BadVideoError, match=reason):
            reader.open(path)


def test_a_video_that_is_to_be_shown_turned_is_turned(reader, tmp_path):
    upright = moving_square(5, height=48, width=64)
    path = write_video(tmp_path / "clip.mp4", upright)
    straight = decode_all(path, short_side=48)
    data = path.read_bytes()
    one = (1 << 16).to_bytes(4)
    identity = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4)
    minus_one = (-(1 << 16)).to_bytes(4, signed=True)
    quarter = bytes(4) + one + bytes(4) + minus_one + bytes(16) + identity[-4:]
    track = data.index(b"tkhd")
    place = data.index(identity, track)
    path.write_bytes(data[:place] + quarter + data[place + len(quarter) :])
    info = reader.open(path)
    assert (info.width, info.height) == (48, 64)
    turned = np.stack(list(reader.read(range(5), short_side=48)))
    # The matrix maps x to y: a quarter turn clockwise, as players and OpenCV show it.
    np.testing.assert_array_equal(turned, np.rot90(straight, -1, (1, 2)))
    shown = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    assert np.abs(shown.astype(int) - turned[0]).mean() < 8


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(reader, tmp_path):
    frames = moving_square(12)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(tmp_path / f"img_{number}.png")
        Image.new("L", (32, 24)).save(tmp_path / f"flow_x_{number}.jpg")  # as some lay it out
    (tmp_path / "notes.txt").touch()
    info = reader.open(tmp_path)
    assert (info.frames, info.promised, info.decoder) == (12, 12, "images")
    np.testing.assert_array_equal(list(reader.read(range(12), short_side=48)), frames)


def test_a_folder_with_bad_frames_is_refused(reader, tmp_path):
    for number, frame in enumerate(moving_square(12), start=1):
        Image.fromarray(frame).save(tmp_path / f"img_{number:05d}.jpg")
    whole = (tmp_path / "img_00004.jpg").read_bytes()
    (tmp_path / "img_00004.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadVideoError, match="of 12 frames 1 are damaged"):
        reader.open(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "img_00004.jpg")
    with pytest.raises(BadVideoError, match=r"img_00004.jpg is 20×20"):
        reader.open(tmp_path)
    for number in (4, 5, 6, 7):
        (tmp_path / f"img_{number:05d}.jpg").unlink()
    with pytest.raises(BadVideoError, match="of 12 frames 4 are missing"):
        reader.open(tmp_path)


def decoder_of(reader: VideoReader) -> int:
    """The decoder's process id."""
    assert reader._child is not None
    return reader._child.pid


class Hanging(ChildProcess):
    """A process that is given up after a second, whatever the deadline, if a test stopped it."""

    def receive(self, timeout=None):
        return super().receive(self._shortened(timeout))

    def receive_into(self, buffer, timeout):
        super().receive_into(buffer, self._shortened(timeout))

    def _shortened(self, timeout):
        assert timeout == PATIENCE
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return 1 if state == "T" else timeout


@pytest.fixture
def hanging(monkeypatch):
    """A reader whose decoder a test may stop."""
    monkeypatch.setattr("study.data.video.reader.ChildProcess", Hanging)
    with VideoReader(deadline=PATIENCE) as reader:
        yield reader


def stop(reader: VideoReader) -> None:
    """Stops a reader's decoder, and waits until it has stopped."""
    pid = decoder_of(reader)
    os.kill(pid, signal.SIGSTOP)
    while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)


def test_a_decoder_that_hangs_is_killed_and_the_next_one_asked(hanging, avi):
    hanging.open(avi)
    stop(hanging)
    info = hanging.open(avi)
    assert (info.decoder, info.frames) == ("decord", 40)
    by_decord = list(hanging.read([0, 7, 39], short_side=96))
    assert hanging.open(avi).decoder == "pyav"
    np.testing.assert_array_equal(by_decord, list(hanging.read([0, 7, 39], short_side=96)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_decoder_that_dies_once_is_replaced_by_the_same(reader, avi, number):
    reader.open(avi)
    os.kill(decoder_of(reader), number)
    assert reader.open(avi).decoder == "pyav"


@pytest.mark.parametrize("after", [0, 1, 25])
def test_a_decoder_that_dies_once_while_frames_are_read_loses_none(reader, avi, after):
    reader.open(avi)
    whole = list(reader.read(range(1, 40), short_side=LARGE))
    reader.open(avi)
    frames = reader.read(range(1, 40), short_side=LARGE)
    first = [next(frames) for _ in range(after)]
    os.kill(decoder_of(reader), signal.SIGKILL)
    np.testing.assert_array_equal([*first, *frames], whole)


class Dying(ChildProcess):
    """A process that dies as soon as PyAV is asked to open a video."""

    number = signal.SIGKILL
    died = 0

    def send(self, message):
        if message[0] == "open" and message[2] == "pyav":
            os.kill(self.pid, self.number)
            Dying.died += 1
        super().send(message)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_dies_twice_gives_way_to_the_next(avi, monkeypatch, number):
    monkeypatch.setattr(Dying, "number", number)
    monkeypatch.setattr(Dying, "died", 0)
    monkeypatch.setattr("study.data.video.reader.ChildProcess", Dying)
    with VideoReader(deadline=PATIENCE) as reader:
        assert reader.open(avi).decoder == "decord"
        assert Dying.died == 2
        monkeypatch.setattr("study.data.video.reader._decoders_for", lambda path: ["pyav"])
        with pytest.raises(BadVideoError, match=f"^pyav died of {number.name}$"):
            reader.open(avi)


def test_a_decoder_that_hangs_while_frames_are_read_is_given_up(hanging, avi):
    hanging.open(avi)
    frames = hanging.read(range(40), short_side=LARGE)
    next(frames)
    stop(hanging)
    with pytest.raises(BadVideoError, match="hung: no sign of life for 1 s"):
        list(frames)


def test_frames_that_decord_makes_up_are_refused(hanging, real_data):
    clip = real_data / "videos/hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    hanging.open(clip)
    stop(hanging)
    with pytest.raises(BadVideoError, match="replaced frames that don't decode"):
        hanging.open(clip)


def test_decoders_end_with_the_process_that_started_them(avi):
    script = (
        "import sys, time; from study.data.video.reader import VideoReader\n"
        "reader = VideoReader(); reader.open(sys.argv[1]); print(reader._child.pid, flush=True)\n"
        "time.sleep(3600)"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(avi)], stdout=subprocess.PIPE, cwd=root, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    while _runs(child):
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("indices", [[3, 3], [5, 2], [-1], [40]])
def test_indices_must_ascend_and_exist(reader, avi, indices):
    reader.open(avi)
    with pytest.raises(ValueError, match="indices must"):
        list(reader.read(indices, short_side=32))
