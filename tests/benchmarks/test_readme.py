import csv

from benchmarks import readme


def test_the_readme_shows_the_recorded_study() -> None:
    text = readme.README.read_text()
    table = text.partition(readme.BEGIN)[2].partition(readme.END)[0]
    with readme.RECORD.open() as file:
        lines = list(csv.DictReader(file))
    assert lines
    assert {line["seeds"] for line in lines} == {"1, 2, 3"}, "of fresh seeds, and enough of them"
    for line in lines:
        ours, low, high = (100 * float(line[name]) for name in ("ours", "low", "high"))
        mark = " *" if line["verdict"] in ("better", "worse") else ""
        assert f"{line['label']} " in table
        (shown,) = (row for row in table.splitlines() if row.startswith(f"{line['label']}  "))
        assert shown.endswith(f"  {ours:.1f} ± {(high - low) / 2:.1f}{mark}")


def test_the_table_goes_between_the_marks() -> None:
    text = f"before\n{readme.BEGIN}old\n{readme.END}after\n"
    assert readme.replaced(text, "new\n") == f"before\n{readme.BEGIN}new\n{readme.END}after\n"
