"""Decides which files of a run the paths in a checkpoint stand for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_transfer.files import named_in


class FilesOfTheRun(L.Callback):
    """Lets the paths in a checkpoint stand for the run's own files only.

    Every ``ModelCheckpoint`` saves the paths of its checkpoints, and after a resume deletes and loads the files that
    they name. Here only the file names count. They are looked up in the callback's folder, if the checkpoint was
    written for that folder. Otherwise they are looked up beside the checkpoint that the user named. Those files are
    read, and never deleted. A path that is not found there is forgotten, together with its score.
    """

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Replaces the paths before any callback takes its state."""
        states = checkpoint["callbacks"]
        for callback in trainer.checkpoint_callbacks:
            state = states.get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and isinstance(state, Mapping):
                found = _with_known_paths(callback, state, trainer.ckpt_path)
                # The folder may be only on the first rank's machine.
                states[callback.state_key] = trainer.strategy.broadcast(found)


def _with_known_paths(callback: ModelCheckpoint, state: Mapping[str, Any], checkpoint: Any) -> dict[str, Any]:
    own, said_folder = str(callback.dirpath), str(state.get("dirpath") or "")
    beside = Path(checkpoint).parent if checkpoint is not None else Path(own)
    is_own = said_folder == own or beside.resolve() == Path(own).resolve()

    def find(said: object) -> str:
        if is_own and not _is_local_file_protocol(own):  # the user has given an address as the folder
            name = str(said).removeprefix(f"{own}/")
            return f"{own}/{name}" if "/" not in name else ""
        file = named_in(Path(own) if is_own else beside, said, said_folder)
        return str(file) if file is not None and file.suffix == callback.FILE_EXTENSION else ""

    said_models = state.get("best_k_models")
    models = dict(said_models) if isinstance(said_models, Mapping) else {}
    models = {path: score for said, score in models.items() if (path := find(said))}
    known: dict[str, Any] = {"dirpath": own if is_own else str(beside), "best_k_models": models}
    known |= {name: find(state.get(name)) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    if callback.monitor is not None:
        lowest, highest = (choose(models, key=models.__getitem__, default="") for choose in (min, max))
        best, worst = (lowest, highest) if callback.mode == "min" else (highest, lowest)
        if not known["best_model_path"]:
            known |= {"best_model_path": best, "best_model_score": models.get(best)}
        if known["kth_best_model_path"] not in models:
            known |= {"kth_best_model_path": worst, "kth_value": models.get(worst, callback.kth_value)}
    return {**state, **known}
