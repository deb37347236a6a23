"""The datasets that a study can name."""

from study.data.annotations import Annotations, Split, Video

__all__ = ["Annotations", "Split", "Video"]
