"""Gives the pictures of a data set or of a folder one after the other, each with its name."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightning_transfer.data.left_out import LeftOut, OnError
from lightning_transfer.data.pictures.locating import Locator
from lightning_transfer.data.pictures.opening import DAMAGE, Source, opened
from lightning_transfer.data.splits import names_of
from lightning_transfer.errors import UserError, in_one_line

_PATHS = re.compile(r"(large_)?string|u?int\d+")  # types of columns that name files


class Pictures(ABC):
    """Pictures in an order, which can be read more than once.

    Attributes:
        names: The path of the file of each, or its row.
        files: The file of each, None where it is none; empty if none is a file of its own.
    """

    names: Sequence[str | int]
    files: Sequence[Path | None]
    way_out = "replace it, or leave such images out by data.on_error skip"  # of a picture that cannot be read

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def sources(self, rows: Sequence[int] | np.ndarray) -> Iterator[Source | Exception]:
        """Gives what to open for each row, or why there is nothing."""

    @abstractmethod
    def place_of(self, row: int) -> str:
        """Words, for an error, which picture a row is."""

    def converted(
        self, rows: Sequence[int] | np.ndarray, convert: Any, on_error: OnError, left_out: list[LeftOut] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Opens pictures and converts them.

        Args:
            rows: The rows of the pictures.
            convert: Function of a :data:`Picture`.
            on_error: Whether a picture that cannot be read is refused, or left out.
            left_out: Takes what is left out.

        Yields:
            The row and what ``convert`` returns.

        Raises:
            UserError: For a picture that cannot be read, if such are refused.
        """
        for row, source in zip(map(int, rows), self.sources(rows), strict=True):
            try:
                if isinstance(source, Exception):
                    raise source
                with opened(source) as picture:
                    found = convert(picture)
            except DAMAGE as error:
                reason = in_one_line(error)
                if on_error == "raise":
                    raise UserError(
                        f"{self.place_of(row)} cannot be decoded as an image: {reason}; {self.way_out}"
                    ) from error
                if left_out is not None:
                    left_out.append(LeftOut(self.names[row], reason))
                continue
            yield row, found


class FilePictures(Pictures):
    """Pictures that are files.

    Args:
        files: The files.
        folder: The folder that their names are relative to.
    """

    def __init__(self, files: list[Path], folder: Path) -> None:
        self.files: list[Path] = files
        self.names = [file.relative_to(folder).as_posix() for file in files]

    def sources(self, rows: Sequence[int] | np.ndarray) -> Iterator[Source]:
        """Gives the files."""
        return (self.files[row] for row in rows)

    def place_of(self, row: int) -> str:
        """Gives the path of the file."""
        return str(self.files[row])


class ColumnPictures(Pictures):
    """The pictures of a column: images, encoded bytes, names of files, or lists of numbers.

    Args:
        dataset: The data set.
        column: The column.
        place: What the data set is, for errors: ``split 'train'``.
        folders: Folders that names of files are relative to.
        trusted: More folders that a path may lead into.

    Raises:
        UserError: For a column that holds something else.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        column: str,
        place: str,
        folders: Sequence[Path] = (),
        trusted: Sequence[Path] = (),
    ) -> None:
        self._column, self._place = column, place
        feature = dataset.features[column]
        self._dtype = _dtype_of_numbers(feature)
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self._dataset = dataset
        self.names = names_of(dataset)
        self._found: list[Path | Exception | None] = []
        self._is_table = isinstance(feature, datasets.Value) and _PATHS.fullmatch(feature.dtype) is not None
        if self._is_table or _has_path(feature):
            self._locate(Locator(folders, trusted), folders)
        elif self._dtype is None and not _has_content(feature):
            raise UserError(f"column {column!r} holds {feature}, not images: name another image_column")
        self.files = [path if isinstance(path, Path) else None for path in self._found]

    def _locate(self, locator: Locator, folders: Sequence[Path]) -> None:
        paths = (
            self._dataset[self._column][:] if self._is_table else _paths_without_content(self._dataset, self._column)
        )
        self._found = [_find(locator, path) for path in paths]
        errors = [found for found in self._found if isinstance(found, Exception)]
        if self._is_table and len(errors) == len(paths):
            raise UserError(
                f"column {self._column!r} of {self._place} names no images, {str(paths[0])!r} for example: {errors[0]},"
                " or name another image_column"
            )
        names = list(self.names)
        for row, (path, file) in enumerate(zip(paths, self._found, strict=True)):
            if self._is_table:
                names[row] = row if path is None else str(path)
            elif names[row] == row and isinstance(file, Path):
                inside = [folder for folder in folders if file.is_relative_to(folder)]
                names[row] = file.relative_to(inside[0]).as_posix() if inside else row
        self.names = names

    def sources(self, rows: Sequence[int] | np.ndarray) -> Iterator[Source | Exception]:
        """Gives the file, the content or the numbers of each row."""
        if self._is_table or (self._found and None not in self._found):
            yield from (self._found[row] for row in rows)
            return
        dataset = self._dataset.select_columns(self._column)
        if self._dtype is not None:
            dataset = dataset.with_format("numpy")
        for row, example in zip(rows, dataset.select(rows), strict=True):
            value = example[self._column]
            if self._dtype is not None:
                yield _numbers(value, self._dtype)
            elif self._found and self._found[row] is not None:
                yield self._found[row]
            else:
                yield value["bytes"] if isinstance(value, dict) else value

    def place_of(self, row: int) -> str:
        """Gives the path of the file, or the row, and the split."""
        name = self.names[row]
        if isinstance(name, str):
            return f"{name} of {self._place}"
        return f"the image in row {name} of {self._place}, column {self._column!r},"


def _dtype_of_numbers(feature: Any) -> str | None:
    """Returns the type of the numbers in lists of lists, with or without channels; None for any other feature."""
    if isinstance(feature, datasets.Array2D | datasets.Array3D):
        return str(feature.dtype)
    depth = 0
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature, depth = feature.feature, depth + 1
    is_number = isinstance(feature, datasets.Value) and re.fullmatch(r"bool|u?int\d+|float\d+", feature.dtype)
    return feature.dtype if is_number and depth in (2, 3) else None


def _numbers(value: Any, dtype: str) -> np.ndarray | Exception | None:
    if value is None:
        return None
    numbers = np.asarray(value)
    if numbers.dtype == object:
        return ValueError("its rows are not equally long")
    missing = np.isnan(numbers)
    if missing.all():  # how a missing array of a fixed size is read
        return None
    if missing.any() and not dtype.startswith("float"):
        return ValueError("a number is missing")
    return numbers.astype(dtype)


def _has_content(feature: Any) -> bool:
    has_bytes = isinstance(feature, dict) and "bytes" in feature
    return has_bytes or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary"))


def _has_path(feature: Any) -> bool:
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {"bytes", "path"} == set(feature))


def _paths_without_content(dataset: datasets.Dataset, column: str) -> list[str | None]:
    """Returns the path of each row whose bytes are missing, without reading the bytes of the others."""
    values = dataset.data.column(column)
    paths, is_missing = (pc.struct_field(values, "path"), pc.is_null(pc.struct_field(values, "bytes")))
    paths = pc.if_else(is_missing, paths, pa.scalar(None, paths.type))
    if dataset._indices is not None:
        paths = paths.take(dataset._indices.column(0))
    found: list[str | None] = paths.to_pylist()
    return found


def _find(locator: Locator, path: str | int | None) -> Path | Exception | None:
    try:
        return None if path is None or path == "" else locator.find(path)
    except (OSError, ValueError) as error:
        return error
