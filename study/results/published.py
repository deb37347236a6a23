"""What papers print: the numbers of ``published.csv``, and the datasets' names."""

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from study.results.schema import schema

__all__ = ["DATASETS", "dataset_title", "published"]

DATASETS = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "kinetics400": "Kinetics-400",
    "something_v1": "Something v1",
    "something_v2": "Something v2",
    "jester": "Jester",
}


def dataset_title(dataset: str) -> str:
    """Returns the dataset's name as its authors write it."""
    return DATASETS.get(dataset, dataset)


@cache
def published() -> pa.Table:
    """Returns the printed numbers, as the view ``published`` has them."""
    columns = schema("published")
    return pyarrow.csv.read_csv(
        Path(__file__).with_name("published.csv"),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=columns, include_columns=columns.names, strings_can_be_null=False
        ),
    )
