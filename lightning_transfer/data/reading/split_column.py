"""Finds the splits of a table that says in a column to which one each row belongs."""

from collections.abc import Callable
from functools import partial

import datasets
import numpy as np

from lightning_transfer.data.reading.split_words import in_order, is_training, word_of_folder
from lightning_transfer.errors import UserError

_SPLIT_COLUMNS = frozenset({"split", "subset", "partition", "set"})


def splits_by_column(
    read: Callable[[], datasets.Dataset],
) -> tuple[str, dict[str, Callable[[], datasets.Dataset]]] | None:
    """Finds the splits of a table that says in a column to which each row belongs, and how to open each."""
    dataset = read()
    for column in dataset.column_names:
        if column.lower() not in _SPLIT_COLUMNS:
            continue
        values = [str(value or "").strip() for value in dataset.with_format(None)[column][:]]
        words = {value: word_of_folder(value) for value in set(values)}
        known = in_order({word for word in words.values() if word})
        if len(known) > 1 and any(map(is_training, known)):
            if "" in words:
                raise UserError(
                    f"column {column!r} is empty in row {values.index('')}: expected {', '.join(known)} or the like in"
                    " each row, as it names the splits"
                )
            found = np.array([words[value] or value for value in values])
            return column, {
                str(word): partial(dataset.select, np.flatnonzero(found == word)) for word in dict.fromkeys(found)
            }
    return None
