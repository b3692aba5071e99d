"""Runs combinations of precision, strategy and data that a CPU can; :mod:`test_hardware` starts it."""

import itertools
import json
import os
import sys
from pathlib import Path

from lightning_transfer.cli.entry import main

# A file of configs/hardware, and the processes that it is tried with.
HARDWARE = {"cpu": 1, "ddp_cpu": 2, "fsdp": 2}
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
EXPERIMENTS = ("quickstart", "quickstart_text")
# Two processes take each precision with one of the experiments, in turns: all pairs are then there.
COMBINATIONS = [
    (hardware, precision, experiment)
    for (place, hardware), precision, experiment in itertools.product(enumerate(HARDWARE), PRECISIONS, EXPERIMENTS)
    if (hardware, precision) != ("fsdp", "64-true")  # Lightning has none
    and (HARDWARE[hardware] == 1 or EXPERIMENTS[(place + PRECISIONS.index(precision)) % 2] == experiment)
]
UNFREEZING = {"class_path": "ProgressiveUnfreezing", "init_args": {"schedule": "gradual", "until": {"steps": 1}}}


def name_of(*combination: str) -> str:
    """The name of a combination of hardware, precision and experiment."""
    return " ".join(combination)


def try_out(hardware: str, precision: str, experiment: str) -> str:
    """Trains, with a transition of unfreezing, and validates; returns what went wrong, if anything."""
    configs = ["--config", f"configs/{experiment}.yaml", "--config", f"configs/hardware/{hardware}.yaml"]
    on_cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", str(HARDWARE[hardware])]
    small = ["--trainer.fast_dev_run", "2", "--data.batch_size", "8", "--data.eval_batch_size", "16"]
    more = ["--trainer.precision", precision, "--trainer.callbacks", json.dumps([UNFREEZING])]
    try:
        main(["fit", *configs, *on_cpu, *small, *more])
    except BaseException as error:
        return repr(error)
    return ""


if __name__ == "__main__":
    several = [combination for combination in COMBINATIONS if HARDWARE[combination[0]] > 1]
    outcomes = {name_of(*combination): try_out(*combination) for combination in several}
    if os.environ["LOCAL_RANK"] == "0":
        Path(sys.argv[1], "outcomes.json").write_text(json.dumps(outcomes))
