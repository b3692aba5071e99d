"""The commands that are killed, and how they are called."""

from typing import NamedTuple

CPU = ["--config", "configs/hardware/cpu.yaml"]
RUN = [*CPU, "--trainer.enable_progress_bar", "false", "--experiment", "killed", "--version", "run"]
IMAGES = ["fit", "--config", "configs/quickstart.yaml", *RUN, "--data.examples_per_class", "150"]
IMAGES += ["--trainer.max_epochs", "4"]
TEXTS = ["fit", "--config", "configs/quickstart_lm.yaml", *RUN, "--trainer.limit_train_batches", "30"]
LAST, RESUME = ["--ckpt_path", "last"], ["fit", "--resume", "killed/run"]
SMALL = ["fit", *CPU, "--config", "configs/quickstart.yaml", "--config", "short.yaml", "--logs", "finished"]
SHORT = {
    "trainer": {"max_epochs": 3, "enable_progress_bar": False},
    "data": {"init_args": {"examples_per_class": 30}},
    "dashboards": None,
}
SOURCE, TARGET = (["configs/quickstart.yaml", "short.yaml"], ["configs/quickstart_transfer.yaml", "short.yaml"])
STUDY = {
    "name": "killed",
    "configs": [*TARGET, "configs/hardware/cpu.yaml"],
    "weights": {"source": {"configs": [*SOURCE, "configs/hardware/cpu.yaml"]}},
    "strategies": {name: f"configs/strategies/{name}.yaml" for name in ("scratch", "gradual")},
    "sizes": [10],
    "seeds": [0, 1],
    "threads": 1,
}
PREPARE, REPORT = ["prepare", *CPU], ["report", "--output", "report.html"]
EXPORT = ["export", "finished/small/first", "--output", "exported", "--format"]


class Case(NamedTuple):
    """One way to call a command.

    Attributes:
        words: The arguments of the first start.
        resume: Those of later starts, once the run has a config; None for the first again.
        earlier: The case of the same command whose result lies there at first.
    """

    words: list[str]
    resume: list[str] | None = None
    earlier: str | None = None


COMMANDS = {
    "fit": {"last": Case(IMAGES, [*IMAGES, *LAST]), "resume": Case(IMAGES, RESUME)},
    "study": {"all": Case(["study", "--config", "study.yaml", "--workers", "0"])},
    "transfer": {"all": Case(["transfer", "--name", "killed", "--source", *SOURCE, "--target", *TARGET])},
    "language model": {"last": Case(TEXTS, [*TEXTS, *LAST]), "resume": Case(TEXTS, RESUME)},
    "prepare": {
        "images": Case([*PREPARE, "--data", "ImageDataModule", "--data.path", "images", "--model.network", "SeedCNN"]),
        "texts": Case(
            [*PREPARE, "--data", "TextDataModule", "--data.path", "texts", "--model.network", "LSTMClassifier"]
        ),
    },
    "report": {
        "of 100 runs": Case([*REPORT, "finished/copies"], earlier="of 102 runs"),
        "of 102 runs": Case([*REPORT, "finished"], earlier="of 100 runs"),
    },
    "export": {
        "onnx": Case([*EXPORT, "onnx"], earlier="safetensors"),
        "safetensors": Case([*EXPORT, "safetensors"], earlier="onnx"),
    },
}
TRAININGS = ("fit", "study", "transfer", "language model")
