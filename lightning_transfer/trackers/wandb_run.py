"""A run in Weights & Biases."""

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger


class WandbRun(WandbLogger):
    """Opens a run in the run's folder, under the project of the experiment's name.

    Nothing is uploaded without W&B's own configuration: ``WANDB_MODE``, a key, or ``wandb login``. Otherwise the run
    is offline, and so are W&B's reports of errors.

    Args:
        folder: The folder of the run.
        id: The run's id, where it goes on; a new one if None.
    """

    def __init__(self, folder: Path, id: str | None) -> None:
        mode: Literal["offline"] | None = None if "WANDB_MODE" in os.environ or _has_key() else "offline"
        if mode is not None:
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        # The logger would pass on an argument of which today's W&B warns.
        run = wandb.init(
            project=folder.parent.name,
            name=folder.name,
            id=id or secrets.token_hex(6),
            dir=str(folder.absolute()),
            resume="allow",
            mode=mode,
            settings=settings,
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        super().__init__(project=folder.parent.name, save_dir=folder, experiment=run)
        self.command = f"wandb: {run.url}"
        if run.offline:
            self.command = shlex.join(["wandb", "sync", str(folder / "wandb" / Path(run.dir).parent.name)])

    def summarise(self, record: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Enters the figures in the run's summary."""
        self.experiment.summary.update(dict(figures))

    def end(self, succeeded: bool) -> None:
        """Ends the run, so that another can begin in this process."""
        self.experiment.finish(exit_code=0 if succeeded else 1)


def _has_key() -> bool:
    """Says whether W&B has a key, from its variable or from ``wandb login``, which writes it into .netrc."""
    from requests.utils import get_netrc_auth

    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    names = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    return any(os.environ.get(name) for name in names) or get_netrc_auth(address) is not None
