"""Runs ``fit``, ``validate``, ``test``, ``predict``, ``plan``, ``lr-find`` or ``prepare``, on LightningCLI.

An experiment takes this path. Files in configs/ and flags name a DataModule, a LightningModule and a Trainer, which
``experiment_builder`` builds. The DataModule makes batches (named tuples). The LightningModule gives their ``inputs``
to its network, and logs with ``self.log``. Lightning runs the loop and writes to ``logs/<experiment>/<version>/``. At
the end ``results.json`` and a short table hold the results.
"""

from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_transfer.cli.experiment_builder import ExperimentBuilder
from lightning_transfer.cli.range_curves import write_curves
from lightning_transfer.cli.repetition import says_how_to_go_on
from lightning_transfer.cli.trainer import check_callbacks
from lightning_transfer.dashboards.run_card import hyperparameters_of
from lightning_transfer.errors import UserError
from lightning_transfer.files import in_mirror, write_json
from lightning_transfer.lightning_internals import shorten_steps
from lightning_transfer.run.best_checkpoint import best_checkpoint
from lightning_transfer.run.last_checkpoint import LastCheckpoint
from lightning_transfer.run.predictions import KnownRows, class_names_of, write_predictions
from lightning_transfer.run.reading import read_checkpoint
from lightning_transfer.run.record import print_metrics, print_record
from lightning_transfer.run.verbosity import print_result
from lightning_transfer.trackers.tracking import summarise, tracked
from lightning_transfer.transfer.distillation import give_old_head
from lightning_transfer.transfer.sources import split_part
from lightning_transfer.transfer.weights import WeightsReport, load_starting_weights


class CommandLine(ExperimentBuilder):
    """Runs a command on the experiment that its arguments describe, in LightningCLI's order: before, it, and after."""

    def before_fit(self) -> None:
        """Loads the starting weights, unless the run goes on from a checkpoint, and checks that a test can follow."""
        check_callbacks(self.trainer, self.model)
        if self.trainer.precision == "64-true":
            self.model.double()  # Lightning does so only after it has loaded a checkpoint and thereby rounded it
        if self.checkpoint is None:
            give_old_head(self.trainer, self._load_starting_weights())
        if self._get(self.config, "test_after_fit"):
            if not is_overridden("test_step", self.model):
                raise UserError(f"test_after_fit is on, and {type(self.model).__name__} has no test: leave it off")
            if self.datamodule is not None:
                if not is_overridden("test_dataloader", self.datamodule):
                    name = type(self.datamodule).__name__
                    raise UserError(f"test_after_fit is on, and {name} has no test data: leave it off")
                self.datamodule.test_follows = True

    def _load_starting_weights(self) -> WeightsReport | None:
        source = self._get(self.config, "init_from")
        if source is None:
            return None
        data = self.datamodule
        classes = "task_class_names" if hasattr(data, "task_class_names") else "class_names"  # of several tasks, or one
        of_data = {"vocabulary": getattr(data, "vocabulary", None), "class_names": getattr(data, classes, None)}
        allow, rename = self._get(self.config, "init_allow"), self._get(self.config, "init_rename")
        report = load_starting_weights(self.model, source, allow, **of_data, rename=rename)
        if self.trainer.is_global_zero:
            print(report)
        return report

    def lr_find(self, **kwargs: Any) -> None:
        """Writes the plot of the range test, and prints the suggested learning rates."""
        self.before_fit()
        curves = self.trainer.lr_find(**kwargs)
        folder = Path(self._get(self.config, "logs"), self._get(self.config, "experiment"), "lr_find")
        print_result(write_curves(curves, folder, vars(self._get(self.config, "model").init_args)))

    before_prepare = before_fit  # it may download weights

    def before_plan(self) -> None:
        """Loads starting weights that are on this machine, so that a wrong file is known before a training."""
        source = self._get(self.config, "init_from")
        is_here = source is not None and (Path(split_part(source)[0]).exists() or in_mirror(source) is not None)
        if self.checkpoint is None and is_here:
            self._load_starting_weights()

    def fit(self, **kwargs: Any) -> None:
        """Trains, from a checkpoint where there is one to go on from."""
        shorten_steps(self.trainer, self.model, self.datamodule)
        if not any(isinstance(callback, LastCheckpoint) for callback in self.trainer.checkpoint_callbacks):
            self._signals.no_training_follows()  # none that could be saved
        with says_how_to_go_on(self.trainer, self._given):
            self._track()
            self.trainer.fit(**{**kwargs, "ckpt_path": self.checkpoint})

    def _track(self) -> None:
        """Opens the trackers of a run, which has a folder, until its end."""
        names, folder = self._trackers_to_open(), self.trainer.run_folder
        if not names or folder is None:
            return
        config = yaml.safe_load(self._configuration())
        config["run"] = hyperparameters_of(config)
        step = None if self.checkpoint is None else read_checkpoint(self.checkpoint)["global_step"]
        trackers = tracked(names, Path(folder), config, step, self.trainer.is_global_zero)
        self._trackers = self._held.enter_context(trackers)
        self.trainer.loggers = [*self.trainer.loggers, *self._trackers]

    def after_fit(self) -> None:
        """Tests the best checkpoint if asked to, writes the record and prints the table."""
        if self._get(self.config, "trainer")["fast_dev_run"] or not self.trainer.state.finished:
            return
        test = None
        if self._get(self.config, "test_after_fit"):
            # The path is given, because for "best" Lightning prefers a checkpoint that a preempted job has left over.
            best = best_checkpoint(self.trainer)
            checkpoint = best.best_model_path if best else None
            tests = self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, verbose=False)
            test = {name: value for of_a_loader in tests for name, value in of_a_loader.items()}
        log_dir = self.trainer.log_dir  # it is broadcast, so all ranks have to ask
        if self.trainer.is_global_zero and log_dir:
            folder = Path(log_dir)
            settings = {"experiment": "experiment", "init_from": "init_from", "seed": "seed_everything"}
            record = {name: self._get(self.config, key) for name, key in settings.items()}
            record |= {"command": self._command, **self.recorder.record(self.trainer, test)}
            write_json(folder / "results.json", record)
            print_record(record, folder)
            summarise(self._trackers, record)

    def after_test(self) -> None:
        """Prints the metrics, where Lightning's table of them is not wanted."""
        print_metrics(self.trainer, str(self.subcommand))

    after_validate = after_test

    def _test_loader(self) -> Any:
        """The test split is what a data module predicts that says nothing of it."""
        self.datamodule.setup("test")
        return self.datamodule.test_dataloader()

    def predict(self, **kwargs: Any) -> None:
        """Writes a line of JSON for each example: its name, the class and the probabilities of all classes."""
        if self.trainer.world_size > 1:
            raise UserError(f"predict runs in one process, not {self.trainer.world_size}: set --trainer.devices 1")
        self.trainer.callbacks.append(KnownRows())  # type: ignore[attr-defined]
        if not is_overridden("predict_dataloader", self.datamodule):
            self.datamodule.predict_dataloader = self._test_loader
        batches: list[torch.Tensor] = self.trainer.predict(**kwargs)  # type: ignore[assignment]
        output = Path(self._get(self.config, "output"))
        loader: Any = self.trainer.predict_dataloaders
        count = write_predictions(output, batches, loader, *class_names_of(self.datamodule, self.model))
        print_result(f"{count} predictions in {output}", {"event": "predictions", "count": count, "file": str(output)})
