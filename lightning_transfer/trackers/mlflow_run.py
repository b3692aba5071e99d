"""A run in MLflow."""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_transfer.errors import UserError

_ADDRESS = "MLFLOW_TRACKING_URI"


def uses_local_store() -> bool:
    """Says whether runs go to the file beside the experiments, as MLflow is not configured to send them elsewhere."""
    return not os.environ.get(_ADDRESS)


class MLflowRun(MLFlowLogger):
    """Opens a run under the experiment's name, in ``logs/mlflow.db`` or where ``MLFLOW_TRACKING_URI`` says.

    MLflow's reports of usage are off, unless ``MLFLOW_DISABLE_TELEMETRY`` says otherwise.

    Args:
        folder: The folder of the run.
        id: The run's id, where it goes on; a new one if None.

    Raises:
        UserError: If MLflow does not know the run that is to go on.
    """

    def __init__(self, folder: Path, id: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        for name in ("mlflow", "alembic"):  # they say at length that they make a database
            logging.getLogger(name).setLevel(logging.WARNING)
        logs, is_local = folder.parents[1].absolute(), uses_local_store()
        address = os.environ.get(_ADDRESS) or f"sqlite:///{logs / 'mlflow.db'}"
        client = mlflow.MlflowClient(address)
        if id is None:
            artifacts = (logs / "mlflow" / folder.parent.name).as_uri() if is_local else None
            id = _new_run(client, folder, artifacts)
        try:
            client.update_run(id, status="RUNNING")
        except mlflow.exceptions.MlflowException as error:
            raise UserError(
                f"{folder} goes on, and its run {id} is not in {address}: expected the {_ADDRESS} of its start, or no"
                " --track mlflow"
            ) from error
        super().__init__(tracking_uri=address, run_id=id)
        self.command = f"mlflow: run {id} at {address}"
        if is_local:
            _ = self.experiment
            os.environ.pop(_ADDRESS, None)  # MLflow has just set it, and the next run may have another store
            self.command = shlex.join(["mlflow", "ui", "--backend-store-uri", address])

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any) -> None:
        """Logs what is new. MLflow's parameters never change, so a run that goes on keeps those of its start."""
        known = self.experiment.get_run(self.run_id).data.params
        flat = dict(_flat(vars(params) if not isinstance(params, Mapping) else params))
        super().log_hyperparams({name: value for name, value in flat.items() if name not in known})

    def summarise(self, record: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Enters the figures among the metrics, and the record as a file."""
        self.log_metrics(dict(figures), int(record["steps"]))
        self.experiment.log_dict(self.run_id, dict(record), "results.json")

    def end(self, succeeded: bool) -> None:
        """Ends the run."""
        self.experiment.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")


def _new_run(client: Any, folder: Path, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    name = folder.parent.name
    if (experiment := client.get_experiment_by_name(name)) is not None:
        number = experiment.experiment_id
    else:
        try:
            number = client.create_experiment(name, artifacts)
        except MlflowException:  # another process has just made it
            number = client.get_experiment_by_name(name).experiment_id
    return str(client.create_run(number, run_name=folder.name).info.run_id)


def _flat(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value
