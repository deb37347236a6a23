"""The report's page in a real browser: what it does, and that it asks nobody for anything."""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from study.data.datasets.catalog import dataset_title
from study.results.comparison import class_gains
from study.results.gallery import JudgedVideo, render_gallery
from study.results.live import LivePage, PageServer
from study.results.page import render_page
from study.results.predictions import judgements
from study.results.status import Status, write_status
from study.results.store import ResultStore
from tests.sample_results import PROTOCOL, row, write_rows, write_study

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NASTY = '<img src=x onerror="document.title=1"> & {{ 7 * 7 }}'
COMPARED = '[aria-label^="UCF101, "]'
CONFUSIONS = '[aria-label^="Confusions of"]:visible'
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page whose study, classes and an arm have markup as their names."""
    folder = tmp_path_factory.mktemp("page")
    store = ResultStore(folder / "results")
    write_study(store, study=NASTY, classes=4)
    write_rows(store, row(NASTY, 0.25, study=NASTY))
    path = folder / "report.html"
    path.write_text(render_page(store, NASTY), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, file: str) -> Iterator[Any]:
    """The page, opened; fails where it complains, or asks for anything but itself."""
    said: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url != file else None)
    page.goto(file)
    yield page
    context.close()
    assert [text for text in said if not text.startswith("data:")] == []


def first_cells(page: Any, region: str) -> list[str]:
    cells: list[str] = page.locator(f"{region} tbody tr:visible th").all_inner_texts()
    return cells


def test_markup_in_names_stays_text(page: Any) -> None:
    assert page.title() == NASTY
    assert page.locator("h1").inner_text() == NASTY
    assert page.locator("img").count() == 0
    assert NASTY in page.locator("body").inner_text()


def test_the_numbers_are_those_of_the_results(page: Any, file: str) -> None:
    shown = page.locator('[aria-label="Budget spent"] tbody tr').all_inner_texts()
    assert len(shown) == 8
    accuracy = page.locator(".headline").first.inner_text()
    store = ResultStore(Path(file.removeprefix("file://")).parent / "results")
    rows = store.read("rows", arm="stil-awf-simplex", part="test")["top1"].to_pylist()
    assert f"{100 * sum(rows) / len(rows):.1f} %" in accuracy


def test_a_column_is_sorted_by_mouse_and_by_keyboard(page: Any) -> None:
    header = page.locator(f"{COMPARED} th", has_text="points")
    cell = f"{COMPARED} tbody td:nth-child(2)"

    def values() -> list[float]:
        return [float(v.replace("−", "-")) for v in page.locator(cell).all_inner_texts()]

    before = values()
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(before)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert values() == sorted(before, reverse=True)


def test_rows_are_filtered_and_stay_so_when_the_page_is_opened_again(page: Any) -> None:
    every = first_cells(page, COMPARED)
    page.get_by_label("Show rows with").fill("stil +")
    wanted = [name for name in every if "stil +" in name.lower()]
    assert first_cells(page, COMPARED) == wanted
    assert 0 < len(wanted) < len(every)
    page.reload()
    assert first_cells(page, COMPARED) == wanted
    page.get_by_label("Show rows with").fill("")
    assert first_cells(page, COMPARED) == every


def choose(page: Any, part: str, place: int, label: str) -> None:
    page.locator(f'[id^="{part}-"]').nth(place).select_option(label=label)


def shares(page: Any) -> list[str]:
    cells: list[str] = page.locator(f"{CONFUSIONS} tbody td").all_inner_texts()
    return cells


def test_any_arms_confusions_are_shown_and_the_difference_of_two(page: Any) -> None:
    shown = page.locator(CONFUSIONS)
    assert shown.count() == 1
    assert shown.get_attribute("aria-label") == "Confusions of Two-stream + STIL + AWF"
    ours = shares(page)
    choose(page, "confusions", 0, "Temporal")
    assert shown.count() == 1
    assert shown.get_attribute("aria-label") == "Confusions of Temporal"
    theirs = shares(page)
    choose(page, "confusions", 0, "Two-stream + STIL + AWF")
    choose(page, "confusions", 1, "Temporal")
    assert shown.count() == 1
    assert shown.get_attribute("aria-label").endswith("AWF less Confusions of Temporal")
    for said, our, their in zip(shares(page), ours, theirs, strict=True):
        difference = int(said.replace("−", "-") or 0)
        assert abs(difference - (int(our or 0) - int(their or 0))) <= 1, "of rounded shares"
    choose(page, "confusions", 1, "nothing")
    assert shares(page) == ours


def test_gains_by_class_are_those_of_the_results_whichever_arm_is_the_reference(
    page: Any, file: str
) -> None:
    chart = f'[aria-label="Gains by class on {dataset_title("ucf101")}"] tbody tr'
    choose(page, "gains", 0, "Two-stream + STIL")
    choose(page, "gains", 1, "Two-stream")
    store = ResultStore(Path(file.removeprefix("file://")).parent / "results")
    judged = judgements(store, study=NASTY, dataset="ucf101", protocol=PROTOCOL)
    for first, second in (("stil", "two-stream"), ("two-stream", "stil")):
        lines = page.locator(chart).all_inner_texts()
        told = {line.split("\t")[0].split(" (")[0]: line.split("\t")[1] for line in lines}
        gains = class_gains(judged[second], judged[first])
        assert len(lines) == len(gains) == page.locator(f"{chart} svg circle").count()
        for one in gains:
            assert float(told[one.name].replace("−", "-")) == pytest.approx(
                100 * one.estimate.value, abs=0.051
            )
        choose(page, "gains", 0, "Two-stream")
        choose(page, "gains", 1, "Two-stream + STIL")


def test_a_gallery_puts_first_what_one_arm_gets_right_and_another_wrong(
    browser: Any, tmp_path: Path
) -> None:
    def judged(name: str, *right: float) -> JudgedVideo:
        by_arm = dict(zip("ab", right, strict=True))
        said = {arm: int(share > 0.5) for arm, share in by_arm.items()}
        return JudgedVideo(
            video=name, label=1, right=by_arm, said=said, seeds=dict.fromkeys("ab", 4)
        )

    videos = [judged("even", 0.5, 0.75), judged("only a", 1, 0), judged("only b", 0, 1)]
    pieces = render_gallery(
        ((one, []) for one in videos),
        study=NASTY,
        dataset="ucf101",
        split="1",
        labels={"a": "First", "b": "Second"},
        classes=[NASTY, "run"],
    )
    path = tmp_path / "gallery.html"
    path.write_text("".join(pieces), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    names = page.locator(".card:visible h2")
    assert names.all_inner_texts() == ["only a", "only b", "even"]
    page.get_by_label("Right").select_option(label="Second")
    assert names.all_inner_texts() == ["only b", "even", "only a"]
    page.get_by_label("Wrong").select_option(label="First")
    assert names.all_inner_texts() == ["only b", "even", "only a"]
    page.get_by_label("Show videos with").fill("only")
    assert names.all_inner_texts() == ["only b", "only a"]
    assert page.locator("img").count() == 0
    page.close()


def test_the_keyboard_reaches_every_control(page: Any) -> None:
    controls = "input:visible, select:visible, button:visible, a:visible, [tabindex='0']:visible"
    wanted = page.locator(controls).count() + page.locator("summary:visible").count()
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
    body = page.evaluate("[...document.querySelectorAll('*')].indexOf(document.body)")
    assert len(reached - {body}) == wanted


def test_a_phone_scrolls_in_one_direction_alone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_light_dark_and_paper_can_be_read(page: Any) -> None:
    def contrast() -> float:
        return float(
            page.evaluate(
                """() => {
                    const light = (text) => {
                        const [r, g, b] = text.match(/[\\d.]+/g).map((v) => {
                            const c = v / 255;
                            return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
                        });
                        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
                    };
                    const ratios = [...document.querySelectorAll("section .lead")].map((part) => {
                        const text = light(getComputedStyle(part).color);
                        const panel = light(
                            getComputedStyle(part.closest("section")).backgroundColor);
                        return Math.max(text, panel) / Math.min(text, panel);
                    });
                    return Math.min(...ratios);
                }"""
            )
        )

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert contrast() > 4.5
    page.emulate_media(media="print", color_scheme="dark")
    assert contrast() > 4.5
    assert not page.locator(".tools").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_a_served_page_renews_itself_and_keeps_what_was_chosen(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.results.page.POLL_SECONDS", 0.2)
    store = ResultStore(tmp_path)
    write_study(store, study="one", classes=2, seeds=1)
    status = Status(
        study="one", state="running", host="node7", process=1, updated_at=0.0, rows_planned=9
    )
    write_status(store, replace(status, rows=7))
    live = LivePage(partial(render_page, store, "one", live="poll"), least_seconds=0)
    said: list[str] = []
    with PageServer(live) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.address)
        page.get_by_text("Running: 7 of 9 rows").wait_for(timeout=120_000)
        button = page.locator(f"{COMPARED} th", has_text="points").locator("button")
        button.click()
        choose(page, "confusions", 0, "Temporal")
        button.focus()
        write_status(store, replace(status, rows=8))
        page.get_by_text("Running: 8 of 9 rows").wait_for(timeout=120_000)
        header = page.locator(f"{COMPARED} th", has_text="points")
        assert header.get_attribute("aria-sort") == "ascending"
        shown = page.locator(CONFUSIONS)
        assert shown.get_attribute("aria-label") == "Confusions of Temporal"
        assert page.evaluate("document.activeElement.textContent") == "points"
        assert said == []
        server.shutdown()
        thread.join()
    page.locator("#connection:not([hidden])").wait_for(timeout=120_000)
    assert "no longer renewed" in page.locator("#connection").inner_text()
    page.close()
