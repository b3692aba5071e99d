"""Soups: the weights of finished runs in one checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from study_toys import pretend, pretend_all, toy_study

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.soup import make_soup, mean_weights
from lightning_transfer.cli.study_runs import run_study
from lightning_transfer.errors import UserError
from lightning_transfer.run.reading import read_checkpoint
from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.config import Halving, Study, Tuning
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.runner import run_study as run_cells
from lightning_transfer.study.study_checks import check


def test_soup_equals_the_mean_of_its_runs_and_is_an_ordinary_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    small = ["--config", "configs/quickstart_transfer.yaml", "--config", "configs/options/light_dashboards.yaml"]
    runs = []
    for rate in ("0.001", "0.003"):
        main(["fit", *small, *quick, "--data.examples_per_class", "4", "--model.optimizer.lr", rate, "--version", rate])
        runs.append(Path("logs/quickstart_transfer", rate))
    weights = [read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"] for run in runs]
    main(["soup", *map(str, runs), "--output", "soup.ckpt", *quick[2:]])
    soup = read_checkpoint("soup.ckpt")
    assert "optimizer_states" not in soup
    for name, value in soup["state_dict"].items():
        torch.testing.assert_close(value, (weights[0][name] + weights[1][name]) / 2)
    found = {line.split()[-3]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "soup of 2" in line}
    assert found
    folder = Path("logs/quickstart_transfer/soup")
    main(["soup", *map(str, runs), "--recipe", "greedy", "--metric", "loss", "--run_folder", str(folder), *quick[2:]])
    record, [first, *_] = json.loads((folder / "results.json").read_text()), sorted(runs, key=validation_loss)
    assert record["soup"][0] == str(first)
    assert record["validation"]["val/loss"] <= validation_loss(first) + 1e-6
    assert record["train_seconds"] == sum(
        json.loads((Path(run) / "results.json").read_text())["train_seconds"] for run in record["soup"]
    )
    assert [*record["data"]["fingerprints"]] == ["train", "test"]
    as_any_run = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]
    capsys.readouterr()
    main(["test", *as_any_run, *quick[2:], "--quiet"])
    assert f"{record['test']['test/accuracy']:.4f}" in capsys.readouterr().out
    assert record["command"].startswith(f"lightning-transfer soup {runs[0]} {runs[1]} --recipe greedy --metric loss")
    # In a study the other candidates may have failed.
    alone = Path("logs/quickstart_transfer/soup_of_one")
    main(["soup", str(runs[0]), "--recipe", "greedy", "--run_folder", str(alone), *quick[2:]])
    for name, value in read_checkpoint(alone / "checkpoints" / "best.ckpt")["state_dict"].items():
        torch.testing.assert_close(value, weights[0][name])
    with pytest.raises(UserError, match=r"a soup of \S+ alone is that run: name at least two"):
        make_soup(runs[:1])
    checkpoint = runs[1] / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    [data] = [state for state in content.values() if isinstance(state, dict) and "class_names" in state]
    data["class_names"].reverse()
    kept = checkpoint.read_bytes()
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"0\.003 and .*0\.001 have other class names: a soup is of runs on the same"):
        make_soup(runs)
    checkpoint.write_bytes(kept)
    before = checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"--output is .*best\.ckpt, a checkpoint of the runs: expected another file"):
        make_soup(runs, output=checkpoint)
    with pytest.raises(UserError, match=r"--run_folder is .*0\.003, which holds a run already: expected another"):
        make_soup(runs, run_folder=runs[1])
    assert checkpoint.read_bytes() == before
    torch.save({**torch.load(checkpoint, weights_only=True), "privacy": {"epsilon": 2.0}}, checkpoint)
    with pytest.raises(UserError, match=r"0\.003 is a private run: expected others, as a soup costs the epsilons"):
        make_soup(runs)


def validation_loss(run: Path) -> float:
    found: float = json.loads((run / "results.json").read_text())["validation"]["val/loss"]
    return found


def test_study_averages_its_tuning_runs_and_does_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    tuning = Tuning([0.001, 0.003], seeds=[1000])
    study = toy_study(
        weights={"none": None},
        strategies={"full": "full"},
        baseline="full",
        sizes=[2],
        seeds=[0],
        tuning=tuning,
        soups=["full"],
    )
    run_study(study, workers=0)
    cell = Path("logs/toy/soup_of_full-size_2-seed_0")
    record = json.loads((cell / "results.json").read_text())
    went_in = [read_checkpoint(Path(run, "checkpoints", "best.ckpt"))["state_dict"] for run in record["soup"]]
    soup = read_checkpoint(cell / "checkpoints" / "best.ckpt")["state_dict"]
    for name, value in mean_weights(went_in).items():
        assert torch.equal(soup[name], value), name
    assert {Path(run).name.rpartition("-")[0] for run in record["soup"]} == {"tune-full-size_2-seed_1000"}
    report = Path("logs/toy/report/toy.md").read_text()
    assert f"| soup of full | {100 * record['test']['test/accuracy']:.2f} |" in report.replace("**", "")
    assert "A soup is the mean of tuning runs of one seed" in report
    assert "The data changed" not in report

    capsys.readouterr()
    (cell / "results.json").unlink()  # as where it was killed
    run_study(study, workers=0)
    assert "4 runs in logs/toy: 3 finished, 0 failed, 1 to run" in capsys.readouterr().out
    again = json.loads((cell / "results.json").read_text())
    assert (again["test"], again["validation"]) == (record["test"], record["validation"])


def soups_of(**changes: Any) -> Study:
    arguments = {"tuning": Tuning([0.001, 0.01], seeds=[1000, 1001]), "soups": ["full"], "baseline": "full"}
    return toy_study(**{**arguments, **changes})


def test_soups_are_rows_at_the_tuned_sizes_of_the_runs_that_finished() -> None:
    plan = Plan(soups_of(tuning=Tuning([0.001, 0.01], seeds=[1000, 1001], sizes=[4])), Path("logs"))
    failed, *finished = [cell for cell in plan.tuning() if cell.arm == Arm("full", "source")]
    assert failed.name == "tune-full-size_4-seed_1000-lr_0.001"
    pretend_all(finished, lambda cell: 0.5)
    soups = [cell for cell in plan.final() if cell.arm == Arm("full", "source", is_soup=True)]
    assert [(cell.name, cell.size, cell.seed) for cell in soups] == [
        ("soup_of_full-size_4-seed_0", 4, 0),
        ("soup_of_full-size_4-seed_1", 4, 1),
    ]
    names = ["tune-full-size_4-seed_1000-lr_0.01"], [f"tune-full-size_4-seed_1001-lr_{lr}" for lr in ("0.001", "0.01")]
    for cell, runs in zip(soups, names, strict=True):
        assert [Path(word).name for word in cell.arguments if "tune-" in word] == runs
    assert plan.baseline(Arm("full", "source", is_soup=True)) == Arm("full", "source")


def test_soup_is_made_anew_once_more_of_its_runs_have_finished() -> None:
    plan = Plan(soups_of(sizes=[2], weights={"none": None}), Path("logs"))
    late = next(cell for cell in plan.tuning() if cell.arm == Arm("full", "none"))
    pretend_all([cell for cell in plan.tuning() if cell != late], lambda cell: 0.5)
    late.fail("its process ended with exit status 1")
    ran: list[str] = []

    def execute(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell in cells:
            ran.append(cell.name)
            cell.begin()
            pretend(cell, 0.4 if cell == late else 0.5)  # a better one would change the choice of the others
            yield cell, 1.0

    for retry_failed in (False, True, True):
        run_cells(plan, execute, parallel=1, retry_failed=retry_failed)
    soups = [f"soup_of_full-size_2-seed_{seed}" for seed in (0, 1)]
    assert late.name == "tune-full-size_2-seed_1000-lr_0.001"
    assert [name for name in ran if "soup" in name or "tune" in name] == [*soups, late.name, soups[0]]


def test_soup_of_a_study_is_compared_like_every_other_row_and_its_tuning_values_are_its_settings() -> None:
    plan = Plan(soups_of(sizes=[2]), Path("logs"))
    pretend_all(plan.tuning(), lambda cell: 0.5)
    pretend_all(plan.final(), lambda cell: 0.7 if cell.arm and cell.arm.is_soup else 0.5 + 0.01 * cell.seed)
    outcomes = Outcomes(plan)
    [soup] = [outcome for outcome in outcomes if outcome.label == "soup of full"]
    assert soup.scores == {0: 70.0, 1: 70.0}
    assert soup.difference
    assert soup.difference.difference.mean == pytest.approx(19.5)
    assert outcomes.verdicts()[2].best == "soup of full"
    for cell in plan.final():
        cell.begin()
    more = Plan(soups_of(sizes=[2], tuning=Tuning([0.001, 0.01, 0.1], seeds=[1000, 1001])), Path("logs"))
    [changed, _] = [cell for cell in more.final() if cell.arm and cell.arm.is_soup]
    with pytest.raises(UserError, match=r"was made with \S+lr .+0.01\]\"?, and now it is"):
        changed.check_unchanged()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soups": ["none"]}, "soups has 'none', which is not one of the strategies scratch, full"),
        ({"tuning": None}, "soups are means of tuning runs: expected a tuning with 2 or more values, or no soups"),
        ({"tuning": Tuning([0.1], seeds=[1000, 1001])}, "expected a tuning with 2 or more values"),
        (
            {"tuning": Tuning([0.1, 1.0])},
            r"tuning\.seeds has 1, and a soup is of one of them: expected 2, one for each",
        ),
        ({"keep_checkpoints": "best"}, "keep_checkpoints is best: expected all with soups, which are made of them"),
        ({"keep_checkpoints": "last"}, "keep_checkpoints is last: expected all, best, none"),
        ({"until_decided": 3}, r"tuning\.seeds has 2, and a soup is of one of them: expected 3"),
        (
            {"tuning": Tuning([0.1, 1.0], seeds=[1000, 1001], halving=Halving())},
            r"soups are means of whole tuning runs: leave tuning\.halving out",
        ),
    ],
)
def test_study_without_whole_runs_for_a_soup_of_each_seed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(soups_of(**changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fit_seconds": 1}', r"b.results\.json has no train_seconds: expected the record of a finished run"),
        ('{"fit_seconds": 1, "train_seconds": "2"}', r"b.results\.json\.train_seconds is '2': expected the record"),
        ("[]", r"b.results\.json holds a list: expected a dict"),
    ],
)
def test_run_whose_record_cannot_be_that_of_a_part_is_refused(content: str, message: str) -> None:
    for name, record in (("a", '{"fit_seconds": 1, "train_seconds": 1}'), ("b", content)):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text("")
        Path(name, "results.json").write_text(record)
    with pytest.raises(UserError, match=message):
        make_soup([Path("a"), Path("b")], run_folder=Path("c"))
