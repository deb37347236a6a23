"""What papers print: the numbers of ``published.csv`` and the names that tables carry."""

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from study.results.schema import schema

__all__ = ["DATASETS", "TABLES", "dataset_title", "published"]

DATASETS = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "kinetics400": "Kinetics-400",
    "something_v1": "Something v1",
    "something_v2": "Something v2",
    "jester": "Jester",
}
TABLES = {
    "stilt-4": "STILT, Table 4: interaction learning and adaptively weighted fusion",
    "stilt-5": "STILT, Table 5: fusion strategies",
    "stilt-6": "STILT, Table 6: comparison with other systems",
    "stilt-fusion": "STILT: both nets under every fusion (an ablation of ours)",
    "conv-fusion-methods": "Convolutional two-stream fusion: methods",
    "conv-fusion-layers": "Convolutional two-stream fusion: layers",
    "conv-fusion-temporal": "Convolutional two-stream fusion: temporal convolution and pooling",
    "conv-fusion-systems": "Convolutional two-stream fusion: one tower and two",
    "conv-fusion-backbones": "Convolutional two-stream fusion: other backbones (ours)",
    "cstm-1": "CSTM: against the plain sum of its branches",
    "cstm-2": "CSTM, Table 2: against GSM with attention",
    "cstm-3": "CSTM, Table 3: comparison with other systems",
    "cstm-ablation": "CSTM: its branches, its attention and a flow stream (ours)",
    "attention-consistency": "Attention-consistency loss",
    "attention-consistency-ablation": "Attention-consistency loss: levels and distances (ours)",
    "stin": "STIN: auxiliary losses and injection",
    "comparators": "Published comparators",
    "tsn-starts": "TSN: the streams' initial weights, UCF101 split 1",
    "all": "All systems under one protocol (ours)",
}


def dataset_title(dataset: str) -> str:
    """The dataset's name as its authors write it."""
    return DATASETS.get(dataset, dataset)


@cache
def published() -> pa.Table:
    """The printed numbers, with null where a paper prints none."""
    columns = schema("published")
    return pyarrow.csv.read_csv(
        Path(__file__).with_name("published.csv"),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=columns, include_columns=columns.names, strings_can_be_null=False
        ),
    )
