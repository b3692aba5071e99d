"""Which runs a study has, how they differ, and what is noticed when its settings change."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from study_toys import STRATEGIES, pretend, pretend_all, toy_study

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.study_runs import read_study
from lightning_transfer.errors import UserError
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Pretraining, Study, Tuning
from lightning_transfer.study.grid import expand, flags
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.study_checks import check
from lightning_transfer.study.tuning import at_the_edge, choose, describe_edges

ONE = {"scratch": STRATEGIES["scratch"]}
A_CLASS = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}


def plan_of(study: Study) -> Plan:
    return Plan(study, Path("logs"))


def test_grid_leaves_anywhere_give_every_combination() -> None:
    settings = {"trainer": {"max_epochs": {"grid": [1, 2]}}, "model.lr_decay": {"grid": [1.0, 2.6]}, "data.path": "x"}
    variants = expand(settings)
    assert len(variants) == 4
    chosen = variants[("trainer.max_epochs", "2"), ("model.lr_decay", "2.6")]
    assert chosen == {"trainer": {"max_epochs": 2}, "model.lr_decay": 2.6, "data.path": "x"}
    assert settings["trainer"] == {"max_epochs": {"grid": [1, 2]}}
    assert list(expand({"a": 1})) == [()]
    with pytest.raises(UserError, match=r"the grid of a\.b is 3: expected a list"):
        expand({"a": {"b": {"grid": 3}}})
    with pytest.raises(UserError, match=r"^the grid \[1, 2\] belongs to no setting: expected a name above it"):
        expand({"grid": [1, 2]})


def test_values_of_a_grid_that_python_takes_for_equal_are_variants_of_their_own() -> None:
    variants = expand({"clip": {"grid": [0, False, 1, True, 1.0]}})
    assert [(type(settings["clip"]), settings["clip"]) for settings in variants.values()] == [
        (int, 0),
        (bool, False),
        (int, 1),
        (bool, True),
        (float, 1.0),
    ]
    plan = plan_of(toy_study(overrides={"clip": {"grid": [0, False]}}, strategies=ONE))
    assert [plan.label(arm) for arm in plan.arms] == ["scratch clip=0", "scratch clip=false"]
    assert len(set(plan.arms)) == 2


def test_settings_become_flags_and_classes_stay_whole() -> None:
    network = {"class_path": "SeedCNN", "init_args": {"num_classes": 3}}
    callback = {"class_path": "X"}
    settings = {
        "trainer": {"max_epochs": 3, "precision": "bf16-mixed", "callbacks+": callback},
        "model.network": network,
        "data.views": {},
    }
    assert flags(settings) == {
        "trainer.max_epochs": "3",
        "trainer.precision": "bf16-mixed",
        "trainer.callbacks+": '{"class_path": "X"}',
        "model.network": '{"class_path": "SeedCNN", "init_args": {"num_classes": 3}}',
        "data.views": "{}",
    }


def test_table_has_every_strategy_at_every_size_with_every_seed() -> None:
    plan = plan_of(toy_study())
    cells = plan.final()
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * 2
    assert len(plan.tuning()) == 2 * 2 * 2
    [pretraining] = plan.pretraining()
    full = next(cell for cell in cells if cell.name == "full-size_4-seed_1")
    assert f"--init_from={pretraining.folder}/checkpoints/best.ckpt" in full.arguments
    for flag in ("--data.examples_per_class=4", "--seed_everything=1", "--data.split_seed=1", "--test_after_fit=true"):
        assert flag in full.arguments


def test_tuning_never_tests_and_never_uses_a_seed_of_the_table() -> None:
    study = toy_study()
    tuning = plan_of(study).tuning()
    assert all("--test_after_fit=false" in cell.arguments for cell in tuning)
    assert not {cell.seed for cell in tuning} & set(study.seeds)


def test_every_strategy_gets_the_same_candidates() -> None:
    tuning = plan_of(toy_study(strategies=STRATEGIES)).tuning()
    candidates = {
        strategy: sorted(
            (cell.size, cell.seed, cell.value) for cell in tuning if cell.arm and cell.arm.strategy == strategy
        )
        for strategy in STRATEGIES
    }
    assert candidates["scratch"] == candidates["full"] == candidates["gradual"]


def test_strategy_without_weights_runs_once_whatever_the_weights() -> None:
    Path("other.ckpt").write_bytes(b"weights")
    plan = plan_of(toy_study(weights={"none": None, "other": "other.ckpt"}))
    assert [plan.label(arm) for arm in plan.arms] == ["scratch", "full from none", "full from other"]
    scratch = plan.arms[0]
    assert [plan.baseline(arm) for arm in plan.arms] == [None, scratch, scratch]


def test_variants_are_compared_with_the_baseline_of_their_own() -> None:
    plan = plan_of(toy_study(overrides={"model.lr_decay": {"grid": [1.0, 2.6]}}))
    assert len(plan.arms) == 4
    for arm in plan.arms:
        baseline = plan.baseline(arm)
        assert baseline is None or (baseline.variant == arm.variant and baseline.strategy == "scratch")
    assert plan.label(plan.arms[-1]) == "full lr_decay=2.6"


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"overrides": {"data.path": {"grid": ["/v1/a", "/v1 a"]}}}, "scratch path=/v1/a", "scratch path=/v1 a"),
        ({"strategies": dict.fromkeys(("a", "b 1", "b/1"), ONE["scratch"])}, "b 1", "b/1"),
    ],
)
def test_runs_that_would_share_a_folder_are_refused(changes: dict[str, Any], first: str, second: str) -> None:
    plan = plan_of(toy_study(**{"strategies": ONE, **changes}))
    with pytest.raises(UserError, match=rf"'{first}-size_2-seed_0' and '{second}-size_2-seed_0' .* folder logs/toy/"):
        plan.final()
    with pytest.raises(UserError, match="folder logs/toy/tune-"):
        plan.tuning()


def test_pretraining_per_seed_gives_every_seed_its_own_weights() -> None:
    plan = plan_of(toy_study(weights={"source": Pretraining(["configs/quickstart.yaml"], per_seed=True)}))
    assert [cell.seed for cell in plan.pretraining()] == [0, 1, 1000]
    for cell in plan.final():
        starts = [argument for argument in cell.arguments if argument.startswith("--init_from")]
        if cell.arm and cell.arm.strategy == "full":
            assert starts == [f"--init_from=logs/toy/pretrain-source-seed_{cell.seed}/checkpoints/best.ckpt"]


def test_weights_by_a_pattern_of_the_seed() -> None:
    for seed in (0, 1, 1000):
        Path(f"weights_{seed}.ckpt").write_bytes(bytes([seed % 251]))
    cells = plan_of(toy_study(weights={"given": "weights_{seed}.ckpt"})).final()
    full = [cell for cell in cells if cell.name.startswith("full")]
    assert all(f"--init_from=weights_{cell.seed}.ckpt" in cell.arguments for cell in full)
    assert len({cell.settings["weights"] for cell in full}) == 2


def test_size_may_change_other_settings() -> None:
    cells = plan_of(toy_study(at_size={4: {"trainer": {"max_epochs": 9}}}, overrides={"trainer.max_epochs": 2})).final()
    for cell in cells:
        assert f"--trainer.max_epochs={9 if cell.size == 4 else 2}" in cell.arguments


def test_all_of_the_data_is_said_in_the_terms_of_the_size_key() -> None:
    whole_sets = {"data.train_fraction": "1.0", "data.init_args.train_fraction": "1.0"}
    for key, everything in {**whole_sets, "data.examples_per_class": "null"}.items():
        small, whole = plan_of(toy_study(sizes=[1, None], size_key=key, strategies=ONE, tuning=None, seeds=[0])).final()
        assert f"--{key}=1" in small.arguments
        assert f"--{key}={everything}" in whole.arguments


def test_all_of_the_data_parses_as_a_fraction(capsys: pytest.CaptureFixture[str]) -> None:
    [cell] = plan_of(toy_study(sizes=[None], size_key="data.train_fraction", strategies=ONE, seeds=[0])).final()
    with pytest.raises(SystemExit) as stop:
        main([*cell.arguments, "--print_config"])
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    assert yaml.safe_load(captured.out)["data"]["init_args"]["train_fraction"] == 1.0


def test_size_may_be_left_to_the_experiment() -> None:
    study = toy_study(size_key=None, sizes=[None], strategies=ONE, tuning=None, seeds=[0])
    [cell] = plan_of(study).final()
    assert cell.name == "scratch-seed_0"
    assert not any("examples_per_class" in argument for argument in cell.arguments)
    with pytest.raises(UserError, match=r"size_key of the study is null: expected what its sizes \[2, 4\] set"):
        check(toy_study(size_key=None))


def test_settings_may_name_the_folder_of_the_study_wherever_it_lies() -> None:
    study = toy_study(overrides={"data.vocabulary_path": "{study}/pretrain-source-seed_0/tokenizer.json"})
    here, there = (Plan(study, Path(logs)).tuning()[0] for logs in ("logs", "elsewhere"))
    assert "--data.vocabulary_path=logs/toy/pretrain-source-seed_0/tokenizer.json" in here.arguments
    assert here.settings == there.settings


def started(study: Study) -> Cell:
    cell = plan_of(study).tuning()[-1]
    cell.begin()
    cell.check_unchanged()
    return cell


def test_changed_override_is_noticed_and_named() -> None:
    started(toy_study(overrides={"trainer.max_epochs": 2}))
    changed = plan_of(toy_study(overrides={"trainer.max_epochs": 3})).tuning()[-1]
    with pytest.raises(UserError, match=r'was made with trainer\.max_epochs "2", and now it is "3": undo the change'):
        changed.check_unchanged()


def test_changed_config_file_is_noticed_and_named() -> None:
    started(toy_study())
    study = toy_study()
    base = Path("base.yaml")
    base.write_text("# a comment changes nothing\n" + base.read_text())
    plan_of(study).tuning()[-1].check_unchanged()
    base.write_text(base.read_text().replace("batch_size: 32", "batch_size: 16"))
    with pytest.raises(UserError, match=r"data\.init_args\.batch_size of base\.yaml 32, and now it is 16"):
        plan_of(study).tuning()[-1].check_unchanged()


def test_changed_weights_are_noticed() -> None:
    Path("given.ckpt").write_bytes(b"before")
    study = toy_study(weights={"given": "given.ckpt"})
    started(study)
    Path("given.ckpt").write_bytes(b"after")
    with pytest.raises(UserError, match="was made with other starting weights"):
        plan_of(study).tuning()[-1].check_unchanged()


def test_best_validation_is_chosen_for_each_strategy_and_size() -> None:
    study = toy_study()
    plan = plan_of(study)
    best = {("scratch", 2): 0.001, ("scratch", 4): 0.01, ("full", 2): 0.01, ("full", 4): 0.001}

    def accuracy(cell: Cell) -> float:
        assert cell.arm is not None
        return 0.6 if best[cell.arm.strategy, int(cell.size or 0)] == cell.value else 0.5

    pretend_all(plan.tuning(), accuracy)
    choices = choose(study, plan.tuning())
    assert {(arm.strategy, size): value for (arm, size), value in choices.items()} == best
    edges = at_the_edge(study, choices)
    assert {(arm.strategy, size): edge for (arm, size), edge in edges.items()} == {
        key: "lowest" if value == 0.001 else "highest" for key, value in best.items()
    }
    lr = "--model.init_args.optimizer.init_args.lr"
    for cell in plan.final(choices):
        assert cell.arm is not None
        assert f"{lr}={best[cell.arm.strategy, int(cell.size or 0)]}" in cell.arguments


def test_choice_inside_the_list_is_at_no_edge() -> None:
    study = toy_study(tuning=Tuning([0.001, 0.003, 0.01]))
    plan = plan_of(study)
    pretend_all(plan.tuning(), lambda cell: 0.9 if cell.value == 0.003 else 0.1)
    assert at_the_edge(study, choose(study, plan.tuning())) == {}


def test_values_that_are_no_numbers_have_no_edge() -> None:
    values = [False, True, {"class_path": "torch.optim.SGD"}]
    plan = plan_of(toy_study(tuning=Tuning(values, key="model.channels_last")))
    for cell in plan.tuning():
        pretend(cell, 0.5 + 0.1 * values.index(cell.value))
    choices = choose(plan.study, plan.tuning())
    assert {json.dumps(value) for value in choices.values()} == {json.dumps(values[2])}
    assert describe_edges(plan, choices) is None


def test_equal_accuracies_are_decided_by_the_loss() -> None:
    study = toy_study()
    plan = plan_of(study)
    for cell in plan.tuning():
        pretend(cell, 0.5, validation={"val/accuracy": 0.5, "val/loss": 1.0 if cell.value == 0.01 else 2.0})
    assert set(choose(study, plan.tuning()).values()) == {0.01}


def test_candidate_that_failed_is_out() -> None:
    study = toy_study()
    plan = plan_of(study)
    for cell in plan.tuning():
        if cell.value == 0.01 or (cell.size == 4 and cell.arm and cell.arm.strategy == "full"):
            cell.fail("diverged")
        else:
            pretend(cell, 0.5)
    choices = choose(study, plan.tuning())
    assert {(arm.strategy, size) for arm, size in choices} == {("scratch", 2), ("scratch", 4), ("full", 2)}
    assert set(choices.values()) == {0.001}
    assert "full-size_4-seed_0" not in [cell.name for cell in plan.final(choices)]


def test_size_that_was_not_tuned_takes_the_choice_of_the_nearest() -> None:
    study = toy_study(sizes=[1, 2, 4, 8, None], tuning=Tuning([0.001, 0.01], sizes=[2, None]))
    plan = plan_of(study)
    assert {cell.size for cell in plan.tuning()} == {2, None}
    pretend_all(plan.tuning(), lambda cell: 0.9 if (cell.size == 2) == (cell.value == 0.001) else 0.1)
    choices = choose(study, plan.tuning())
    assert [choices[plan.arms[0], size] for size in study.sizes] == [0.001, 0.001, 0.001, 0.01, 0.01]


@pytest.mark.parametrize("source", ["given.pt::teacher", "given.bin", "given"])
def test_changed_weights_are_noticed_however_they_are_named(source: str) -> None:
    file = Path(source.partition("::")[0])
    file.write_bytes(b"before")
    study = toy_study(weights={"given": source})
    started(study)
    file.write_bytes(b"after")
    with pytest.raises(UserError, match="was made with other starting weights"):
        plan_of(study).tuning()[-1].check_unchanged()


def test_folder_without_its_settings_is_named() -> None:
    study = toy_study()
    started(study)
    cell = plan_of(study).tuning()[-1]
    (cell.folder / "cell.json").write_text("{}")
    with pytest.raises(UserError, match=r"cell\.json has no settings: expected those of the run, delete"):
        cell.check_unchanged()


def test_chosen_value_comes_after_what_a_size_changes() -> None:
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.001}}
    key = "model.init_args.optimizer.init_args.lr"
    study = toy_study(at_size={2: {"model.init_args.optimizer": optimizer}})
    check(study)
    cell = next(cell for cell in plan_of(study).tuning() if cell.size == 2)
    last = [argument for argument in cell.arguments if argument.startswith("--model.init_args.optimizer")][-1]
    assert last == f"--{key}={cell.value}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "none"}, "baseline 'none' is not one of the strategies scratch, full"),
        ({"seeds": [1, 1]}, "seeds of the study has a value twice"),
        ({"tuning": Tuning([0.1], sizes=[2, 2])}, r"tuning\.sizes of the study has a value twice: \[2, 2\]"),
        ({"sizes": []}, "sizes of the study is empty"),
        ({"configs": ["no.yaml"]}, r"config 'no\.yaml' is neither a file in "),
        ({"tuning": Tuning([0.1], sizes=[])}, r"tuning\.sizes of the study is empty"),
        ({"tuning": Tuning([0.1], sizes=[3])}, r"tuning\.sizes has 3, which is not one of the study's sizes \[2, 4\]"),
        ({"at_size": {3: {}}}, "at_size has 3, which is not one of"),
        ({"at_size": {None: {}}}, "at_size has null, which is not one of"),
        ({"overrides": {"init_from": "a.ckpt"}}, "init_from is set by overrides of the study: expected it as starting"),
        ({"at_size": {4: {"init_from": "a"}}}, "init_from is set by at_size of the study"),
        (
            {"overrides": {"trainer": {"callbacks": []}}, "strategies": {"scratch": "linear_probe"}},
            "trainer.callbacks is set by overrides of the study, which would take away those of the strategy scratch",
        ),
        (
            {"overrides": {"test_after_fit": False}},
            "test_after_fit is set by overrides of the study: expected it nowhere",
        ),
        (
            {"weights": {"a": Pretraining(["quickstart"], {"seed_everything": 5})}},
            "seed_everything is set by overrides of the weights a: expected it as their seed, or per_seed",
        ),
        (
            {"overrides": {"data": {"class_path": "a.B", "init_args": {"examples_per_class": 3}}}},
            "data.init_args.examples_per_class is set by overrides and by|set by overrides and by size_key",
        ),
        (
            {
                "strategies": {"scratch": "full_discriminative"},
                "overrides": {"model": {"class_path": "a.B", "init_args": {"lr_decay": 1.0}}},
            },
            "model.init_args.lr_decay is set by overrides of the study and by its strategy scratch",
        ),
        (
            {"strategies": {"scratch": "full_discriminative"}, "overrides": {"model.lr_decay": 1.0}},
            "model.lr_decay is set by overrides of the study and by its strategy scratch, which would lose it",
        ),
        (
            {"size_key": "model.optimizer.lr"},
            r"model.init_args.optimizer.init_args.lr is set by size_key and by tuning.key of the study: expected one",
        ),
        ({"overrides": {"data.examples_per_class": {"grid": [1, 2]}}}, "set by overrides and by size_key"),
        ({"overrides": {"data": {"init_args": {"examples_per_class": 3}}}}, "set by overrides and by size_key"),
        ({"overrides": {"model.optimizer.lr": {"grid": [1, 2]}}}, "set by overrides and by tuning.key"),
        ({"at_size": {4: {"seed_everything": 1}}}, "seed_everything is set by at_size and by seed_keys"),
        ({"seed_keys": ["data.examples_per_class"]}, "set by size_key and by seed_keys"),
        (
            {"overrides": {"trainer.max_epochs": {"grid": [1, 2]}}, "at_size": {4: {"trainer.max_epochs": 3}}},
            "trainer.max_epochs is set by overrides and by at_size of the study: expected one of them",
        ),
        (
            {"overrides": {"model.lr_decay": {"grid": [1.0, 2.6]}, "model.init_args.lr_decay": 1.5}},
            "model.lr_decay is set twice by overrides of the study: expected it once",
        ),
        (
            {"overrides": {"model.lr_decay": {"grid": [1.0, 2.6]}, "model": {"lr_decay": 1.5}}},
            "model.lr_decay is set twice by overrides of the study: expected it once",
        ),
        ({"at_size": {4: {"data.size": 1, "data": {"size": 2}}}}, "data.size is set twice by at_size of the study"),
        (
            {"overrides": {"trainer.callbacks+": [A_CLASS]}, "at_size": {4: {"trainer.callbacks+": [A_CLASS]}}},
            r"trainer\.callbacks\+ is set by overrides and by at_size of the study: expected one of them",
        ),
        (
            {"strategies": {"scratch": "wise_ft"}, "overrides": {"trainer.callbacks": []}},
            "trainer.callbacks is set by overrides of the study, which would take away those of the strategy scratch",
        ),
        (
            {"strategies": {"scratch": "full"}, "overrides": {"trainer.callbacks": [A_CLASS]}},
            "trainer.callbacks is set by overrides of the study, which would take away those of the strategy scratch",
        ),
        (
            {"strategies": {"scratch": "full_discriminative"}, "overrides": {"model.lr_decay": {"grid": [1.0]}}},
            "model.lr_decay is set by overrides of the study and by its strategy scratch, which would lose it",
        ),
        ({"at_size": {4: {"model.lr_decay": {"grid": [1, 2]}}}}, "at_size 4 has a grid: move it to overrides"),
        ({"tuning": Tuning([0.1], seeds=[1])}, r"tuning\.seeds has 1, which is also a seed of the study"),
        ({"threads": 0}, "threads is 0: expected 1 or more"),
        ({"seed_keys": []}, "seed_keys of the study is empty: expected what a seed sets"),
        ({"tuning": Tuning([None, 0.1])}, r"tuning\.values has null: expected values alone"),
    ],
)
def test_mistake_in_a_study_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(toy_study(**changes))


def test_setting_of_a_size_may_be_another_at_the_others_and_be_that_of_all_the_data() -> None:
    check(toy_study(overrides={"trainer.max_epochs": 2}, at_size={4: {"trainer.max_epochs": 3}}))
    check(toy_study(strategies={"scratch": "scratch"}, overrides={"trainer.callbacks": []}))
    for key, values in (("model.lr_decay", [1, 2]), ("model.init_args", [{"lr_decay": 1.0}, {"lr_decay": 2.0}])):
        check(toy_study(strategies={"scratch": "full_discriminative"}, overrides={key: {"grid": values}}))
    study = toy_study(sizes=[2, None], at_size={None: {"trainer.max_epochs": 7}})
    check(study)
    Path("empty.yaml").write_text("{}")
    check(toy_study(strategies={"scratch": "scratch", "plain": "empty.yaml"}, at_size={4: {}}))
    found = {cell.size: "--trainer.max_epochs=7" in cell.arguments for cell in plan_of(study).final()}
    assert found == {2: False, None: True}


def test_size_that_is_not_tuned_waits_for_the_choice_of_the_nearest() -> None:
    study = toy_study(sizes=[1, 2, 3, 4], tuning=Tuning([0.001, 0.01], sizes=[1, 4]))
    plan = plan_of(study)
    for cell in plan.tuning():
        if cell.size == 1:
            pretend(cell, 1 - cell.value)
    assert {size: value for (_, size), value in choose(study, plan.tuning()).items()} == {1: 0.001, 2: 0.001}
    for cell in plan.tuning():
        if cell.size == 4:
            pretend(cell, cell.value)
    assert {size: value for (_, size), value in choose(study, plan.tuning()).items()} == {
        1: 0.001,
        2: 0.001,
        3: 0.01,
        4: 0.01,
    }


def test_setting_that_became_an_empty_list_is_a_change() -> None:
    file = Path("own.yaml")
    file.write_text("trainer: {max_epochs: 1}")
    pretend(plan_of(toy_study(strategies={"scratch": "own.yaml"})).tuning()[0], 0.5)
    file.write_text("trainer: {max_epochs: 1, callbacks: []}")
    with pytest.raises(UserError, match=r"was made with trainer\.callbacks of own\.yaml null, and now it is \[\]"):
        plan_of(toy_study(strategies={"scratch": "own.yaml"})).tuning()[0].check_unchanged()


def test_results_without_their_settings_are_not_taken() -> None:
    cell = plan_of(toy_study()).tuning()[0]
    pretend(cell, 0.5)
    (cell.folder / "cell.json").unlink()
    with pytest.raises(
        UserError, match=r"has results, and no cell\.json that says of which settings: restore that, or"
    ):
        cell.check_unchanged()


def test_field_that_is_left_empty_is_named() -> None:
    source = ["configs/quickstart.yaml"]
    for name, changes in {
        "overrides": {"overrides": None},
        "strategies": {"strategies": None},
        "at_size": {"at_size": None},
        "seed_keys": {"seed_keys": None},
        "tuning.key": {"tuning": {"values": [0.1], "key": None}},
        "weights.source.overrides": {"weights": {"source": {"configs": source, "overrides": None}}},
    }.items():
        Path("study.yaml").write_text(yaml.safe_dump({"name": "toy", "configs": source, **changes}))
        with pytest.raises(UserError, match=rf"^{name} of the study is null: give a value, or leave the line out"):
            read_study(["--config", "study.yaml"])
    Path("study.yaml").write_text(yaml.safe_dump({"name": "toy", "configs": source, "weights": None}))
    with pytest.raises(UserError, match="weights of the study is empty"):
        read_study(["--config", "study.yaml"])


def test_config_that_is_no_text_is_named() -> None:
    Path("picture.yaml").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match=r"picture\.yaml is no text in UTF-8: expected a config in YAML"):
        plan_of(toy_study(strategies={"scratch": "picture.yaml"}))


def test_missing_weights_are_named() -> None:
    plan = plan_of(toy_study(weights={"given": "nowhere.ckpt"}))
    with pytest.raises(UserError, match=r"starting weights 'nowhere\.ckpt' of the study cannot be read: No such file"):
        plan.tuning()


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "configs" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_study_composes_with_and_without_weights(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = file.read_text().split("\nname:")[0]
    for word in ("Question", "Command", "Result"):
        assert re.search(rf"^# {word}: +\S", head, re.MULTILINE), word
    study, options = read_study(["--config", str(file)])
    assert study.name == file.stem
    plan = Plan(study, options["logs"])
    first, last = plan.tuning()[0], plan.tuning()[-1]
    assert first.arm == plan.arms[0]
    assert last.arm == plan.arms[-1]
    for cell in [*plan.pretraining(), first, last]:
        with pytest.raises(SystemExit) as stop:
            main([*cell.arguments, "--print_config"])
        assert stop.value.code == 0, capsys.readouterr().err
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["experiment"] == study.name
        if cell.kind == "tuning":
            assert printed["model"]["init_args"]["optimizer"]["init_args"]["lr"] == cell.value
            section, *path, name = study.size_key.split(".") if study.size_key else ["data", None]
            part = printed[section]["init_args"]
            for key in path:  # of the data of a task
                part = part[key]["init_args"] if key != "tasks" else part[key]
            assert (part[name] if name else None) == cell.size
