"""Opens data sets that ``save_to_disk`` of the library datasets has written."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets

from lightning_transfer.errors import UserError
from lightning_transfer.files import named_in

_STATE = "state.json"
Opened = dict[str, Callable[[], datasets.Dataset]]


def find_saved(folder: Path) -> Opened:
    """Finds the splits of a saved data set, or of the saved data sets in a folder; none where there is none.

    Args:
        folder: A folder that ``save_to_disk`` has written, or one of such folders, each a split by its name.

    Returns:
        Name of a split -> what opens it.
    """
    if (folder / _STATE).is_file():
        return {"train": partial(_open, folder)}
    below = sorted(state.parent for state in folder.glob(f"*/{_STATE}"))
    return {part.name: partial(_open, part) for part in below}


def _open(folder: Path) -> datasets.Dataset:
    try:
        files = [entry["filename"] for entry in json.loads((folder / _STATE).read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / _STATE} is damaged: save the data set again by save_to_disk") from error
    for file in files:  # the library would open whatever is named there
        if named_in(folder, file) != folder / str(file):
            raise UserError(f"{folder / _STATE} names {file!r}, which is not in its folder: save the data set again")
    return datasets.load_from_disk(str(folder))
