"""The command line: what it documents, what it writes, what it refuses."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub.constants
import pytest
import torch
import yaml
from conftest import fit_arguments, image_dataset, run_folder, write_parquet
from lightning.pytorch.callbacks import SpikeDetection

from lightning_transfer.cli.entry import main
from lightning_transfer.data.hub import locate
from lightning_transfer.errors import UserError
from lightning_transfer.files import without_waiting_for_hub
from lightning_transfer.run.resumption import Resumption
from lightning_transfer.transfer.sources import checkpoint_of, read_source


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail with exit status 2 and one line, and returns the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_status:
        main(list(arguments))
    assert exit_status.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lightning-transfer: error: ")]
    return line.removeprefix("lightning-transfer: error: ")


@pytest.fixture(scope="module")
def finished_run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch with a test at the end."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    main(fit_arguments(image_folder, "--experiment", "small", "--test_after_fit", "true", "--seed_everything", "7"))
    os.chdir(before)
    return folder / "logs" / "small" / "version_0"


def test_run_leaves_config_checkpoints_events_and_results(finished_run: Path) -> None:
    names = {str(file.relative_to(finished_run)) for file in finished_run.rglob("*") if file.is_file()}
    assert {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "results.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)


def test_results_say_what_was_reached_and_how(finished_run: Path) -> None:
    results = json.loads((finished_run / "results.json").read_text())
    assert set(results["test"]) == {"test/loss", "test/accuracy", "test/macro_f1", "test/calibration_error"}
    assert results["validation"]["val/accuracy"] == results["validations"][0]["val/accuracy"]
    assert results["seed"] == 7
    assert results["command"].startswith("lightning-transfer fit --data CIFAR10 ")
    assert results["experiment"] == "small"
    assert results["init_from"] is None
    assert results["epochs"] == 1
    assert results["steps"] == 9
    assert results["data"]["train_examples"] == 81
    assert results["data"]["validation_examples"] == 9
    assert len(results["data"]["fingerprints"]) == 2
    assert results["fit_seconds"] >= results["train_seconds"] > 0
    assert results["train_examples_per_second"] > 0
    assert results["versions"]["torch"] == torch.__version__.split("+")[0] or results["versions"]["torch"]
    assert results["device"].startswith("cpu")


def test_results_are_of_the_whole_fit_also_where_an_early_checkpoint_is_tested(image_folder: Path) -> None:
    still = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0")  # no later epoch is better
    main(fit_arguments(image_folder, *still, "--trainer.max_epochs", "3", "--test_after_fit", "true"))
    results = json.loads((run_folder() / "results.json").read_text())
    best = torch.load(results["best_checkpoint"], weights_only=True)
    assert best["epoch"] == 0
    assert results["test"]
    assert [entry["epoch"] for entry in results["validations"]] == [0, 1, 2]
    [recorder] = [state for name, state in best["callbacks"].items() if "ResultsRecorder" in name]
    assert results["fit_seconds"] > recorder["fit_seconds"]


def test_run_ends_with_a_table_and_the_tensorboard_command(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(fit_arguments(image_folder))
    output = capsys.readouterr().out
    accuracy = json.loads((run_folder() / "results.json").read_text())["validation"]["val/accuracy"]
    assert f"{accuracy:.4f}" in next(line for line in output.splitlines() if line.startswith("accuracy"))
    assert "tensorboard --logdir logs" in output


def test_run_without_checkpoints_tests_its_last_weights(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--trainer.enable_checkpointing", "false", "--test_after_fit", "true"))
    results = json.loads((run_folder() / "results.json").read_text())
    assert not (run_folder() / "checkpoints").exists()
    assert results["best_checkpoint"] is None
    assert set(results["test"]) >= {"test/loss", "test/accuracy"}


def test_best_checkpoint_tests_the_same_from_the_saved_config(
    finished_run: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    checkpoint = finished_run / "checkpoints" / "best.ckpt"
    main(["test", "--config", str(finished_run / "config.yaml"), "--ckpt_path", str(checkpoint)])
    expected = json.loads((finished_run / "results.json").read_text())["test"]["test/accuracy"]
    assert str(expected)[:8] in capsys.readouterr().out
    assert not [warning for warning in recwarn if "callbacks" in str(warning.message)]
    assert not Path("logs").exists()


def test_predict_writes_a_line_for_each_image_of_a_folder(finished_run: Path) -> None:
    Path("pictures/below").mkdir(parents=True)
    for index, image in enumerate(image_dataset(4)["img"]):
        image.resize((50, 40)).save(f"pictures/{'below/' if index else ''}{index}.png")
    checkpoint = str(finished_run / "checkpoints" / "best.ckpt")
    command = ["predict", "--config", str(finished_run / "config.yaml"), "--ckpt_path", checkpoint]
    # The checkpoint is enough: the data set that it was trained on is gone.
    main([*command, "--data.path", "/nowhere", "--data.predict_path", "pictures", "--output", "out.jsonl"])
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["0.png", "below/1.png", "below/2.png", "below/3.png"]
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["class"] == max(line["probabilities"], key=line["probabilities"].get)


def test_file_of_predictions_that_cannot_be_written_is_refused_first(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished_run / "checkpoints" / "best.ckpt")
    command = ["predict", "--config", str(finished_run / "config.yaml"), "--ckpt_path", checkpoint]
    for output in ("nowhere/predictions.jsonl", "configs"):
        assert f"cannot write {output}: " in error_line(capsys, *command, "--output", output)


def test_printed_config_reproduces_itself(capsys: pytest.CaptureFixture[str]) -> None:
    configs = ["--config", "configs/quickstart.yaml", "--config", "configs/hardware/cpu.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", *configs, "--data.batch_size", "7", "--print_config"])
    first = capsys.readouterr().out
    assert yaml.safe_load(first)["data"]["init_args"]["batch_size"] == 7
    Path("printed.yaml").write_text(first)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "printed.yaml", "--print_config"])
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "DemoImages", "ImageDataModule"])
def test_help_documents_every_argument_of_the_data(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", f"--data.help={name}"])
    text = capsys.readouterr().out
    for argument in ("batch_size", "validation_fraction", "examples_per_class", "split_seed"):
        description = text.split(f"  --data.{argument} ")[1].split("(type:")[0]
        assert len(description.split()) > 6, argument


def test_help_documents_every_argument_of_the_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help=Classifier"])
    text = capsys.readouterr().out
    for argument in ("loss", "label_smoothing", "optimizer", "lr_decay", "lr_schedule", "warmup_fraction"):
        description = text.split(f"  --model.{argument} ")[1].split("(type:")[0]
        assert len(description.split()) > 3, argument


@pytest.mark.parametrize(("schedule", "precision"), [(None, "64-true"), ("gradual", "32-true")])
def test_resumed_fit_goes_on_where_the_checkpoint_stopped(
    schedule: str | None, precision: str, image_folder: Path
) -> None:
    callbacks = []
    if schedule is not None:
        init_args = {"schedule": schedule, "until": {"steps": 7}}  # transitions in mid-epoch, one after the resume
        callbacks = [{"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": init_args}]
    common = ["--trainer.callbacks", json.dumps(callbacks), "--model.optimizer", "torch.optim.AdamW"]
    common += ["--trainer.precision", precision]
    main(fit_arguments(image_folder, *common, "--trainer.max_epochs", "3"))
    whole = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
    main(fit_arguments(image_folder, *common, "--experiment", "parts"))
    last = str(run_folder("parts") / "checkpoints" / "last.ckpt")
    rest = ["--experiment", "parts", "--trainer.max_epochs", "3", "--ckpt_path", last]
    main(fit_arguments(image_folder, *common, *rest))
    parts = torch.load(run_folder("parts") / "checkpoints" / "last.ckpt", weights_only=True)
    assert parts["global_step"] == whole["global_step"] == 27
    for name, weight in whole["state_dict"].items():
        assert torch.equal(weight, parts["state_dict"][name]), name
    for number, state in whole["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, parts["optimizer_states"][0]["state"][number][name]), name
    results = json.loads((run_folder("parts") / "results.json").read_text())
    assert [entry["epoch"] for entry in results["validations"]] == [0, 1, 2]


def test_run_that_goes_on_in_another_folder_knows_what_was_best(image_folder: Path) -> None:
    main(fit_arguments(image_folder))
    best, last = (run_folder() / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    saved = torch.load(last, weights_only=True)
    [key] = [key for key in saved["callbacks"] if key.startswith("BestCheckpoint")]
    highest = torch.tensor(2.0)  # which no later validation reaches
    saved["callbacks"][key] |= {
        "best_model_score": highest,
        "kth_value": highest,
        "best_k_models": {str(best): highest},
    }
    torch.save(saved, last)
    main(fit_arguments(image_folder, "--trainer.max_epochs", "2", "--ckpt_path", str(last), "--test_after_fit", "true"))
    results = json.loads(Path("logs/default/version_1/results.json").read_text())
    assert Path(results["best_checkpoint"]).resolve() == best.resolve()
    assert checkpoint_of(Path("logs/default/version_1")).samefile(best)


def test_run_without_a_logger_has_a_folder_of_its_own_all_the_same(image_folder: Path) -> None:
    Path("config.yaml").write_text("mine")
    main(fit_arguments(image_folder, "--trainer.logger", "false"))
    assert Path("config.yaml").read_text() == "mine"
    names = {str(file.relative_to("logs")) for file in Path("logs").rglob("*") if file.is_file()}
    files = ("config.yaml", "results.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    assert names == {f"default/version_0/{name}" for name in files}


def test_other_checkpoints_of_a_config_do_not_count_as_the_best(image_folder: Path) -> None:
    other = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", "2"]
    main(fit_arguments(image_folder, *other, "--trainer.callbacks.save_top_k", "-1", "--test_after_fit", "true"))
    results = json.loads((run_folder() / "results.json").read_text())
    assert Path(results["best_checkpoint"]).name == "best.ckpt"
    assert results["selected_by"] == "val/accuracy"


def test_command_runs_as_a_module_and_fails_without_a_traceback() -> None:
    command = [sys.executable, "-m", "lightning_transfer", "fit", "--config", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"lightning-transfer: error: config 'nowhere.yaml' is neither a file in {Path.cwd()} nor ")


@pytest.mark.parametrize(
    ("given", "meant"), [("fitt", "did you mean fit?"), ("lr-fin", "did you mean lr-find?"), ("x", "")]
)
def test_unknown_command_is_refused_with_all_there_are(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there_are = "fit, validate, test, predict, plan, lr-find, prepare, transfer, study, ensemble, soup, export, serve"
    there_are += ", explain, report, init"
    assert error_line(capsys, given) == f"'{given}' is not one of the commands {there_are}{meant and f'; {meant}'}"


def test_command_without_an_experiment_is_told_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "nothing is given for model.network: name a file that has it (--config), or give the argument"
    assert error_line(capsys, "fit") == expected


def test_config_that_is_no_yaml_is_named_with_the_place_of_its_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("data:\n\tpath: pictures\n")
    line = error_line(capsys, "fit", "--config", "configs/quickstart.yaml", "--config", "mine.yaml")
    assert line == "mine.yaml is not YAML: found character '\\t' that cannot start any token (line 2, column 1)"


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["--version"])
    assert exit_status.value.code == 0
    assert version("lightning-transfer") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("--data.path", "unknown option 'data.path': data.path is an argument of ClassificationDataModule"),
        ("--model.lr", "unknown option 'model.lr': model.optimizer.lr is an argument of SGD"),
        ("--batch_size", "unknown option 'batch_size': data.batch_size is an argument of ClassificationDataModule"),
        ("--seed", "unknown option 'seed': did you mean seed_everything?"),
        ("--trainer.help", "unknown option 'trainer.help': --help lists all options"),
        ("--gpus", "unknown option 'gpus'"),
    ],
)
def test_option_of_another_place_is_shown_where_it_belongs(
    given: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_line(capsys, "fit", "--config", "configs/quickstart.yaml", given, "3") == hint


@pytest.mark.parametrize("value", ["true", "False"])
@pytest.mark.parametrize("switch", [["export", "logs/run", "--int8"], ["study", "--report_only"]])
def test_value_after_a_switch_is_one_line(switch: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *switch, value)
    assert line.startswith(f"'{value}' follows an option that takes no value: give it alone for true")


def test_fit_that_goes_on_from_its_end_says_that_nothing_was_trained(image_folder: Path) -> None:
    main(fit_arguments(image_folder))
    steps = json.loads((run_folder() / "results.json").read_text())["steps"]
    with pytest.warns(UserWarning, match=f"nothing was trained: the checkpoint is of step {steps}, at the end of"):
        main(fit_arguments(image_folder, "--version", run_folder().name, "--ckpt_path", "last"))


def test_timer_of_lightning_goes_into_the_saved_config(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--trainer.callbacks+", "Timer"))
    config = yaml.safe_load((run_folder() / "config.yaml").read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["interval"] == "step"


def test_finetuning_of_a_backbone_that_is_not_there_is_refused(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, *fit_arguments(image_folder, "--trainer.callbacks+", "BackboneFinetuning"))
    assert line == ("BackboneFinetuning trains a module's backbone, and Classifier has none: use ProgressiveUnfreezing")


@pytest.mark.parametrize(
    ("callback", "way_out"),
    [
        ("LearningRateFinder", "use the command lightning-transfer lr-find"),
        ("BatchSizeFinder", "set data.batch_size"),
        ("SpikeDetection", "leave it out"),
    ],
)
def test_callback_that_cannot_work_is_refused_with_the_way_out(
    callback: str, way_out: str, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, *fit_arguments(image_folder, "--trainer.callbacks+", callback))
    assert line.startswith(f"{callback} in trainer.callbacks ")
    assert way_out in line
    assert not list(Path("logs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("strategies", "line"),
    [
        (("adaptive", "linear_probe"), "AdaptiveUnfreezing and ProgressiveUnfreezing: expected one schedule"),
        (("lora", "wise_ft"), "LowRankAdaptation and WeightInterpolation: expected one of them"),
    ],
)
def test_strategies_that_contradict_each_other_are_refused(
    strategies: tuple[str, ...], line: str, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [word for name in strategies for word in ("--config", f"configs/strategies/{name}.yaml")]
    assert line in error_line(capsys, *fit_arguments(image_folder), *configs)


def test_lightning_still_cannot_restore_its_spike_detection() -> None:
    callback = SpikeDetection()
    with pytest.raises(AttributeError):  # once it can, it need not be refused
        callback.load_state_dict(callback.state_dict())


@pytest.mark.parametrize("following", [[], ["--trainer.max_epochs", "3"]])
def test_help_of_no_class_in_particular_names_the_classes(
    following: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, "fit", "--model.network.help", *following)
    assert line == (
        "--model.network.help takes the name of a class: FastCNN, LSTMClassifier, LSTMLanguageModel, SeedCNN,"
        " TimmNetwork, TorchvisionNetwork, TransformersLanguageModel, TransformersNetwork, or one of your own"
    )
    assert error_line(capsys, "fit", "--data.help").startswith("--data.help takes the name of a class: CIFAR10, ")
    losses = error_line(capsys, "fit", "--model.loss.help")
    assert losses.startswith(
        "--model.loss.help takes the name of a class: BarlowTwinsLoss, SimCLRLoss, SimSiamLoss, or"
    )
    line = error_line(capsys, "fit", "--model.help", "SedCNN")
    assert line == "model.help: 'SedCNN' is not a class that can be imported: did you mean SeedCNN?"


def test_abbreviated_flag_is_refused_with_the_whole_one(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "fit", "--config", "configs/quickstart.yaml", "--trainer.max_epoch", "1")
    assert line.startswith("unknown option 'trainer.max_epoch': did you mean trainer.max_epochs or ")


UNFREEZING = "lightning_transfer.ProgressiveUnfreezing"
A_CLASS = "expected the name of a class, or class_path and init_args"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"trainer": {"max_epoch": 3}}, "unknown option 'trainer.max_epoch': did you mean trainer.max_epochs or"),
        ({"data": {"init_args": {"batchsize": 3}}}, "unknown option 'data.batchsize': did you mean batch_size or"),
        ({"model": {"init_args": {"los": "x"}}}, "unknown option 'model.los': did you mean loss"),
        ({"data": {"class_path": "CIFAR11"}}, "data: 'CIFAR11' is not a class that can be imported: did you mean"),
        ({"data": {"init_args": {"batch_size": "many"}}}, "data.batch_size is many: expected a whole number"),
        ({"data": {"init_args": {"mean": [1, 2]}}}, "data.mean is [1, 2]: expected a tuple with 3 elements"),
        ({"trainer": {"max_epochs": "many"}}, "trainer.max_epochs is many: expected a whole number or null"),
        ({"model": {"init_args": {"lr_schedule": "x"}}}, "model.lr_schedule is x: expected constant, linear or cosine"),
        (
            {"trainer": {"precision": "half"}},
            "trainer.precision is half: expected a whole number, transformer-engine, ",
        ),
        (
            {"model": {"init_args": {"network": {"class_path": "LSTMClassifier", "init_args": {"hidden_size": "x"}}}}},
            "model.network.hidden_size is x: expected a whole number",
        ),
        (
            {"trainer": {"callbacks": {"class_path": UNFREEZING, "init_args": {"phases": [{"groups": 1}]}}}},
            "trainer.callbacks.phases.groups is 1: expected a list",
        ),
        (
            {"trainer": {"callbacks": {"class_path": UNFREEZING, "init_args": {"schedule": 3}}}},
            "trainer.callbacks.schedule is 3: expected",
        ),
        ({"trainer": ""}, "trainer is '': expected a mapping of its settings, or a file that has it"),
        ({"model": {"init_args": {"optimizer": 1e300}}}, f"model.optimizer is 1e+300: {A_CLASS}"),
        ({"model": {"init_args": {"lr_scheduler": [2]}}}, f"model.lr_scheduler is [2]: {A_CLASS}"),
        ({"model": {"init_args": {"network": 7}}}, f"model.network is 7: {A_CLASS}"),
        ({"model": {"init_args": {"network": {"class_path": 3}}}}, f"model.network is no class: {A_CLASS}"),
        ({"trainer": {"callbacks": [3]}}, f"trainer.callbacks is 3: {A_CLASS}"),
        ({"trainer": {"callbacks": 3}}, f"trainer.callbacks is no class: {A_CLASS}"),
    ],
)
def test_wrong_key_or_value_is_named_with_what_is_valid(
    config: dict, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.yaml").write_text(yaml.safe_dump(config))
    line = error_line(capsys, "fit", "--config", "configs/quickstart.yaml", "--config", "wrong.yaml")
    assert line.startswith(expected)


@pytest.mark.usefixtures("no_mirror")
def test_missing_data_is_named_with_the_ways_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    line = error_line(capsys, *fit_arguments(Path("uoft-cs/cifar10")))
    for way in ("LIGHTNING_TRANSFER_MIRROR", "data.path", "embedded"):
        assert way in line
    line = error_line(capsys, *fit_arguments(Path("/nowhere/at/all")))
    assert line.startswith("data path '/nowhere/at/all' does not exist")
    Path("films.csv").touch()
    line = error_line(capsys, *fit_arguments(Path("films.csv")))
    assert line == "data path 'films.csv' is a file: give the folder that holds it"


@pytest.mark.usefixtures("no_mirror")
def test_mistyped_path_without_a_network_is_refused_within_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    assert "the Hub cannot be reached" in error_line(capsys, *fit_arguments(Path("pictres/cats")))
    Path("pictures").mkdir()
    assert "'pictres' is no folder (did you mean pictures?)" in error_line(capsys, *fit_arguments(Path("pictres")))
    with pytest.raises(UserError, match=r"pictres/cats/x\.pt cannot be downloaded"):
        read_source("hf://pictres/cats/x.pt")
    assert time.monotonic() - start < 20
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_hub_that_does_not_answer_is_asked_again_after_a_minute_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Session:
        def head(self, address: str, timeout: float) -> None:
            asked.append(address)
            raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.test")
    for seconds in (0, 30, 60):
        monkeypatch.setattr("lightning_transfer.files.time.monotonic", lambda seconds=seconds: 60e6 + seconds)
        with without_waiting_for_hub() as is_offline:
            assert is_offline
    assert asked == ["https://hub.test"] * 2


def test_mirror_that_does_not_exist_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_TRANSFER_MIRROR", "/nowhere")
    assert "LIGHTNING_TRANSFER_MIRROR=/nowhere is not a folder" in error_line(
        capsys, *fit_arguments(Path("uoft-cs/cifar10"))
    )


@pytest.mark.parametrize("path", [".", "..", "../elsewhere", "elsewhere/.."])
def test_relative_folder_is_not_looked_up_in_the_mirror(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("mirror/data", "mirror/data/elsewhere", "mirror/elsewhere", "elsewhere", "here/elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("LIGHTNING_TRANSFER_MIRROR", str(tmp_path / "mirror" / "data"))
    monkeypatch.chdir(tmp_path / "here")
    assert locate(path) == str(Path(path).resolve())


@pytest.mark.parametrize("column", ["img", "label"])
def test_folder_without_a_column_is_refused_with_those_it_has(
    column: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dataset = image_dataset(30).rename_column(column, "other")
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    line = error_line(capsys, *fit_arguments(folder))
    assert f"has no column '{column}'" in line
    assert "other" in line


def test_labels_out_of_range_are_refused_with_their_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dataset = image_dataset(30)
    labels = [*dataset["label"]]
    labels[4] = -1
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"img": [*dataset["img"]], "label": labels}, features=features)
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    assert "label -1 in row 4 of split 'train' is out of range: expected 0 to 2" in error_line(
        capsys, *fit_arguments(folder)
    )


def test_image_that_cannot_be_decoded_is_named_by_its_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dataset = image_dataset(30).cast_column("img", datasets.Image(decode=False))
    broken = [*dataset["img"]]
    broken[2] = {"bytes": b"not an image", "path": None}
    dataset = datasets.Dataset.from_dict(
        {"img": broken, "label": [*dataset["label"]]},
        features=datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}),
    )
    folder = write_parquet(tmp_path / "set", train=dataset, test=dataset)
    line = error_line(capsys, *fit_arguments(folder))
    assert line.startswith("the image in row 2 of split 'train', column 'img', cannot be decoded as an image: ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.batch_size", "0"], "data.batch_size is 0: expected 1 or more"),
        (["--data.split_seed", "-1"], "data.split_seed is -1: expected 0 or more"),
        (["--data.image_size", "28"], "SeedCNN takes images of 32 x 32 pixels, not 28 x 28: set data.image_size 32"),
        (["--data.std", "[1.0, 0.0, 1.0]"], "data.std is [1.0, 0.0, 1.0]: expected numbers above 0"),
        (["--data.test_split", "exam", "--test_after_fit", "true"], "split 'exam'"),
        (["--data.examples_per_class", "1000"], "1000 are too many"),
        (["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "-1"], "Invalid learning rate: -1.0"),
        (["--ckpt_path", "nowhere.ckpt"], "checkpoint 'nowhere.ckpt' does not exist"),
        (["--trainer.max_epochs", "-5"], "max_epochs"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches is 0: expected more than 0"),
        (["--trainer.check_val_every_n_epoch", "0"], "trainer.check_val_every_n_epoch is 0: expected more than 0"),
        (["--trainer.val_check_interval", "0"], "trainer.val_check_interval is 0: expected more than 0"),
        (["--trainer.val_check_interval", "10000"], "`val_check_interval` (10000) must be less than or equal"),
        (["--seed_everything", "-1"], "--seed_everything: -1 is not in bounds"),
        (
            ["--config", "configs/strategies/gradual.yaml", "--config", "configs/strategies/linear_probe.yaml"],
            "trainer: Found more than one stateful callback of type `ProgressiveUnfreezing`",
        ),
        (["--trainer.strategy", "fsdp"], "trainer: The strategy `fsdp` requires a GPU accelerator"),
        (["--trainer.strategy", "ddp_fork"], "trainer.strategy is ddp_fork: expected ddp"),
        (
            ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"],
            "trainer.callbacks: EarlyStopping is the name of several classes, write"
            " lightning.pytorch.callbacks.EarlyStopping or lightning_transfer.EarlyStopping",
        ),
    ],
)
def test_value_out_of_range_is_refused_by_name(
    arguments: list[str], expected: str, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in error_line(capsys, *fit_arguments(image_folder, *arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "configs/quickstart.yaml", "--data.test_split", "exam"], "demo split 'exam' is not one of"),
        (["--config", "configs/quickstart_text.yaml", "--data.test_split", "exam"], "demo split 'exam' is not one of"),
        (["--config", "configs/quickstart_lm.yaml"], "test_after_fit is on, and LanguageModel has no test"),
    ],
)
def test_test_that_must_fail_is_refused_before_the_fit(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    assert expected in error_line(capsys, "fit", *arguments, "--test_after_fit", "true", *short)
    assert not list(Path("logs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("other.ckpt", "the checkpoint is of another model than the config: Missing key(s) in state_dict:"),
        ("configs/quickstart.yaml", "configs/quickstart.yaml is no checkpoint: expected a file that a run has saved"),
        ("configs", "configs is a folder: expected a file"),
        ("weights.pt", "weights.pt is not the checkpoint of a run: if it holds weights, start by --init_from"),
        ("module.pt", "module.pt is no checkpoint: expected a file that a run has saved"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_checkpoint_of_another_kind_is_refused(
    command: str, checkpoint: str, expected: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = torch.load(finished_run / "checkpoints" / "last.ckpt", weights_only=True)
    other["state_dict"] = {f"network.other.{name}": value for name, value in other["state_dict"].items()}
    torch.save(other, "other.ckpt")
    torch.save(other["state_dict"], "weights.pt")
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    line = error_line(capsys, command, "--config", str(finished_run / "config.yaml"), "--ckpt_path", checkpoint)
    assert expected in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--model.optimizer", "torch.optim.Adam"],
            "the checkpoint's optimizer has dampening, momentum, nesterov, and Adam has amsgrad, betas, capturable,"
            " decoupled_weight_decay, eps: go on with the checkpoint's, or start by --init_from",
        ),
        (
            ["--model.decay_norm_and_bias", "false"],
            "the checkpoint's optimizer has parameter groups of [2, 2, 2, 2, 2] weights, the config's of [1, 1, 1, 1, ",
        ),
    ],
)
def test_checkpoint_of_another_optimizer_is_refused(
    arguments: list[str], expected: str, finished_run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished_run / "checkpoints" / "last.ckpt")
    line = error_line(capsys, *fit_arguments(image_folder, *arguments, "--ckpt_path", checkpoint))
    assert expected in line


def test_checkpoint_whose_optimizer_divides_the_weights_otherwise_is_refused() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(3)]
    saved, own = (
        torch.optim.SGD([{"params": weights[:count]}, {"params": weights[count:]}], lr=0.1) for count in (2, 1)
    )
    same: Any = Resumption()
    same.on_load_checkpoint(None, None, {"optimizer_states": [saved.state_dict()]})
    same.on_fit_start(SimpleNamespace(optimizers=[saved]), None)
    with pytest.raises(UserError, match=r"groups of \[2, 1\] weights, the config's of \[1, 2\]"):
        same.on_fit_start(SimpleNamespace(optimizers=[own]), None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "DemoTexts", "--data.text_column", "words"], "'embedded' has no column 'words': its columns are "),
        (
            ["--data", "DemoTexts", "--model.network", "SeedCNN"],
            "SeedCNN does not take the 2 inputs that the data gives",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused_by_name(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", "configs/quickstart_text.yaml", "--trainer.accelerator", "cpu"]
    assert expected in error_line(capsys, "fit", *config, *arguments)


def test_package_that_is_not_installed_is_named(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.cpu._PSUTIL_AVAILABLE", False)
    monkeypatch.setattr("lightning.pytorch.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", False)
    assert "psutil" in error_line(capsys, *fit_arguments(image_folder, "--trainer.callbacks+", "DeviceStatsMonitor"))


def test_nothing_is_written_where_the_batch_size_is_wrong(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error_line(capsys, *fit_arguments(image_folder, "--data.batch_size", "0"))
    assert not list(Path().rglob("config.yaml"))


def test_logs_that_cannot_be_written_are_refused_before_training(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("occupied").write_text("a file where the folder should be")
    line = error_line(capsys, *fit_arguments(image_folder, "--logs", "occupied"))
    assert line.startswith("cannot write to occupied/default: ")
    assert "--logs" in line
    read_only = error_line(capsys, *fit_arguments(image_folder, "--logs", "/proc/logs"))
    assert read_only.startswith("cannot write to /proc/logs/default: ")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_without_trained_weights_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, command, "--config", "configs/quickstart.yaml")
    assert f"{command} needs trained weights: give --ckpt_path" in line


def test_diverged_training_stops_with_the_step_and_the_way_out(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30"]
    line = error_line(capsys, *fit_arguments(image_folder, *arguments))
    assert "val/loss is nan after step 9: the training diverged" in line
    # Where nothing is held out, by the training loss, logged or not.
    line = error_line(capsys, *fit_arguments(image_folder, *arguments, "--data.validation_fraction", "0"))
    assert "train/loss is nan after step 10: the training diverged" in line
