"""Builds the experiment that a command line describes: it checks it, and makes its data, module and trainer."""

import contextlib
import sys
import warnings
from argparse import SUPPRESS
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from lightning_transfer.cli.arguments import ExperimentParser, add_experiment_arguments, choose_monitor
from lightning_transfer.cli.building import within_memory
from lightning_transfer.cli.experiment_checks import check_settings, require_libraries
from lightning_transfer.cli.linked_numbers import TARGETS, config_key, linked_number
from lightning_transfer.cli.repetition import nulls, own_options, repetition
from lightning_transfer.cli.resuming import resumed
from lightning_transfer.cli.suggestions import exported_classes
from lightning_transfer.cli.trainer import ONE_CPU, Trainer, check_trainer
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.dashboards.events import SessionStart
from lightning_transfer.data.normalisation import is_name_of_weights
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_folder
from lightning_transfer.lightning_internals import SilentProfiler
from lightning_transfer.run.event_files import OrderedEventFiles
from lightning_transfer.run.folder import folder_of_run, start_of_fit
from lightning_transfer.run.known_order import KnownOrder
from lightning_transfer.run.last_checkpoint import LastCheckpoint, make_preemptible
from lightning_transfer.run.predictions import check_predictions_file
from lightning_transfer.run.progress import progress_bar
from lightning_transfer.run.reading import read_checkpoint, why_not_last
from lightning_transfer.run.record import ResultsRecorder
from lightning_transfer.run.resumption import Resumption
from lightning_transfer.run.saved_paths import FilesOfTheRun
from lightning_transfer.run.training_steps import TrainingSteps
from lightning_transfer.run.verbosity import verbosity
from lightning_transfer.trackers.tracking import TrackerName, chosen, require_trackers

# The classes are imported so that the command line knows them by their short names: --data CIFAR10.
EXPERIMENT_CLASSES = exported_classes()

# These commands prepare an experiment before it is run, without a checkpoint or a record.
LOOKING_AHEAD = ("plan", "lr_find", "prepare")


