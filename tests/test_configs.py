"""Every shipped config: parsed, documented in its head, and run."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, write_parquet

from lightning_transfer import DemoTexts
from lightning_transfer.cli.entry import main
from lightning_transfer.data.hub import load_split
from lightning_transfer.files import MIRROR_VARIABLE, in_mirror

CONFIGS = REPOSITORY / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
STRATEGIES = sorted((CONFIGS / "strategies").glob("*.yaml"))
HARDWARE = sorted((CONFIGS / "hardware").glob("*.yaml"))


def is_embedded(config: Path) -> bool:
    """Whether the experiment's data is generated, that of all tasks where there are several."""
    data = yaml.safe_load(config.read_text())["data"]
    tasks = data.get("init_args", {}).get("tasks", {"": data}).values()
    return all(task["class_path"].split(".")[-1].startswith("Demo") for task in tasks)


# Those that name their data; test_my_images.py brings some of its own.
NAMED = [e for e in EXPERIMENTS if not is_embedded(e) and e.stem != "my_images"]


# Of a hardware file only the trainer's keys matter, whatever the experiment: each is tried with a few.
@pytest.mark.parametrize(
    ("experiment", "hardware"), zip(EXPERIMENTS, itertools.cycle(HARDWARE), strict=False), ids=lambda path: path.stem
)
def test_experiment_composes_with_hardware(
    experiment: Path, hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["fit", "--config", str(experiment), "--config", str(hardware), "--print_config"])
    assert exit_status.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in yaml.safe_load(hardware.read_text())["trainer"].items():
        if isinstance(value, dict):  # a class: printed with all its arguments
            value, printed["trainer"][key] = value["class_path"], printed["trainer"][key]["class_path"]
        assert printed["trainer"][key] == value
    assert printed["experiment"] == experiment.stem


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_head_says_question_command_and_result(experiment: Path) -> None:
    head = experiment.read_text().split("\nexperiment:")[0]
    for word in ("Question", "Command", "Result"):
        assert re.search(rf"^# {word}: +\S", head, re.MULTILINE), word
    assert f"configs/{experiment.name}" in head


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if is_embedded(e)], ids=lambda path: path.stem)
def test_experiment_on_embedded_data_runs(experiment: Path) -> None:
    main(["fit", "--config", str(experiment), "--trainer.fast_dev_run", "2"])


@pytest.mark.mirror
@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("experiment", NAMED, ids=lambda path: path.stem)
def test_experiment_on_real_data_runs(experiment: Path) -> None:
    model = yaml.safe_load(experiment.read_text()).get("init_from")
    if model is not None and in_mirror(model) is None:
        pytest.skip(f"no folder that {MIRROR_VARIABLE} names has {model}")
    # One batch of few examples: some of these are made for a GPU, and a batch of theirs takes many GiB.
    small = {"batch_size": 4, "eval_batch_size": 4, "image_size": 32, "max_tokens": 40, "examples_per_class": 10}
    data = yaml.safe_load(experiment.read_text())["data"]
    for one in data["init_args"].get("tasks", {"": data}).values():
        is_labelled = not one["class_path"].endswith("LanguageModelDataModule")
        one["init_args"] |= {name: value for name, value in small.items() if name in one["init_args"]}
        if "imdb" in experiment.stem:  # test_texts.py reads them all
            few = {"train_split": "train[:300]", "test_split": "test[:300]"}
            if one["init_args"].get("private"):  # such data has no slices
                splits = {split: load_split("stanfordnlp/imdb", f"{split}[:300]") for split in ("train", "test")}
                few = {"path": str(write_parquet(Path("few"), **splits))}
            one["init_args"] |= few if is_labelled else {"train_splits": ["unsupervised[:1500]", "train[:1500]"]}
    Path("small.yaml").write_text(yaml.safe_dump({"data": data}))
    more = ["--data.vocabulary_path", str(vocabulary())] if experiment.stem == "imdb_private_lstm" else []
    main(["fit", "--config", str(experiment), "--config", "small.yaml", *more, "--trainer.fast_dev_run", "1"])


def vocabulary() -> Path:
    """The vocabulary of public texts, which a private training is given."""
    Path("tokenizer.json").write_text(DemoTexts().tokenizer.to_str())
    return Path("tokenizer.json")


# Each strategy with one experiment, in turns: a strategy's file and an experiment's have no part in common.
TRANSFERS = sorted(CONFIGS.glob("*_transfer.yaml"))
COMPOSED = list(zip(itertools.cycle(TRANSFERS), STRATEGIES, strict=False))


@pytest.mark.parametrize(("experiment", "strategy"), COMPOSED, ids=lambda path: path.stem)
def test_strategy_composes_with_transfer(experiment: Path, strategy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--init_from", "source.ckpt"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(experiment), *weights, "--config", str(strategy), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["init_from"] is None) == (strategy.stem == "scratch")
    assert printed["model"]["init_args"]["lr_decay"] == (
        2.6 if "discriminative" in strategy.stem or strategy.stem == "adaptive" else 1.0
    )
    given = yaml.safe_load(strategy.read_text()).get("trainer", {}).get("callbacks+", [])
    assert holds(printed["trainer"]["callbacks"] or [], given if isinstance(given, list) else [given])


def holds(printed: Any, given: Any) -> bool:
    """Whether a printed config has all that a file gives, beside the defaults."""
    if isinstance(given, dict):
        return all(name in printed and holds(printed[name], value) for name, value in given.items())
    if isinstance(given, list):
        return len(printed) == len(given) and all(map(holds, printed, given))
    return bool(printed == given)


def test_run_on_kubernetes_is_a_valid_command(capsys: pytest.CaptureFixture[str]) -> None:
    job = yaml.safe_load((REPOSITORY / "scripts" / "kubernetes.yaml").read_text())
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    [command] = pod["containers"][0]["args"]
    arguments = command.rpartition("' lightning-transfer ")[2].split()
    with pytest.raises(SystemExit) as exit_status:
        main(["fit", *arguments, "--print_config"])
    assert exit_status.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["version"] == "run1"
    [timeout] = [entry["value"] for entry in pod["containers"][0]["env"] if "SHUTDOWN_TIMEOUT" in entry["name"]]
    assert int(timeout) < pod["terminationGracePeriodSeconds"]
