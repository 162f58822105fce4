"""Images in Parquet files and in folders of the package datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from utils.cli.errors import UserError
from utils.data.sources.pictures import PictureSource

KEPT = 4  # row groups of Parquet files that stay in memory


def parquet_pictures(paths: Sequence[Path], where: Path) -> PictureSource:
    """The images of a column of Parquet files, as the package datasets writes them: encoded bytes,
    alone or as `bytes` of a struct. Read one row group after another.

    Raises UserError where pyarrow is missing, or no column or several hold images."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing(where) from error
    files, groups, count = [], [], 0
    try:
        for path in paths:
            files.append(parquet.ParquetFile(path, memory_map=True))
            for group in range(files[-1].num_row_groups):
                groups.append((count, len(files) - 1, group))
                count += files[-1].metadata.row_group(group).num_rows
        name = image_column(files[0].schema_arrow, where)
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise UserError(where, f"no readable Parquet file ({error})", "copy it again") from error
    starts = np.array([start for start, _, _ in groups])
    held, reading = {}, Lock()

    def load(i: int) -> bytes:
        number = int(np.searchsorted(starts, i, side="right")) - 1
        start, file, group = groups[number]
        with reading:
            column = held.get(number)
            if column is None:
                column = files[file].read_row_group(group, columns=[name]).column(0)
                if len(held) >= KEPT:
                    held.pop(next(iter(held)))
                held[number] = column
        return encoded(column[i - start].as_py(), f"{where}: row {i}")

    return PictureSource(where, [str(i) for i in range(count)], load)


def image_column(schema: Any, where: Path) -> str:
    """The name of the only column that may hold images: of bytes, or of structs with bytes."""
    import pyarrow.types as types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    names = [field.name for field in schema if holds_bytes(field.type)]
    preferred = [name for name in names if name in ("image", "img")]
    names = preferred or names
    if len(names) != 1:
        found = f"{len(names)} columns of images among {', '.join(schema.names) or 'no columns'}"
        raise UserError(where, found, "give a table with one column of encoded images, `image`")
    return names[0]


def encoded(value: Any, where: object) -> bytes:
    """The bytes of one cell. Raises UserError where it has none."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(where, "no encoded image", "store the images in the table, not their paths")
    return content


def datasets_folder(folder: Path) -> PictureSource:
    """The images of a folder that datasets' save_to_disk wrote.

    Raises UserError where the package is missing, or no column or several hold images."""
    # before the import, which reads them: nothing is looked for in the net
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import datasets
    except ImportError as error:
        raise missing(folder) from error
    try:
        table = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder may raise anything
        remedy = "write it again by save_to_disk"
        raise UserError(folder, f"no readable data set ({error})", remedy) from error
    if isinstance(table, datasets.DatasetDict):
        remedy = f"give one of its folders: {', '.join(table)}"
        raise UserError(folder, f"{len(table)} splits", remedy)
    names = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if len(names) != 1:
        found = f"{len(names)} columns of images among {', '.join(table.column_names)}"
        raise UserError(folder, found, "give a data set with one column of type Image")
    cells = table.cast_column(names[0], datasets.Image(decode=False))

    def load(i: int) -> bytes:
        return encoded(cells[i][names[0]], f"{folder}: row {i}")

    return PictureSource(folder, [str(i) for i in range(len(table))], load)


def missing(where: object) -> UserError:
    return UserError(where, "a table, which needs a package", "pip install datasets")
