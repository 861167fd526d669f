"""Read the ground truth of a row: a JSON string, as our parquet files hold it, or a mapping."""

import json
from collections.abc import Mapping
from typing import Any

GroundTruth = str | Mapping[str, Any]


def read_fields(ground_truth: GroundTruth, example: str) -> Mapping[str, Any]:
    """Its fields. Raises ValueError that shows `example` when it is neither a mapping nor the JSON of one."""
    try:
        fields = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    except ValueError:
        fields = None
    if not isinstance(fields, Mapping):
        raise ValueError(f"ground truth {ground_truth!r:.200} is not a JSON object such as {example}")
    return fields


def read_int(fields: Mapping[str, Any], name: str, example: str) -> int:
    """An integer field. Raises ValueError when it is missing or not exactly an integer."""
    value: Any = fields.get(name)
    if not is_int(value):
        raise ValueError(f"ground truth has {name}={value!r:.200}, which must be an integer as in {example}")
    return int(value)


def is_int(value: Any) -> bool:
    """Whether it is an int or a numpy integer; parquet readers may give either. True and 3.0 are neither."""
    return hasattr(value, "__index__") and not isinstance(value, bool)
