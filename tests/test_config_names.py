"""Configs by name: where they are looked up, in every command that takes them, and what a mistyped name gets."""

from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.study_runs import read_study
from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import PACKAGED, find_config, known_config, portable_name
from lightning_transfer.study.config import Pretraining, Study
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.study_checks import check


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, without the project's configs in it."""
    monkeypatch.setattr("sys.argv", ["lightning-transfer"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed_config(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    with pytest.raises(SystemExit) as exit_status:
        main([*arguments, "--print_config"])
    captured = capsys.readouterr()
    assert exit_status.value.code == 0, captured.err
    return dict(yaml.safe_load(captured.out))


def write(file: str, text: str = "seed_everything: 5\n") -> Path:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(text)
    return Path(file)


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart", "configs/quickstart.yaml"])
def test_packaged_config_is_found_from_any_folder(name: str) -> None:
    assert find_config(name).samefile(REPOSITORY / "configs" / "quickstart.yaml")


def test_file_of_the_working_directory_comes_first_and_then_its_folder_of_configs() -> None:
    assert find_config("hardware/cpu") == PACKAGED / "hardware" / "cpu.yaml"
    in_configs = write("configs/hardware/cpu.yaml")
    assert find_config("hardware/cpu") == in_configs
    here = write("hardware/cpu.yml")
    assert find_config("hardware/cpu") == here
    literal = write("hardware/cpu")
    assert find_config("hardware/cpu") == literal


def test_name_of_a_kind_is_looked_up_among_these_and_then_among_all() -> None:
    assert find_config("gradual", "strategies") == PACKAGED / "strategies" / "gradual.yaml"
    own = write("gradual.yaml")
    assert find_config("gradual.yaml", "strategies") == own
    assert find_config("gradual", "strategies") == PACKAGED / "strategies" / "gradual.yaml"
    other = write("mine/strategy.yaml")
    assert find_config("mine/strategy", "strategies") == other
    assert known_config("gradual") == own


def test_name_leads_to_no_file_beside_the_packaged_configs() -> None:
    (PACKAGED.parent / "pyproject.toml").stat()
    for name in ("../pyproject.toml", "configs/../../pyproject.toml", "/quickstart"):
        assert known_config(name) is None


def test_portable_name_is_found_by_every_installation() -> None:
    file = find_config("strategies/gradual")
    assert portable_name(file) == "configs/strategies/gradual.yaml"
    assert find_config(portable_name(file)) == file
    assert portable_name(write("mine.yaml")) == "mine.yaml"


@pytest.mark.parametrize(
    ("name", "kind", "meant"),
    [
        ("quickstrat", "", "did you mean quickstart or "),
        ("strategies/gradul", "", "did you mean strategies/gradual?"),
        ("gradul.yaml", "", "did you mean strategies/gradual?"),
        ("cpu", "", "did you mean hardware/cpu"),
        ("zzz", "hardware", "expected a file, or one of hardware/cpu, hardware/ddp, hardware/ddp_cpu, "),
        ("zzz", "", "expected a file, or one of amazon_books_lstm, amazon_multitask, "),
    ],
)
def test_name_that_is_not_found_gets_the_nearest_or_all(name: str, kind: str, meant: str) -> None:
    with pytest.raises(UserError, match="is neither a file in ") as raised:
        find_config(name, kind)
    assert meant in str(raised.value)
    assert repr(name) in str(raised.value)


def test_own_config_is_suggested_too() -> None:
    write("configs/my_flowers.yaml")
    with pytest.raises(UserError, match="did you mean my_flowers"):
        find_config("my_flower")


def test_fit_takes_names_beside_files_and_mappings(capsys: pytest.CaptureFixture[str]) -> None:
    write("mine.yaml", "trainer: {max_epochs: 2}\n")
    names = ["--config", "quickstart_transfer", "--config=hardware/cpu", "-c", "strategies/gradual", "-c", "mine"]
    printed = printed_config("fit", *names, "--config", "{seed_everything: 3}", capsys=capsys)
    trainer = printed["trainer"]
    assert isinstance(trainer, dict)
    assert (printed["experiment"], trainer["accelerator"], trainer["max_epochs"]) == ("quickstart_transfer", "cpu", 2)
    assert trainer["callbacks"][0]["init_args"]["schedule"] == "gradual"
    assert printed["seed_everything"] == 3


@pytest.mark.parametrize("command", ["fit", "plan", "test", "study"])
def test_mistyped_name_is_one_line_in_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main([command, "--config", "quickstrat"])
    assert exit_status.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-transfer: error: config 'quickstrat' is neither a file in ")
    assert ": did you mean quickstart or " in line


def test_study_is_found_by_name_with_all_that_it_names() -> None:
    study, _ = read_study(["--config", "studies/demo"])
    plan = Plan(study, Path("logs"))
    [cell, *_] = plan.final()
    assert "--config=configs/quickstart_transfer.yaml" in cell.arguments
    assert cell.settings["configs"][0]["experiment"] == "quickstart_transfer"
    assert plan.pretraining()[0].settings["configs"][0]["experiment"] == "quickstart"


def test_study_names_strategies_as_transfer_does() -> None:
    own = write("mine.yaml", "init_from: null\n")
    study = Study(
        "names",
        ["quickstart_transfer"],
        weights={"source": Pretraining(["quickstart"])},
        strategies={"gradual": "gradual", "mine": "mine", "full": "configs/strategies/full.yaml"},
        baseline="mine",
    )
    check(study)
    cells = {cell.arm.strategy: cell for cell in Plan(study, Path("logs")).final() if cell.arm}
    assert "--config=configs/strategies/gradual.yaml" in cells["gradual"].arguments
    assert f"--config={own}" in cells["mine"].arguments
    assert cells["mine"].arm is not None
    assert cells["mine"].arm.weights is None  # its file says so


def test_transfer_takes_names_and_files_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(
        "lightning_transfer.cli.transfer_runs.run_unfinished", lambda plan, *_, **__: plans.append(plan)
    )
    write("mine.yaml", "init_from: null\n")
    main(["transfer", "--source", "quickstart", "--target", "quickstart_transfer", "--hardware", "cpu",
          "--strategies", "mine.yaml", "gradual"])  # fmt: skip
    main(["transfer"])
    [study, by_default] = [plan.study for plan in plans]
    assert study.name == by_default.name == "quickstart_transfer_from_quickstart"
    assert study.strategies == {"mine": "mine.yaml", "gradual": "configs/strategies/gradual.yaml"}
    assert study.baseline == "mine"
    assert study.configs == ["quickstart_transfer", "configs/hardware/cpu.yaml"]
    assert by_default.configs == ["configs/quickstart_transfer.yaml", "configs/hardware/cpu.yaml"]
    own, default = (plan.final()[0].settings["configs"] for plan in plans)
    assert own == [*default[:2], {"init_from": None}]
