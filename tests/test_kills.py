"""A command that is killed at any moment, and started again, ends as one that was not."""

import json
import random
import re
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch
import yaml
from conftest import REPOSITORY, fit_arguments
from interruptions import assert_equal_runs, curves, last_checkpoint
from test_hostile_records import RESULTS
from test_preemption import arguments as stopping_arguments

from lightning_transfer.cli.entry import main
from lightning_transfer.files import write_json
from lightning_transfer.run.event_files import OrderedEventFiles

sys.path.insert(0, str(REPOSITORY / "scripts"))

from killing.commands import Case
from killing.contents import EQUIVALENCE, content_of, damaged_files, difference, digest_of
from killing.processes import Process

SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "scripts" / "kills"))
OWN = re.compile(r"second|best_k_models")  # times, and paths of the run's own folder
WORDS = ["report", "finished", "--output", "report.html"]


def of_callback(name: str, **arguments: Any) -> list[str]:
    return ["--trainer.callbacks", json.dumps({"class_path": f"lightning_transfer.{name}", "init_args": arguments})]


# What a training does at its end: it says how far its phases came, chooses weights, averages them, or saves adapters.
ENDS = {
    "phases": of_callback("ProgressiveUnfreezing", schedule="gradual", until={"epochs": 1}),
    "interpolation": of_callback("WeightInterpolation"),
    "average, without a best checkpoint": [
        *of_callback("ExponentialMovingAverage", decay=0.9),
        *("--data.validation_fraction", "0"),
    ],
    "adapters": of_callback("LowRankAdaptation"),
    "nothing more, and it was killed before its last checkpoint": [],
}


@pytest.mark.parametrize("end", ENDS)
def test_run_killed_between_its_last_checkpoint_and_its_record_ends_as_the_whole_one(
    end: str, image_folder: Path
) -> None:
    command = fit_arguments(image_folder, "--version", "run", *ENDS[end], "--test_after_fit", "true")
    main(command)
    run, whole = Path("logs/default/run"), Path("logs/default/whole")
    shutil.copytree(run, whole)
    (run / "results.json").unlink()
    if not ENDS[end]:
        (run / "checkpoints" / "last.ckpt").unlink()
    for adapter in run.glob("checkpoints/*_adapter"):
        shutil.rmtree(adapter)
    time.sleep(1 - time.time() % 1)  # as a process of its own, which would not start in the same second
    main([*command, "--ckpt_path", "last"])
    assert files_of(run) == files_of(whole)
    assert record_of(run) == record_of(whole)
    assert_equal_runs(run, whole)
    assert curves(run) == curves(whole)


def test_state_of_every_callback_of_a_resumed_run_is_that_of_the_whole_one(image_folder: Path) -> None:
    command = stopping_arguments(image_folder, "plain", "whole")
    main(command)
    stopped = stopping_arguments(image_folder, "plain", "stopped", 13)
    with pytest.raises(SystemExit):
        main(stopped)
    main([*stopped, "--ckpt_path", "last"])
    states = []
    for version in ("whole", "stopped"):
        leaves = EQUIVALENCE["leaves"](last_checkpoint(Path("logs/default") / version)["callbacks"])
        states.append({name: leaf for name, leaf in leaves if not (isinstance(leaf, str) or OWN.search(name))})
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not EQUIVALENCE["are_equal"](states[0][name], states[1][name])] == []


def test_hyperparameters_are_never_there_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = OrderedEventFiles(tmp_path, "experiment", "run")
    logger.log_hyperparams({"width": 3})
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.core.saving.yaml.dump", write_half)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert [*tmp_path.rglob("*hparams*")] == []
    logger.save()
    assert yaml.safe_load((tmp_path / "experiment" / "run" / "hparams.yaml").read_text()) == {"width": 3}


def write_half(content: object, stream: TextIO | None = None, **options: object) -> None:
    if stream is not None:
        stream.write("wid")
        raise KeyboardInterrupt


def files_of(run: Path) -> set[Path]:
    return {file.relative_to(run) for file in run.rglob("*") if "tfevents" not in file.name}


