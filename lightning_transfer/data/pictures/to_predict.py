"""Opens the pictures that are to be predicted: a picture, a folder or a table."""

from pathlib import Path

import datasets

from lightning_transfer.data import hub
from lightning_transfer.data.pictures.locating import folders_of_names, pictures_below
from lightning_transfer.data.pictures.opening import suffixes
from lightning_transfer.data.pictures.sequences import ColumnPictures, FilePictures, Pictures
from lightning_transfer.data.reading.layout import Layout, find_layout, warn_of_others
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.tables import kind_of_table, read_tables
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError


def pictures_to_predict(
    path: str, column: str, image_folder: str | None = None, reader: ReaderOptions | None = None
) -> Pictures:
    """Opens what ``data.predict_path`` names.

    Args:
        path: A picture, a folder, or a table with the column.
        column: The column of the pictures in a table.
        image_folder: The folder that names of files in a table are relative to; that of the table if not given.
        reader: How a table is written.

    Raises:
        UserError: If there are no pictures.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(
            f"data.predict_path {path!r} does not exist: expected a picture, a folder of pictures or a table"
        )
    if place.is_file() and place.suffix.lower() in suffixes():
        return FilePictures([place], place.parent)
    if place.is_file() and kind_of_table(place) is None:
        raise UserError(
            f"data.predict_path {path!r} is no picture and no table: expected a suffix such as .png or .csv"
        )
    if place.is_file():
        return _in_table(read_tables([place], reader, [column]), place, column, image_folder)
    if files := pictures_below(place):
        read = [file.relative_to(place).as_posix() for file in files]
        warn_of_others(f"data.predict_path {path!r}", files_below(place), read)
        return FilePictures(files, place)
    splits = (find_layout(place, reader, [column]) or Layout({})).splits
    tables = [table for open_split in splits.values() if column in (table := open_split()).column_names]
    if not tables:
        raise UserError(f"folder {path!r} has no images: expected files named {', '.join(sorted(suffixes()))}")
    if len(tables) > 1:
        raise UserError(f"{path} has the splits {', '.join(splits)}: expected one, name the file of one of them")
    return _in_table(tables[0], place, column, image_folder)


def _in_table(dataset: datasets.Dataset, place: Path, column: str, image_folder: str | None) -> Pictures:
    if len(dataset) == 0:
        raise UserError(f"data.predict_path {str(place)!r} has no rows: expected pictures")
    hub.require_columns(dataset, f"data set {str(place)!r}", image_column=column)
    location = place.resolve() if place.is_dir() else place.resolve().parent
    return ColumnPictures(dataset, column, str(place), *folders_of_names(location, "test", image_folder))
