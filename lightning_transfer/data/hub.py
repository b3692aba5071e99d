"""Loads a data set by its Hub id, from a mirror of the Hub, or from a folder.

``LIGHTNING_TRANSFER_MIRROR`` names a folder in which Hub ids are looked up first, for example
``$LIGHTNING_TRANSFER_MIRROR/uoft-cs/cifar10``. Nodes without a network get their data this way.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.table import CastError

from lightning_transfer.errors import UserError

MIRROR_VARIABLE = "LIGHTNING_TRANSFER_MIRROR"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def locate(path: str) -> str:
    """Returns what ``datasets.load_dataset`` should open for ``path``: a folder if there is one, else the Hub id.

    Args:
        path: A folder, or a Hub id such as ``uoft-cs/cifar10``.

    Raises:
        UserError: If ``path`` is a file, or is no existing folder and cannot be a Hub id, or the mirror is missing.
    """
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror and not Path(mirror).is_dir():
        raise UserError(f"{MIRROR_VARIABLE}={mirror} is not a folder: correct it, or unset it to use the Hub")
    is_hub_id = _HUB_ID.fullmatch(path) is not None
    if mirror and is_hub_id and (Path(mirror) / path).is_dir():
        return str((Path(mirror) / path).resolve())
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if folder.is_file():
        raise UserError(f"data path {path!r} is a file: give the folder that holds it")
    if not is_hub_id:
        raise UserError(f"data path {path!r} does not exist: give a folder, or a Hub id such as uoft-cs/cifar10")
    return path


def load_split(path: str, split: str, **columns: str | Sequence[str]) -> datasets.Dataset:
    """Loads one split and checks that it has the columns.

    Args:
        path: A Hub id or a folder; see :func:`locate`.
        split: The name of the split, ``train`` for instance.
        columns: Argument that names one or several columns -> the columns, which must exist.

    Raises:
        UserError: For a missing folder, split or column, files that cannot be read, an empty split, and a Hub that
            cannot be reached.
    """
    location = locate(path)
    try:
        dataset = datasets.load_dataset(location, split=split)
    except ConnectionError as error:
        raise UserError(
            f"data set {path!r} is not in a mirror and the Hub cannot be reached: set {MIRROR_VARIABLE} to a folder"
            f" that holds {path}, give a folder as data.path, or use the embedded data (configs/quickstart.yaml)"
        ) from error
    except (ValueError, OSError, DatasetGenerationError) as error:
        raise UserError(f"cannot read split {split!r} of data set {path!r}: {_reason(error)}") from error
    except IndexError as error:  # datasets raises this for a split without rows
        raise UserError(f"split {split!r} of data set {path!r} is empty") from error
    require_columns(dataset, path, **columns)
    if len(dataset) == 0:
        raise UserError(f"split {split!r} of data set {path!r} is empty")
    return dataset


def require_columns(dataset: datasets.Dataset, path: str, **columns: str | Sequence[str]) -> None:
    """Refuses a data set without one of the columns.

    Raises:
        UserError: For the first column that is missing.
    """
    for argument, given in columns.items():
        for column in [given] if isinstance(given, str) else given:
            if column not in dataset.column_names:
                there_are = ", ".join(dataset.column_names)
                raise UserError(
                    f"data set {path!r} has no column {column!r}: its columns are {there_are}; name one by"
                    f" data.{argument}"
                )


def _reason(error: BaseException) -> str:
    if isinstance(error, DatasetGenerationError) and (cause := error.__cause__ or error.__context__):
        return _reason(cause)  # the error's own message is only "An error occurred"
    if isinstance(error, CastError):  # its own message is only "Couldn't cast"
        return f"its files must have the same columns, but {error.details()}"
    return (str(error).splitlines() or [type(error).__name__])[0]
