"""What a results folder says of itself to someone who opens it without this code."""

from study.results.schema import STORED_VIEWS, VIEWS

__all__ = ["guide"]

_HEAD = """\
# Results of two-stream studies

Each folder below is a table in Parquet files; a table's lines are all lines of its files.

```sql
-- DuckDB
SELECT arm, avg(top1) FROM read_parquet('rows/*.parquet', union_by_name = true)
WHERE part = 'test' GROUP BY protocol, arm
```
```python
pandas.read_parquet("rows")  # or pyarrow.dataset.dataset("rows")
```

- `rows/stilt-ucf101,stil,ucf101,split-1,seed-2,…~20260102T030405.….parquet` holds what was written
  at once: before `~` what it is of, then when it was written (UTC). What is written again takes the
  place of what it replaces, so nothing is there twice. A `+` begins a digest where a name is not
  whole.
- Many such files become one, `~….parquet`, with a column `_key` that says which each line was in.
- While a study runs, lines that are being merged or replaced may be seen twice for a moment;
  `python -m study.query` and `from study.results import open_results` never see that.
- Times are seconds, sizes bytes, accuracies fractions 0..1. A text that holds JSON has its keys
  sorted.
- `status`, `searches`, `studies`, `networks`: where each study stands, its searches as an Optuna
  journal, its request, and kept networks. `checkpoints`, `claims`, `locks`: what a study needs
  until it is done. `weights`, `data`: weights that trainings start from, and the embedded dataset.
  `tensorboard`, `mlflow`, `wandb`: what `--log` wrote.

Rows that differ in `protocol` may not be compared; `part` says which videos were judged. To merge
two results folders, copy the files of one into the other; until a study has next ended there, what
both had is there twice.
"""
_HEADER = ("| column | type | holds |", "| :--- | :--- | :--- |")


def guide() -> str:
    """Returns the text of a results folder's ``README.md``: how to read it, and every column."""
    sections = [_HEAD]
    for view in STORED_VIEWS:
        lines = [f"| `{column.name}` | {column.type} | {column.about} |" for column in VIEWS[view]]
        sections.append("\n".join([f"## {view}", "", *_HEADER, *lines, ""]))
    return "\n".join(sections)
