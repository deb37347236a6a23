"""What grows how: videos in a store, trials in a search, a plan, results, and the report's page.

    python -m benchmarks.growth [--only WORD] [--large]

Each thing is done at three sizes, each ten times the one before; ``--large`` adds a fourth to those
that have one. Everything is synthetic: the records of a store hold a few bytes, and nothing trains.
Printed and written to ``growth.csv`` are the least seconds of three runs, by the clock and of the
processor (all threads), and the exponent between the two largest sizes: 1 is proportional, n log n
is at most 1.2 there. ``growth.svg`` shows them. Below 50 ms it is the constant part that is seen.
"""

import argparse
import csv
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import search_spaces
from benchmarks.results import write_merged
from search_spaces import Settings
from search_spaces.space import Choice, Real
from study.data.datasets.annotations import Annotations, Split, Video
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import Location, shard_path, write_manifest
from study.data.store.record import RECORD_SCHEMA, make_record
from study.data.store.settings import StoreSettings, write_settings
from study.plan import Target, make_plan, settings_of
from study.results import findings, tables
from study.results.drawing import COLOURS, INK, styled
from study.results.page import render_page
from study.results.predictions import IDENTITY
from study.results.rows import load_scores
from study.results.schema import Block, blocks_to_table
from study.results.status import read_failed
from study.results.store import ResultStore
from study.search import Readings, Search, trials_of
from tests.sample_results import PROTOCOL, row, training, write_protocol

ASKED = 3
HERE = Path(__file__).parent
IN_A_SHARD = 500
BLOCK = 10_000  # trainings in a file

Work = Callable[[], object]


