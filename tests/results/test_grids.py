"""Grids of cells in each format, and what they escape."""

import shutil
import subprocess
from pathlib import Path

import pytest

from study.results.grids import (
    Grid,
    Section,
    latex_text,
    markdown_text,
    natural_order,
    printable,
)

GRID = Grid(
    upper_header=["", "UCF101", "UCF101", "x"],
    header=["arm", "ours", "published", "n"],
    rows=[["Spatial", "81.0 ± 0.3", "81.2", "1"], ["a|b_c & d", "–", "7", "22"]],
    right=[False, True, True, True],
)


def test_text_is_aligned_under_its_headers() -> None:
    assert GRID.text() == (
        "                   UCF101          x\n"
        "arm              ours  published   n\n"
        "─────────  ──────────  ─────────  ──\n"
        "Spatial    81.0 ± 0.3       81.2   1\n"
        "a|b_c & d           –          7  22"
    )


def test_a_group_wider_than_its_columns_widens_them() -> None:
    grid = Grid(
        upper_header=["", "a long group", "a long group"],
        header=["", "a", "b"],
        rows=[["x", "1", "2"]],
        right=[False, True, True],
    )
    lines = grid.text().splitlines()
    assert grid.width() == len(lines[2]) == 1 + 2 + len("a long group")
    assert lines[0] == "   a long group"


def test_wide_letters_are_aligned_by_their_width_in_a_terminal() -> None:
    lines = Grid(header=["a", "b"], rows=[["動作", "1"], ["x", "2"]], right=[False, False]).text()
    assert lines.splitlines()[2:] == ["動作  1", "x     2"]


def test_markdown_is_one_table_with_its_marks_escaped() -> None:
    assert GRID.markdown().splitlines() == [
        "| arm | UCF101, ours | UCF101, published | x, n |",
        "| :--- | ---: | ---: | ---: |",
        "| Spatial | 81.0 ± 0.3 | 81.2 | 1 |",
        r"| a\|b\_c &amp; d | – | 7 | 22 |",
    ]
    assert markdown_text("<img src=x> [a](b) `c` *d*") == (
        r"&lt;img src=x&gt; \[a\](b) \`c\` \*d\*"
    )


def test_latex_is_a_tabular_with_its_marks_escaped() -> None:
    assert GRID.latex().splitlines() == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"\multicolumn{1}{l}{} & \multicolumn{2}{c}{UCF101} & \multicolumn{1}{c}{x} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}",
        r"arm & ours & published & n \\",
        r"\midrule",
        r"Spatial & 81.0 $\pm$ 0.3 & 81.2 & 1 \\",
        r"a\textbar{}b\_c \& d & -- & 7 & 22 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert latex_text("\\input{x} 50% $1 #2 a^b ~") == (
        r"\textbackslash{}input\{x\} 50\% \$1 \#2 a\textasciicircum{}b \textasciitilde{}"
    )


def test_a_wide_grid_is_divided_between_its_upper_headers() -> None:
    parts = GRID.parts(24)
    assert [part.header for part in parts] == [["arm", "ours", "published"], ["arm", "n"]]
    assert [part.upper_header for part in parts] == [["", "UCF101", "UCF101"], ["", "x"]]
    assert parts[1].rows == [["Spatial", "1"], ["a|b_c & d", "22"]]
    assert [part.header for part in GRID.parts(80)] == [GRID.header]


def test_a_section_wraps_its_notes_and_says_its_warnings_first() -> None:
    section = Section(title="T_1", grid=GRID, notes=["a note " * 30], warnings=["loud"])
    lines = section.text().splitlines()
    assert lines[0] == "T_1"
    assert max(map(len, lines)) <= 80
    assert lines.index("!! loud") < next(i for i, line in enumerate(lines) if "a note" in line)
    assert section.rendered("markdown").startswith("**T\\_1**\n\n| arm |")
    latex = section.rendered("latex").splitlines()
    assert latex[:3] == [
        r"\begin{table}  % \usepackage{booktabs}",
        r"\centering",
        r"\caption{T\_1}",
    ]
    assert r"\textbf{loud}\par" in latex


def test_numbers_in_names_sort_by_their_size() -> None:
    names = ["10", "2", "1", "split b", "split a10", "split a9"]
    ordered = ["1", "2", "10", "split a9", "split a10", "split b"]
    assert sorted(names, key=natural_order) == ordered


def test_a_name_cannot_steer_the_terminal_or_break_the_line() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert "\x1b" not in Grid(header=["\x1b[31m"], rows=[["\x07"]], right=[False]).text()


def test_latex_compiles(tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("no LaTeX here")
    every = "".join(map(chr, range(32, 127))) + "±×λαβ–—…−·→≤≥é"
    section = Section(
        title=every,
        grid=Grid(
            upper_header=["", *GRID.upper_header],
            header=[every, *GRID.header],
            rows=[["x", *row] for row in GRID.rows],
            right=[False, *GRID.right],
        ),
        notes=[every],
        warnings=[every],
    )
    document = "\n".join(
        [
            r"\documentclass{article}\usepackage{booktabs}\begin{document}",
            section.latex(),
            r"\end{document}",
        ]
    )
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000