class ExperimentBuilder(LightningCLI):
    """Adds this project's defaults to LightningCLI: an experiment's folder, its checkpoints and its record.

    Args:
        args: The arguments as a list of strings; those of the process if None.
        signals: Notes the signals that ask the run to stop.
    """

    trainer: Trainer
    experiment_parser: type[ExperimentParser] = ExperimentParser

    def __init__(self, args: ArgsType, signals: StopSignals) -> None:
        self._signals = signals
        given = sys.argv[1:] if args is None else args
        self._given = resumed(given) if isinstance(given, list) else None
        self._trackers: list[Logger] = []
        with contextlib.ExitStack() as self._held:  # the folder of the run, until it ends
            self._parse_and_run(args)

    def _parse_and_run(self, args: ArgsType) -> None:
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,  # it would take all parameters as one group
            load_from_checkpoint_support=False,  # it would store class paths in checkpoints, and trips over links
            parser_class=self.experiment_parser,
            parser_kwargs={"prog": "lightning-transfer", "allow_abbrev": False},
            seed_everything_default=0,
            trainer_defaults={"num_sanity_val_steps": 0, "use_distributed_sampler": False},
            save_config_kwargs={"overwrite": True, "multifile": False},  # by the parser's dump
            args=args,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the arguments, with those of a run that ``--resume`` names."""
        if self._given is None:
            super().parse_arguments(parser, args)
        else:
            self.config = parser.parse_args(self._given)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the commands, and the arguments of their methods that the command line supplies."""
        commands = {**LightningCLI.subcommands(), **{name: {"model", "datamodule"} for name in LOOKING_AHEAD}}
        return {name: supplied | {"verbose"} for name, supplied in commands.items()}  # an option of every command

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments of an experiment beyond its model, data and trainer."""
        add_experiment_arguments(parser)
        for target in TARGETS:
            number = partial(self._linked_number, target)
            parser.link_arguments("data", config_key(target), number, "instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Lets ``plan`` and the like ignore arguments that only other commands take, as a run's config has them.

        The parsers of commands that are not asked for stay empty: each takes a tenth of a second to fill.
        """
        named = self._given[0].replace("-", "_") if self._given else None
        if named in self.subcommands() and subcommand != named:
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        for name in {"ckpt_path", "weights_only"} - {action.dest for action in parser._actions}:
            parser.add_argument(f"--{name}", help=SUPPRESS)
        return parser

    def _set_seed(self) -> None:
        """Seeds all generators."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"--seed_everything: {error}") from error

    def _parse_ckpt_path(self) -> None:
        """Leaves the config as given: Lightning would let the checkpoint's hyperparameters override it."""

    def _linked_number(self, target: str, data: L.LightningDataModule) -> Any:
        # Data that is evaluated with a checkpoint gets the checkpoint's state, with classes and vocabulary, without the
        # data set. Lightning restores the state too, but only after the model, which depends on both, has been built.
        if (state := self._saved.pop(type(data).__qualname__, None)) is not None:
            data.load_state_dict(state)
        return linked_number(self.config[str(self.subcommand)], target, data)

    def before_instantiate_classes(self) -> None:
        """Checks, before anything is built, what would otherwise fail late."""
        if self.subcommand != "fit":
            self._signals.no_training_follows()
        config = self.config[str(self.subcommand)]
        check_settings(config)
        choose_monitor(config)
        require_libraries(config, with_module=self.subcommand == "fit")
        require_trackers(self._trackers_to_open())
        checkpoint = self._get(self.config, "ckpt_path")
        if self.subcommand in LOOKING_AHEAD:
            checkpoint = self.save_config_callback = None
        elif self.subcommand == "fit":
            experiment = Path(self._get(self.config, "logs"), self._get(self.config, "experiment"))
            check_folder(experiment, "--logs")
            name = self._get(self.config, "version")
            self._own_options = own_options(experiment, name, checkpoint)
            self._command = repetition(self._given, self._own_options)
            checkpoint = start_of_fit(checkpoint, experiment, name)
        else:
            self.save_config_callback = None
            if checkpoint is None:
                raise UserError(
                    f"{self.subcommand} needs trained weights: give --ckpt_path, for example"
                    " logs/quickstart/version_0/checkpoints/best.ckpt"
                )
            # Lightning warns that the callbacks of the training are missing. They have nothing to do here.
            warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")
        saved = read_checkpoint(checkpoint, self.subcommand == "fit") if checkpoint is not None else {}
        self._saved = saved if self.subcommand != "fit" else {}
        self._build_network_as_saved()
        self.checkpoint = checkpoint
        self._check_output()
        self._normalise_as_starting_weights()
        if self.subcommand == "prepare":
            vars(self.config["prepare"]["trainer"]).update(ONE_CPU)  # a login node may have no GPU

    def _check_output(self) -> None:
        if self.subcommand == "predict":
            check_predictions_file(Path(self._get(self.config, "output")))

    def _build_network_as_saved(self) -> None:
        """Has a network that is evaluated built from the checkpoint alone, where that holds its config."""
        arguments = self.config[str(self.subcommand)].get("model.init_args.network.init_args")
        if (saved := self._saved.get("network_config")) is not None and arguments is not None:
            vars(arguments).update(name=None, model_arguments=saved)

    def _normalise_as_starting_weights(self) -> None:
        """Has images prepared as for weights of torchvision or timm, if a run starts from these.

        Where a checkpoint has the numbers, these count: the weights that they were those of may be gone.
        """
        source, data = self._get(self.config, "init_from"), self._get(self.config, "data")
        tasks = getattr(data.init_args, "tasks", None) if data is not None and "init_args" in data else None
        saved_data = {} if data is None else self._saved.get(data.class_path.rpartition(".")[2], {})
        for name, part in tasks.items() if isinstance(tasks, Mapping) else [(None, data)]:
            arguments = vars(part.init_args) if part is not None and "init_args" in part else {}
            saved = saved_data if name is None else saved_data.get("tasks", {}).get(name, {})
            if arguments.get("normalise_as") is not None and {"mean", "std"} <= saved.keys():
                arguments.update(normalise_as=None, mean=saved["mean"], std=saved["std"])
                if arguments.get("image_size", 0) is None:  # a class of the user's may not take it
                    arguments["image_size"] = saved.get("image_size")
            if source is not None and arguments.get("normalise_as", source) is None and is_name_of_weights(source):
                arguments["normalise_as"] = source

    def instantiate_classes(self) -> None:
        """Builds the data, the module and the trainer."""
        with within_memory(self.config[str(self.subcommand)].as_dict()):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer, with the logger, the record and the progress bar where the config names none."""
        config = self._get(self.config_init, "trainer")
        has_default_logger = self.subcommand == "fit" and config["logger"] in (None, True)
        if config["logger"] in (None, True):
            kwargs["logger"] = has_default_logger and bool(config["fast_dev_run"])  # else with the run's folder
        self.recorder = ResultsRecorder()
        given = config["callbacks"] or []
        # SessionStart comes first, because its mark has to come before any other event.
        given = given if isinstance(given, list) else [given]
        callbacks = [
            SessionStart(),
            Resumption(),
            FilesOfTheRun(),
            KnownOrder(),
            *given,
            TrainingSteps(),
            self.recorder,
        ]
        dashboards = self._get(self.config_init, "dashboards")
        if self.subcommand == "fit" and dashboards is not None:
            text = self._configuration()
            callbacks += dashboards.callbacks(yaml.safe_load(text), text, self._command, nulls(self._own_options))
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(progress_bar())
        if config["enable_model_summary"] is None:
            kwargs["enable_model_summary"] = verbosity() == "verbose"
        if config["profiler"] is None:
            kwargs["profiler"] = SilentProfiler()
        trainer = make_preemptible(check_trainer(super().instantiate_trainer(callbacks=callbacks, **kwargs)))
        assert isinstance(trainer, Trainer)
        if self.subcommand == "fit" and not config["fast_dev_run"]:
            self._enter_folder(trainer, has_default_logger)
        return trainer

    def _enter_folder(self, trainer: Trainer, has_default_logger: bool) -> None:
        """Takes the folder of the run, and adds loggers. The start is decided again, as no other process can now."""
        logs, experiment, version = (self._get(self.config, name) for name in ("logs", "experiment", "version"))
        runs = Path(logs, experiment)
        folder = self._held.enter_context(folder_of_run(trainer, runs, version))
        asked = self._get(self.config, "ckpt_path")
        self.checkpoint = start_of_fit(asked, runs, version)
        other = self.checkpoint if trainer.is_global_zero and self.checkpoint != asked else None
        if other is not None and (reason := why_not_last(Path(other))) is not None:
            print(reason, file=sys.stderr)
        trainer.run_folder = str(folder)
        loggers = [*trainer.loggers, *self._get(self.config_init, "loggers")]
        if has_default_logger:
            # Events are written every ten seconds, so a killed run loses no more than those of ten seconds.
            name = str(folder.relative_to(runs))
            loggers.insert(0, OrderedEventFiles(logs, experiment, name, default_hp_metric=False, flush_secs=10))
        trainer.loggers = loggers

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        """Keeps the best and the last checkpoint, unless the config says to keep none."""
        keeps = config["enable_checkpointing"] is not False
        others = [other for callback in callbacks for other in getattr(callback, "beside", [])]
        # The callback of the last checkpoint comes after that of the best one, whose state it saves.
        kept = [*callbacks, *others, LastCheckpoint(self._signals)] if keeps else []
        try:
            return super()._instantiate_trainer(config, kept)
        except (RuntimeError, TypeError, ValueError) as error:  # Lightning's, and torch's for a missing device
            raise UserError(f"trainer: {error}") from error

    def _configuration(self) -> str:
        text: str = self._parser(self.subcommand).dump(self.config[str(self.subcommand)], skip_none=False)
        return text

    def _trackers_to_open(self) -> list[TrackerName]:
        return chosen(self._get(self.config, "track")) if self.subcommand == "fit" else []
