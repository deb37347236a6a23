"""What papers print: the numbers of ``published.csv``."""

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from study.results.schema import schema

__all__ = ["published"]


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
