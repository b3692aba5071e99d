"""Commands that a run prints: pasted into a shell, they run, and do what they say."""

import html
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from conftest import fit_arguments, run_folder

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.repetition import own_options, repetition
from lightning_transfer.report.run_files import read_run

CARD_ONLY = json.dumps(
    dict.fromkeys(("scalars", "timeline", "training_examples", "predictions", "attributions", "graph"), False)
    | {"embeddings": 0}
)


def test_printed_commands_do_a_named_and_resumed_run_again(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A name with a space, given by a flag or by a file; the run is stopped after an epoch, and goes on.
    Path("name.yaml").write_text(yaml.safe_dump({"version": "a run", "dashboards": json.loads(CARD_ONLY)}))
    run = fit_arguments(image_folder, "--logs", "my logs", "--config", "name.yaml")
    main(run)
    capsys.readouterr()
    main([*run, "--version=a run", "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    table = capsys.readouterr().out
    folder = Path("my logs/default/a run")
    main(["report", str(folder)])
    page = html.unescape((folder / "report.html").read_text())
    printed = re.findall(r"^lightning-transfer .*$", page.replace("</pre>", "\n"), re.MULTILINE)
    assert printed == read_run(folder, "run").data["run/card_data"]["commands"]
    assert json.loads((folder / "results.json").read_text())["command"] == printed[0]
    expected = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert len(printed) == 2
    for number, command in enumerate(printed):
        program, *arguments = shlex.split(command)
        assert program == "lightning-transfer"
        main(arguments)
        again = torch.load(f"my logs/default/version_{number}/checkpoints/last.ckpt", weights_only=True)
        assert all(torch.equal(weight, again["state_dict"][name]) for name, weight in expected.items())
    [command] = [line for line in table.splitlines() if line.startswith("tensorboard ")]
    assert shlex.split(command) == ["tensorboard", "--logdir", "my logs"]


@pytest.mark.parametrize(
    ("callback", "init_args"),
    [("StochasticWeightAveraging", {"swa_lrs": 0.01}), ("ModelPruning", {"pruning_fn": "l1_unstructured"})],
)
def test_saved_configuration_of_callbacks_of_lightning_runs(
    callback: str, init_args: dict[str, object], image_folder: Path
) -> None:
    callbacks = json.dumps([{"class_path": f"lightning.pytorch.callbacks.{callback}", "init_args": init_args}])
    main(fit_arguments(image_folder, "--dashboards", "null", "--trainer.callbacks", callbacks))
    file = run_folder() / "config.yaml"
    assert "Unable" not in file.read_text()
    main(["fit", "--config", str(file)])
    assert (file.parent.with_name("version_1") / "config.yaml").read_text() == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "version", "start", "command"),
    [
        ("fit --seed_everything 1", None, None, "fit --seed_everything 1"),
        ("fit --version a --seed_everything 1", "a", None, "fit --seed_everything 1 --version null"),
        ("fit --version=a --ckpt_path=last", "a", "last", "fit --version null --ckpt_path null"),
        ("fit --config c.yaml", "a", "last", "fit --config c.yaml --version null --ckpt_path null"),
        (
            "fit --version a --ckpt_path e/a/checkpoints/x.ckpt",
            "a",
            "e/a/checkpoints/x.ckpt",
            "fit --version null --ckpt_path null",
        ),
        ("fit --version b --ckpt_path e/a/x.ckpt", "b", "e/a/x.ckpt", "fit --ckpt_path e/a/x.ckpt --version null"),
        ("fit --ckpt_path e/a/x.ckpt", None, "e/a/x.ckpt", "fit --ckpt_path e/a/x.ckpt"),
    ],
)
def test_repetition_leaves_out_what_is_of_one_run_alone(
    arguments: str, version: str | None, start: str | None, command: str
) -> None:
    own = own_options(Path("e"), version, start)
    assert repetition(shlex.split(arguments), own) == f"lightning-transfer {command}"


def test_suggestion_of_the_range_test_runs_as_printed(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    _, *run = fit_arguments(image_folder)
    main(["lr-find", *run, "--steps", "10"])
    [suggested] = re.findall(r"^suggested: (.*)$", capsys.readouterr().out, re.MULTILINE)
    main(["fit", *run, *shlex.split(suggested), "--dashboards", "null"])
    config = yaml.safe_load((run_folder() / "config.yaml").read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == float(suggested.split()[-1])
