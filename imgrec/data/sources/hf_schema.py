"""Hugging Face's layout of an image data set: which column holds the image, which the label, what the classes are."""

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


class Layout(NamedTuple):
    """The image column, the columns of labels, and the class names where the data set gives them."""

    image: str
    labels: tuple[str, ...]
    class_names: list[str] | None


def find_layout(
    schema: pa.Schema,
    features: Mapping[str, Any],
    image: str | None = None,
    label: str | list[str] | None = None,
) -> Layout:
    """Which columns are meant: the ones given, else what the features say, else the usual type and name.

    Args:
        schema: the columns and their types.
        features: what Hugging Face's libraries note beside them, as plain data; may be empty.
        image: the column of the images.
        label: the column of the labels, or several: one a class.

    Raises:
        UserError: there is no such column, or none can be told to be the one.
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
    return Layout(image, labels, _names(features.get(labels[0])) if len(labels) == 1 else None)


def labels_of(
    columns: Sequence[Sequence[Any]], layout: Layout, ids: Sequence[str], classes: ClassNames | None
) -> Labels:
    """The labels that the columns of ``layout.labels`` hold, as plain values.

    Args:
        columns: the values of each of these columns.
        layout: what the columns are.
        ids: what to call each row in messages.
        classes: the class names where the user gives them; they win over those of the data set.
    """
    if len(layout.labels) > 1:
        return read_table(dict(zip(layout.labels, columns, strict=True)), ids)
    (values,) = columns
    names = layout.class_names
    if names is None or classes is not None:
        return read_labels(values, ids, classes)
    return read_labels([_named(value, names) for value in values], ids, names)


def kept_columns(schema: pa.Schema, layout: Layout) -> list[str]:
    """The other columns of numbers, words or truth values, in order."""
    return [
        name
        for name in schema.names
        if name not in (layout.image, *layout.labels)
        and (_is_number(t := schema.field(name).type) or _is_text(t) or pa.types.is_boolean(t))
    ]


def plain(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column's values as an array; words as objects, numbers with missing ones as float."""
    if _is_text(column.type):
        return np.asarray(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(column.type) and column.null_count:
        column = pc.cast(column, pa.float64())
    return np.asarray(column.to_numpy())


def _named(value: Any, names: Sequence[str]) -> Any:
    """The class that a number counts; a number that counts none stays, to be refused or, if -1, left out."""
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


def _one_of(found: Sequence[str], usual: Sequence[str], argument: str, what: str, schema: pa.Schema) -> str:
    if len(found) > 1:
        found = [name for name in usual if name in found][:1] or found
    if len(found) != 1:
        said = f"several may: {', '.join(found)}" if found else f"it has: {', '.join(schema.names)}"
        raise UserError(f"no column can be told to be the one that {what} ({said}); name it with `{argument}`.")
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
