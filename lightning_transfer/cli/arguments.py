"""Defines the arguments of an experiment's command line, and how they are read."""

import itertools
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger

from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.suggestions import classes_for, nearest_option
from lightning_transfer.dashboards.settings import Dashboards
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.files import replacing
from lightning_transfer.modules.targets import TARGETS
from lightning_transfer.run.best_checkpoint import BestCheckpoint
from lightning_transfer.run.verbosity import add_verbosity_options
from lightning_transfer.trackers.tracking import TrackerName

_CHOICES = ("phases", "until", "plateau")  # a later one replaces an earlier one as a whole

# Some of Lightning's arguments have an enumeration's member by default, for example the interval of its Timer.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


class ExperimentParser(Parser, LightningArgumentParser):
    """Parses the arguments of the commands that LightningCLI runs, which take classes.

    jsonargparse also makes such a parser for each class, which parses the arguments of that class.
    """

    def parse_object(self, obj: Any, namespace: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parses a mapping, for example from a file, over what was given before."""
        names = obj if isinstance(obj, dict) else vars(obj)
        return super().parse_object(obj, _without_choices(namespace, names), *more, **kwargs)

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parses the arguments. It takes ``lr-find`` as ``lr_find``, and refuses a class's help without the class."""
        if kwargs.get("namespace") is not None:  # jsonargparse parses one option of a class over earlier values
            option, _, value = args[0].removeprefix("--").partition("=")
            args = [f"--{option}={'null' if value == 'None' else value}"]  # jsonargparse wrote null as Python does
            kwargs["namespace"] = _without_choices(kwargs["namespace"], [option])
        first, *others = (sys.argv[1:] if args is None else args) or [None]
        for word, following in itertools.zip_longest(others, others[1:], fillvalue="--"):
            option = word.removeprefix("--").removesuffix(".help")
            if word == f"--{option}.help" and following.startswith("-") and (classes := classes_for(option)):
                self.error(f"{word} takes the name of a class: {', '.join(classes)}, or one of your own")
        spelled = [first.replace("-", "_"), *others] if first == "lr-find" else args
        return super().parse_args(spelled, *more, **kwargs)

    def dump(self, namespace: Any, **kwargs: Any) -> str:
        """Writes a config, with the linked numbers that do not follow from the data."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")
            text: str = super().dump(namespace, **{**kwargs, "skip_link_targets": False})
        # Devices, and strings in place of functions, are written as the text that the parser takes.
        return re.sub(r"Unable to serialize instance ([\w.:-]+)$", r"\1", text, flags=re.MULTILINE)

    def save(self, cfg: Any, path: Any, **kwargs: Any) -> None:
        """Writes a config as a whole or not at all."""
        with replacing(Path(path)) as partial:
            super().save(cfg, partial, **kwargs)

    def hint(self, option: str) -> str:
        """Suggests the option that was meant, or says which class has it."""
        return nearest_option(option, self.option_names())


def _without_choices(given: Any, anew: Iterable[str]) -> Any:
    """Removes each choice from the earlier values that a later value replaces as a whole."""
    for option in anew if given else ():
        *_, name = path = option.split(".")
        if name in _CHOICES and (key := ".init_args.".join(path)) in given:
            given = given.clone()
            given[key] = None
    return given


def add_experiment_arguments(parser: LightningArgumentParser) -> None:
    """Adds the arguments for a run's folder, its starting weights, its checkpoints and its dashboards.

    Args:
        parser: The parser of one command.
    """
    parser.add_argument("--experiment", type=str, default="default", help="Name of the folder under logs.")
    parser.add_argument(
        "--version", type=str | None, help="Name of the run's folder; version_0, version_1, ... if not given."
    )
    parser.add_argument("--logs", type=str, default="logs", help="Folder of all experiments.")
    parser.add_argument(
        "--resume",
        type=str | None,
        help="Run that fit goes on with, by its folder or by its name below logs: with its config, in its folder, from"
        " its newest whole checkpoint. Other arguments change its config.",
    )
    parser.add_argument(
        "--track",
        type=TrackerName | list[TrackerName] | None,
        help="Trackers of fit beside TensorBoard: wandb, mlflow, csv (the metrics as a table), or a list of them.",
    )
    parser.add_argument(
        "--loggers", type=list[Logger], default=[], help="Loggers of your own beside TensorBoard: --loggers+ MyLogger."
    )
    parser.add_argument(
        "--test_after_fit", type=bool, default=False, help="Whether fit ends by testing the best checkpoint."
    )
    parser.add_argument(
        "--init_from",
        type=str | None,
        help="Starting weights of fit: a checkpoint or state dict (.ckpt, .pt, .safetensors), torchvision weights"
        " by name (ResNet18_Weights.IMAGENET1K_V1), weights of timm (timm/resnet18), a model by its Hub id or folder"
        " (owner/name, which has model.safetensors), or a file on the Hub (hf://owner/repository/file). For a file with"
        " several networks, add the name of one: last.pt::teacher.",
    )
    parser.add_argument(
        "--init_allow",
        type=list[str],
        default=[],
        help="Glob patterns of tensors that may differ from the starting weights; those of the head always may.",
    )
    parser.add_argument(
        "--init_rename",
        type=list[tuple[str, str]],
        default=[],
        help="Regular expressions, each with its replacement in the names of the starting weights' tensors, in turn.",
    )
    parser.add_argument(
        "--output",
        type=str,
        default="predictions.jsonl",
        help="File that predict writes: JSON Lines, or a table if its name ends in .csv or .tsv.",
    )
    parser.add_argument("--dashboards", type=Dashboards | None, default=Dashboards(), help="What is shown.")
    add_verbosity_options(parser)
    parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
    parser.set_defaults({"model": {"class_path": "lightning_transfer.Classifier"}})


def choose_monitor(config: Namespace) -> None:
    """Chooses what decides the best checkpoint where there is no accuracy, and no other metric is named.

    It is the problem type's score. Where labels are not learned, nothing decides, and the last weights are the result.

    Args:
        config: The config of one command.
    """
    if config["checkpoint.monitor"] != "val/accuracy":
        return
    module: Any = pkgutil.resolve_name(config["model.class_path"])
    if not getattr(module, "has_best", True):
        config["checkpoint.monitor"] = None
        return
    from lightning_transfer.data.language_modelling import LanguageModelDataModule  # late: --help needs none

    tasks = (config.get("data.init_args.tasks") or {}).values()
    # A task that predicts tokens has no label to choose by.
    labelled = [
        part for part in tasks if not issubclass(pkgutil.resolve_name(part.class_path), LanguageModelDataModule)
    ]
    given = [part.get("init_args.problem_type") for part in labelled] or [config.get("data.init_args.problem_type")]
    kinds: set[ProblemType] = {kind or "classification" for kind in given}
    if len(kinds) > 1:  # which have the mean loss alone in common
        config["checkpoint.monitor"], config["checkpoint.mode"] = "val/loss", "min"
    elif kinds != {"classification"}:
        score, config["checkpoint.mode"] = TARGETS[kinds.pop()].chosen_by
        config["checkpoint.monitor"] = f"val/{score}"