def record_of(run: Path) -> dict[str, Any]:
    record = json.loads((run / "results.json").read_text())
    return {name: value for name, value in record.items() if "second" not in name and name != "command"}


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """The script's place, with a run to report on in the place of its inputs."""
    place = object.__new__(SCRIPT["Place"])
    folder = tmp_path / "place"
    vars(place).update(folder=folder, run=folder / "run", inputs=folder / "inputs", import_seconds={"report": 0.0})
    write_json(place.inputs / "finished" / "results.json", RESULTS)
    return place


def report_of(place: Any, **changes: str) -> Any:
    """What the script expects of a report, with changes of the content of files."""
    place.fresh()
    assert Process(WORDS, place.run).end() == 0
    content = content_of("report", place.run)
    folder = place.run.rename(place.folder / "expected")
    return SCRIPT["Expected"](folder, content | changes, seconds=0.01)  # less than it takes, so that kills hit


def killed(place: Any, expected: Any, kills: int, case: Any = None) -> tuple[list[str], str]:
    run = SCRIPT["Run"]("report", case or Case(WORDS), place, expected, None, whole=False)
    return run.phases, run.go(random.Random(0), kills)


def test_script_kills_a_command_until_it_may_end_and_finds_it_equal(place: Any) -> None:
    phases, difference = killed(place, report_of(place), kills=3)
    assert difference == ""
    assert 1 <= len(phases) <= 3
    assert set(phases) <= {*SCRIPT["PHASES"]}


def test_script_names_what_differs_what_is_half_and_what_a_command_says_when_it_fails(place: Any) -> None:
    expected = report_of(place, **{"report.html": "another"})
    assert killed(place, expected, kills=0) == ([], "1 values differ: report.html")
    place.fresh()
    run = SCRIPT["Run"]("report", Case(WORDS), place, expected, None, whole=False)
    (place.run / "report.html").write_text("<html>")
    assert run._half() == "a kill has left . by half: ['report.html']"
    wrong = Case(["report", "nowhere"])
    words = killed(place, expected, 0, wrong)[1]
    assert words.startswith("status 2: lightning-transfer: error: 'nowhere' is no folder"), words


def test_script_names_a_value_of_a_training_that_differs_but_no_time(tmp_path: Path) -> None:
    records = [{"test": {"test/loss": loss}, "fit_seconds": loss} for loss in (1.0, 2.0)]
    contents = []
    for number, record in enumerate(records):
        write_json(tmp_path / str(number) / "results.json", record)
        torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / str(number) / "last.ckpt")
        contents.append(content_of("fit", tmp_path / str(number)))
    assert difference(*contents) == "1 values differ: results.json.test.test/loss"
    (tmp_path / "1" / "last.ckpt").write_bytes((tmp_path / "0" / "last.ckpt").read_bytes()[:300])
    (tmp_path / "1" / "results.json").write_text("{")
    found = [*damaged_files(tmp_path / "1")]
    assert found == ["last.ckpt was cut short, or changed at its end", "results.json is damaged"]


def test_table_of_the_script_says_how_many_kills_counted_in_each_phase() -> None:
    counts = {"seconds": 3.1, "runs": 12, "kills": dict(zip(SCRIPT["PHASES"], (3, 40, 2, 5), strict=True))}
    lines = SCRIPT["table"]({"fit": counts | {"differences": []}, "study": counts | {"differences": ["a loss"]}})
    assert lines.splitlines()[1].split() == ["fit", "3.1", "12", "50", "3", "40", "2", "5", "equal"]
    assert lines.splitlines()[2].endswith("1 of 12 differ")


def test_script_takes_safetensors_for_equal_whatever_the_order_of_their_metadata(tmp_path: Path) -> None:
    def digest(header: str, tensors: bytes) -> str:
        file = tmp_path / "model.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + tensors)
        return digest_of(file)

    first, second = '{"__metadata__":{"a":"1","b":"2"}}', '{"__metadata__":{"b":"2","a":"1"}}'
    assert digest(first, b"12") == digest(second, b"12")
    assert digest(first, b"12") != digest(first, b"21")
    assert digest(first, b"12") != digest(first.replace("2", "3"), b"12")
