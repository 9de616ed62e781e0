"""Columns of images, labels and class names in the layout of Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imgrec.data.labels import ClassNames, Labels, read_labels, read_table
from imgrec.errors import UserError, suggestion

_LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
_IMAGES = ("image", "img", "picture", "photo", "jpg", "png", "bytes")


class ColumnLayout(NamedTuple):
    """The image column, the label columns, and the class names if the data set has them."""

    image: str
    labels: tuple[str, ...]
    class_names: list[str] | None


def find_layout(
    schema: pa.Schema,
    features: Mapping[str, Any],
    image: str | None = None,
    label: str | list[str] | None = None,
) -> ColumnLayout:
    """Find the columns of images and labels by the arguments, otherwise by the features, otherwise by type and name.

    Args:
        schema: Columns and their types.
        features: Features of the Hugging Face libraries as plain data, which may be empty.
        image: Column of the images. Defaults to the column that is found.
        label: Column of the labels, or list of columns with one per class. Defaults to the column that is found.

    Raises:
        UserError: If there is no such column, or if several columns are possible.
    """
    kinds = {name: _kind(features.get(name)) for name in schema.names}
    for name in [image, *([label] if isinstance(label, str) else label or [])]:
        if name is not None and name not in schema.names:
            raise UserError(
                f'there is no column "{name}".{suggestion(name, schema.names)} It has: {", ".join(schema.names)}.'
            )
    if image is None:
        holding = [name for name in schema.names if kinds[name] == "Image" or _holds_image(schema.field(name).type)]
        image = _one_of(holding, _IMAGES, "image_column", "holds images", schema)
    if label is None:
        labelled = [name for name in schema.names if kinds[name] == "ClassLabel"]
        usual = [name for name in _LABELS if name in schema.names and name != image]
        label = _one_of(labelled or usual[:1], _LABELS, "label_column", "holds labels", schema)
    labels = (label,) if isinstance(label, str) else tuple(label)
    return ColumnLayout(image, labels, _names(features.get(labels[0])) if len(labels) == 1 else None)


def column_labels(
    columns: Sequence[Sequence[Any]], layout: ColumnLayout, ids: Sequence[str], classes: ClassNames | None
) -> Labels:
    """Read the labels from the columns of ``layout.labels``.

    Args:
        columns: Values of each of these columns.
        layout: Columns of the data set.
        ids: Name of each row in messages.
        classes: Class names of the user, which take precedence over those of the data set.
    """
    if len(layout.labels) > 1:
        return read_table(dict(zip(layout.labels, columns, strict=True)), ids)
    (values,) = columns
    names = layout.class_names
    if names is None or classes is not None:
        return read_labels(values, ids, classes)
    return read_labels([_named(value, names) for value in values], ids, names)


def kept_columns(schema: pa.Schema, layout: ColumnLayout) -> list[str]:
    """Return the other columns of numbers, text or booleans, in order."""
    return [
        name
        for name in schema.names
        if name not in (layout.image, *layout.labels)
        and (_is_number(t := schema.field(name).type) or _is_text(t) or pa.types.is_boolean(t))
    ]


def column_values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return the values of a column as an array. Text is of type object, numbers with missing values are floats."""
    if _is_text(column.type):
        return np.asarray(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(column.type) and column.null_count:
        column = pc.cast(column, pa.float64())
    return np.asarray(column.to_numpy())


def _named(value: Any, names: Sequence[str]) -> Any:
    """Return the class of an index. An index without a class is unchanged, and is rejected or, if -1, excluded."""
    if isinstance(value, list):
        return [_named(part, names) for part in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _kind(feature: Any) -> str | None:
    if isinstance(feature, list):
        return _kind(feature[0]) if feature else None
    if not isinstance(feature, Mapping):
        return None
    return _kind(feature["feature"]) if "feature" in feature else feature.get("_type")


def _names(feature: Any) -> list[str] | None:
    if isinstance(feature, list):
        return _names(feature[0]) if feature else None
    if not isinstance(feature, Mapping):
        return None
    if "feature" in feature:
        return _names(feature["feature"])
    return [str(name) for name in feature["names"]] if feature.get("names") else None


def _one_of(found: Sequence[str], usual: Sequence[str], argument: str, content: str, schema: pa.Schema) -> str:
    if len(found) > 1:
        found = [name for name in usual if name in found][:1] or found
    if len(found) != 1:
        names = f"several: {', '.join(found)}" if found else f"none of {', '.join(schema.names)}"
        raise UserError(f"{argument}: expected one column that {content}, got {names}. Set `{argument}`.")
    return found[0]


def _holds_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _is_binary(kind.field(i).type) for i in range(kind.num_fields))
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