@dataclass(frozen=True)
class Measure:
    """Something to be done at several sizes.

    Attributes:
        name: What is done.
        unit: What there are so many of.
        sizes: How many, ascending.
        prepare: Returns what is to be timed at a size; it may write to the folder.
        large: Sizes for ``--large`` alone.
        asked: How often it is done.
        elsewhere: Whether another process does it; then the clock's seconds stand for its own.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], Work]
    large: tuple[int, ...] = ()
    asked: int = ASKED
    elsewhere: bool = False


# A store of videos


def make_store(videos: int, folder: Path) -> Path:
    """Writes a store of so many videos of three frames, a few bytes each."""
    if (folder / "manifest.json").exists():
        return folder
    settings = StoreSettings(dataset="synthetic", short_side=8)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, settings)
    names = [f"class{n % 50:02}/v{n:07}" for n in range(videos)]
    frames = np.arange(3, dtype=np.int32)
    locations = {}
    (folder / "shards").mkdir()
    for shard in range(math.ceil(videos / IN_A_SHARD)):
        chosen = names[shard * IN_A_SHARD : (shard + 1) * IN_A_SHARD]
        with pa.ipc.new_file(str(shard_path(folder, shard)), RECORD_SCHEMA) as writer:
            for place, name in enumerate(chosen):
                record = make_record(
                    **{"name": name, "width": 8, "height": 8, "frames": 3, "promised": 3},
                    decoder="none",
                    starts=frames,
                    pairs=frames,
                    rgb=[name.encode()] * 3,
                    flow=[(name.encode(), b"y")] * 3,
                )
                writer.write_batch(record)
                locations[name] = Location(shard, place, record["digest"][0].as_py())
    every = tuple(
        Video(name=name, path=f"{name}.avi", label=n % 50, group=f"g{n // 4}")
        for n, name in enumerate(names)
    )
    annotations = Annotations(
        dataset="synthetic",
        classes=tuple(f"class{n:02}" for n in range(50)),
        splits={"1": Split(name="1", train=every[::2], test=every[1::2])},
        flip_classes=tuple(range(50)),
    )
    write_manifest(folder, settings, annotations, locations, {})
    return folder


def opened(videos: int, folder: Path) -> Work:
    """Opens a store, lists its videos and reads the record of one."""
    path = make_store(videos, folder / f"store-{videos}")

    def work() -> None:
        store = ClipStore.open(path)
        store.record(store.names[-1])
        assert len(store.annotations.splits["1"].train) == videos // 2

    return work


def verified(videos: int, folder: Path) -> Work:
    """Verifies a store."""
    path = make_store(videos, folder / f"store-{videos}")
    return lambda: list(ClipStore.open(path).verify())


# A search and a plan


def searched(trials: int, _: Path) -> Work:
    """Proposes every trial of a search whose trainings all go to their end, as a start does."""
    parameters = (
        Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
        Real(name="loss_weights.spatial", low=0.5, high=2.0),
        Choice(name="options.attention_dim", choices=(64, 128, 256)),
    )

    def work() -> None:
        search = Search(name="a", parameters=parameters, trials=trials, rungs=(1, 3, 9))
        done = trials_of(
            search,
            lambda values: Readings(values=dict.fromkeys(search.rungs, values["learning_rate"])),
        )
        assert len(done) == trials

    return work


def planned(trainings: int, _: Path) -> Work:
    """Plans the arms of STILT's fusion ablation, two nets, on ten splits with so many seeds."""
    space = search_spaces.get("stilt")
    arms = [arm for arm in space.arms if arm.default]
    target = Target(dataset="synthetic", store_fingerprint="f", split="1")
    base = Settings(options={"backbone": "small"})

    def work() -> None:
        plan = make_plan(
            arms,
            targets=[replace(target, split=str(split)) for split in range(10)],
            seeds=range(trainings // 20),
            settings=lambda arm, _: settings_of(arm, base, space=space),
        )
        assert len(plan.trainings) == trainings

    return work


# Results


def make_results(trainings: int, folder: Path) -> ResultStore:
    """Writes a study of so many trainings as it leaves them: merged, with ten rows each."""
    store = ResultStore(folder)
    if store.exists():
        return store
    arms = ("spatial", "temporal", "two-stream", "stil", "stil-awf-simplex")
    rng = np.random.default_rng(0)
    for start in range(0, trainings, BLOCK):
        seeds = np.arange(start, min(start + BLOCK, trainings))
        ids = [f"t{seed:015}" for seed in seeds]
        same = {"training_id": ids, "seed": seeds}
        block = {**training("", seconds=60.0, epochs=12), **same}
        write_merged(store, "trainings", blocks_to_table("trainings", [block]), ids)
        parts = ("validation", "test")
        blocks = [
            {**row(arm, 0.5, part=part), **same, "top1": rng.random(len(seeds))}
            for arm in arms
            for part in parts
        ]
        keys = [
            f"first,{arm},ucf101,split-1,seed-{seed},{PROTOCOL}"
            for arm in arms
            for _ in parts
            for seed in seeds
        ]
        write_merged(store, "rows", blocks_to_table("rows", blocks), keys)
    write_protocol(store, "first")
    return store


def asked_of_results(question: Callable[[ResultStore], object], size: int, folder: Path) -> Work:
    """Opens results and asks once, as a command does."""
    root = make_results(size, folder / f"results-{size}").root
    return lambda: question(ResultStore(root))


def by_arm(store: ResultStore) -> object:
    with store.connect() as connection:
        return connection.execute(
            "SELECT arm, avg(top1), sum(t.seconds) FROM rows JOIN trainings t USING (training_id) "
            "WHERE part = 'test' GROUP BY arm"
        ).table


def make_scores(videos: int, folder: Path) -> ResultStore:
    """Writes trainings of 10,000 lines of scores: ten classes, two streams."""
    store = ResultStore(folder)
    if store.exists():
        return store
    rng = np.random.default_rng(0)
    for number in range(max(1, videos // 10_000)):
        count = min(videos, 10_000) // 2
        same = {
            **{"training_id": f"t{number}", "scoring_id": f"s{number}", "part": "test"},
            "video": [f"class{n % 10}/v{n:06}" for n in range(count)],
            "label": np.arange(count) % 10,
        }
        store.write_blocks(
            "scores",
            f"s{number}",
            [
                {**same, "stream": stream, "scores": rng.random((count, 10), np.float32)}
                for stream in ("spatial", "temporal")
            ],
        )
    store.compact(above=0)
    return store


def asked_of_scores(question: Callable[[ResultStore], object], lines: int, folder: Path) -> Work:
    root = make_scores(lines, folder / f"scores-{lines}").root
    return lambda: question(ResultStore(root))


def top1(store: ResultStore) -> object:
    with store.connect() as connection:
        return connection.execute(
            "SELECT training_id, stream, avg((rank = 1)::INT), avg((rank <= 5)::INT) FROM scores "
            "GROUP BY training_id, stream"
        ).table


def one_matrix(lines: int, folder: Path) -> Work:
    """Reads one training's scores as matrices, of so many lines."""
    store = ResultStore(folder / f"matrix-{lines}")
    rng = np.random.default_rng(0)
    count = lines // 2
    block = {
        **{"training_id": "t", "scoring_id": "s", "part": "test"},
        "video": [f"class{n % 10}/v{n:06}" for n in range(count)],
        "label": np.arange(count) % 10,
    }
    matrices = {stream: rng.random((count, 10), np.float32) for stream in ("spatial", "temporal")}
    store.write_blocks(
        "scores", "s", [{**block, "stream": s, "scores": matrix} for s, matrix in matrices.items()]
    )

    def work() -> None:
        read = load_scores(ResultStore(store.root), "s")["test"].scores
        assert all(len(read[stream]) == count for stream in matrices)

    return work


def make_predictions(arms: int, folder: Path, *, datasets: int = 6, seeds: int = 3) -> ResultStore:
    """Writes so many arms' judgements of 4,000 test videos of 400 classes on each dataset."""
    store = ResultStore(folder)
    if store.exists():
        return store
    rng = np.random.default_rng(0)
    classes, clips = 400, 10
    labels = np.repeat(np.arange(classes), clips)
    videos = [f"Class{n:03}/v_g{k // 2:02}_c{k % 2}" for n in range(classes) for k in range(clips)]
    groups = [video.rpartition("_")[0] for video in videos]
    for dataset in (f"data{n}" for n in range(datasets)):
        write_protocol(store, "first", dataset=dataset)
        hard = rng.random(len(videos) // 2).repeat(2)
        found: dict[str, list[Block]] = {"rows": [], "predictions": [], "trainings": []}
        keys: dict[str, list[str]] = {view: [] for view in found}
        for number, seed in product(range(arms), range(seeds)):
            arm = "two-stream" if number == 0 else f"arm-{number:03}"
            ability = 0.6 + 0.2 * number / arms + 0.01 * rng.standard_normal()
            wrong = rng.random(len(videos)) > np.clip(ability + 0.5 - hard, 0, 1)
            name = f"{dataset}-{number}-{seed}"
            same = {"dataset": dataset, "seed": seed, "training_id": name}
            one = row(arm, float(1 - wrong.mean()), **same, classes=classes, videos=len(videos))
            judged = {
                **{column: one[column] for column in IDENTITY},
                "video": videos,
                "label": labels,
                "predicted": (labels + wrong * rng.integers(1, classes, len(videos))) % classes,
                "source_group": groups,
            }
            lines = {"rows": one, "trainings": training(name, **same, seconds=60.0)}
            found["predictions"].append(judged)
            for view, line in lines.items():
                found[view].append({**line, "seed": [seed]})
            for view, count in {"rows": 1, "trainings": 1, "predictions": len(videos)}.items():
                keys[view] += [f"first,{arm},{dataset},split-1,seed-{seed},{PROTOCOL}"] * count
        for view, blocks in found.items():
            write_merged(store, view, blocks_to_table(view, blocks), keys[view])
    return store


def asked_of_predictions(
    question: Callable[[ResultStore], object], arms: int, folder: Path
) -> Work:
    root = make_predictions(arms, folder / f"predictions-{arms}").root
    return lambda: question(ResultStore(root))


def compared(store: ResultStore) -> object:
    shown = [one.shown for one in findings.selected(store, "first")]
    found = [findings.find(store, one) for one in shown]
    return findings.comparison_csv(found), findings.over_datasets(found)


def in_browser(action: str, arms: int, folder: Path) -> Work:
    """Opens a report's page in Chromium, or does something on it, until the next frame is drawn."""
    path = folder / f"page-{arms}.html"
    if not path.exists():
        store = make_predictions(arms, folder / f"predictions-{arms}")
        path.write_text(render_page(store, "first"), encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    page = chromium().new_page()
    page.goto(path.as_uri())
    drawn = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"

    def work() -> None:
        if action:
            page.evaluate(f"() => {{ {action}; return {drawn} }}")
        else:
            page.goto(path.as_uri())
            page.evaluate(f"() => {drawn}")

    return work


@cache
def chromium() -> Any:
    from playwright.sync_api import sync_playwright

    return (
        sync_playwright()
        .start()
        .chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    )


def table_of(store: ResultStore) -> object:
    return tables.render("stilt-4", store)


MEASURES = (
    Measure("open and list a store", "videos", (100, 1000, 10_000), opened, (100_000,)),
    Measure("verify a store", "videos", (100, 1000, 10_000), verified, (100_000,)),
    Measure("propose all trials", "trials", (10, 100, 1000), searched, asked=1),
    Measure("plan", "trainings", (1000, 10_000, 100_000), planned, asked=1),
    *(
        Measure(
            name,
            "trainings",
            (100, 1000, 10_000),
            partial(asked_of_results, question),
            (100_000,),
        )
        for name, question in (
            ("rows by arm, in SQL", by_arm),
            ("one training by its key", lambda store: store.read("trainings", keys=[f"t{0:015}"])),
            ("--status: what failed", lambda store: read_failed(store, "first")),
            ("--table", table_of),
        )
    ),
    Measure(
        "top-1 and top-5 from scores, in SQL",
        "lines of scores",
        (10_000, 100_000, 1_000_000),
        partial(asked_of_scores, top1),
        (10_000_000,),
    ),
    Measure("scores as matrices", "lines of scores", (1000, 10_000, 100_000), one_matrix),
    Measure("--compare, 6 datasets", "arms", (2, 10, 100), partial(asked_of_predictions, compared)),
    Measure(
        "the report's page, 6 datasets",
        "arms",
        (2, 10, 100),
        partial(asked_of_predictions, lambda store: render_page(store, "first")),
        asked=1,
    ),
    *(
        Measure(name, "arms", (2, 10, 100), partial(in_browser, action), elsewhere=True)
        for name, action in (
            ("open the page in Chromium", ""),
            ("sort a table of it", "document.querySelector('table.data thead button').click()"),
            (
                "filter its tables",
                "const box = document.getElementById('filter'); box.value = box.value ? '' : '9'; "
                "box.dispatchEvent(new Event('input'))",
            ),
        )
        if shutil.which("chromium")
    ),
)


def measure(only: str, large: bool, folder: Path) -> Iterator[tuple[Measure, int, float, float]]:
    """Yields what was done at which size, with its seconds by the clock and of the processor."""
    for one in MEASURES:
        if only not in one.name:
            continue
        for size in (*one.sizes, *(one.large if large else ())):
            work = one.prepare(size, folder)
            times = [timed(work) for _ in range(one.asked)]
            least = min(wall for wall, _ in times)
            yield one, size, least, least if one.elsewhere else min(cpu for _, cpu in times)


def timed(work: Work) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def exponents(lines: list[dict[str, str]]) -> dict[str, float]:
    """Returns by name how the processor's seconds grow between the two largest sizes."""
    found = {}
    for name in dict.fromkeys(line["what"] for line in lines):
        (n, a), (m, b) = [
            (int(line["size"]), float(line["cpu_seconds"]))
            for line in lines
            if line["what"] == name
        ][-2:]
        found[name] = math.log(b / a) / math.log(m / n)
    return found


@styled
def plot(lines: list[dict[str, str]]) -> Figure:
    """Draws seconds of the processor by size, both logarithmic."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.add_subplot()
    grown = exponents(lines)
    for number, name in enumerate(grown):
        of = [line for line in lines if line["what"] == name]
        sizes = [int(line["size"]) for line in of]
        axes.plot(
            sizes,
            [float(line["cpu_seconds"]) for line in of],
            color=COLOURS[number % len(COLOURS)],
            marker="osD^v"[number // len(COLOURS)],
            markersize=4,
            label=f"{name} ({of[0]['unit']}): n^{grown[name]:.2f}",
        )
    sizes = [1.0, 1e7]
    axes.plot(sizes, [1e-5 * n for n in sizes], color=INK, linestyle=":", label="proportional")
    axes.set(xscale="log", yscale="log", xlabel="how many", ylabel="seconds of the processor")
    axes.set_ylim(1e-3, 1e3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=7
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="what has this in its name; writes no files")
    parser.add_argument("--large", action="store_true", help="a fourth size: minutes more")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    lines = []
    shown = Table("what", "size", "unit", "seconds", "of the processor")
    with tempfile.TemporaryDirectory() as folder:
        for one, size, wall, cpu in measure(options.only, options.large, Path(folder)):
            print(f"{one.name}: {size} {one.unit} {wall:.3f} s, {cpu:.3f} s", flush=True)
            lines.append(
                {
                    **{"what": one.name, "unit": one.unit, "size": str(size)},
                    **{"seconds": f"{wall:.4f}", "cpu_seconds": f"{cpu:.4f}"},
                }
            )
            shown.add_row(one.name, f"{size:,}", one.unit, f"{wall:.3f}", f"{cpu:.3f}")
    Console().print(shown)
    for name, exponent in exponents(lines).items():
        print(f"{name}: n^{exponent:.2f}")
    if options.only:
        return
    with (HERE / "growth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    plot(lines).savefig(HERE / "growth.svg", format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
