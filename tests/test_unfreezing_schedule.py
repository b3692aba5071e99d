"""Schedules as pure data: what each phase trains, when it ends, which mistakes are named."""

import math

import pytest
import torch

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.phases import preset_phases, resolve_phases, trainable_groups
from lightning_transfer.transfer.schedule import Phase, Plateau, Position, Until, parse_phases
from lightning_transfer.transfer.training_length import TrainingLength

NAMES = ["stem", "block1", "block2", "head"]
EPOCH = Until(epochs=1)


def trained(schedule: str) -> list[list[str]]:
    phases = preset_phases(schedule, NAMES, EPOCH)
    return [sorted(trainable_groups(phases, index), key=NAMES.index) for index in range(len(phases))]


def test_linear_probe_trains_the_head_and_full_trains_everything() -> None:
    assert trained("linear_probe") == [["head"]]
    assert trained("full") == [NAMES]


def test_gradual_thaws_from_the_head_down() -> None:
    assert trained("gradual") == [["head"], ["block2", "head"], ["block1", "block2", "head"], NAMES]


def test_chain_trains_the_head_then_one_group_at_a_time_then_everything() -> None:
    assert trained("chain") == [["head"], ["stem"], ["block1"], ["block2"], NAMES]


def test_only_the_last_phase_of_a_named_schedule_has_no_end() -> None:
    phases = preset_phases("gradual", NAMES, EPOCH)
    assert [phase.until for phase in phases] == [EPOCH, EPOCH, EPOCH, None]


def test_explicit_phases_add_up_unless_only() -> None:
    phases = parse_phases(
        [
            {"groups": ["head"], "until": {"epochs": 1}},
            {"groups": ["block*"], "until": {"steps": 3}},
            {"groups": ["stem"], "only": True, "until": {"fraction": 0.5}},
            {"groups": ["head"]},
        ]
    )
    phases = resolve_phases(phases, NAMES)
    assert [trainable_groups(phases, index) for index in range(4)] == [
        {"head"},
        {"head", "block1", "block2"},
        {"stem"},
        {"stem", "head"},
    ]


@pytest.mark.parametrize(
    ("until", "start", "now", "reached"),
    [
        (Until(epochs=1), (0, 0, 0), (0, 9, 9), False),
        (Until(epochs=1), (0, 0, 0), (1, 0, 10), True),
        (Until(epochs=1), (0, 4, 4), (1, 3, 13), False),
        (Until(epochs=1), (0, 4, 4), (1, 4, 14), True),
        (Until(epochs=1), (0, 8, 8), (2, 0, 14), True),
        (Until(steps=5), (0, 2, 2), (0, 6, 6), False),
        (Until(steps=5), (0, 2, 2), (0, 7, 7), True),
        (Until(fraction=0.25), (0, 0, 10), (3, 0, 34), False),
        (Until(fraction=0.25), (0, 0, 10), (3, 0, 35), True),
        (Until(fraction=0.001), (0, 0, 0), (0, 0, 0), False),
        (Until(epochs=3, steps=2), (0, 0, 0), (0, 2, 2), True),
        (Until(plateau=Plateau("val/loss")), (0, 0, 0), (99, 0, 999), False),
    ],
)
def test_a_phase_ends_by_what_has_passed_since_its_start(until: Until, start, now, reached: bool) -> None:  # type: ignore[no-untyped-def]
    assert until.is_reached(Position(*start), Position(*now), total_steps=100) is reached


def test_phase_starts_are_known_up_to_a_plateau() -> None:
    phases = [Phase(["a"], EPOCH), Phase(["b"], Until(plateau=Plateau("x", mode="min"))), Phase(["c"])]
    length = TrainingLength(total_steps=100, steps_per_epoch=10)
    assert length.phase_starts(phases) == [0, 10, math.inf]
    assert length.phase_starts([Phase(["a"], EPOCH), Phase(["b"], EPOCH), Phase(["c"])]) == [0, 10, 20]


def test_improvement_follows_mode_and_min_delta_and_is_never_not_a_number() -> None:
    lower, higher = Plateau("x", min_delta=0.1, mode="min"), Plateau("x", mode="max")
    assert lower.is_improvement(1.0, None)
    assert lower.is_improvement(0.8, 1.0)
    assert not lower.is_improvement(0.95, 1.0)
    assert higher.is_improvement(1.1, 1.0)
    assert not higher.is_improvement(1.0, 1.0)
    assert not Plateau("x", mode="min").is_improvement(1.0, 1.0)
    assert not Plateau("x", mode="max", min_delta=0.1).is_improvement(1.05, 1.0)
    assert not lower.is_improvement(math.nan, None)
    assert not lower.is_improvement(math.nan, 1.0)


def test_slanted_triangular_rises_for_a_tenth_and_falls_to_a_thirty_second() -> None:
    phase = Phase(["head"], lr_schedule="slanted_triangular")
    factors = [phase.learning_rate_factor(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 32)
    assert factors[10] == max(factors) == 1.0
    assert factors[100] == pytest.approx(1 / 32)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_one_cycle_equals_torchs_one_cycle() -> None:
    phase = Phase(["head"], lr_schedule="one_cycle", lr_multiplier=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=50, cycle_momentum=False)
    for step in range(50):
        assert phase.learning_rate_factor(step, 50) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 49:
            scheduler.step()


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([], "phases is empty"),
        ([{"groups": []}], "phase 1: groups is empty"),
        ([{"until": {"epochs": 1}}], "phase 1: groups is missing"),
        ([{"groups": ["hed"]}], "phase 1: layer group 'hed' is not one of stem, block1, block2, head"),
        ([{"groups": ["head"], "unitl": {"epochs": 1}}], "phase 1: unknown key 'unitl': expected groups, until, only"),
        ([{"groups": ["head"], "until": {"epoch": 1}}], "phase 1: until: unknown key 'epoch': expected epochs, steps"),
        ([{"groups": ["head"], "until": {}}], "phase 1: until is empty"),
        ([{"groups": ["head"], "until": {"epochs": 0}}], "phase 1: until: epochs is 0: expected a whole number"),
        ([{"groups": ["head"], "until": {"fraction": 10}}], "phase 1: until: fraction is 10: expected a share"),
        ([{"groups": ["head"], "until": {"plateau": {}}}], "phase 1: until: plateau: monitor is missing"),
        ([{"groups": ["head"], "until": {"plateau": {"monitor": "x", "mode": "up"}}}], "mode is 'up'"),
        ([{"groups": ["head"]}, {"groups": ["stem"]}], "phase 1 never ends"),
        ([{"groups": ["head"], "until": {"epochs": 1}}], "phase 1 is the last and runs until training ends"),
        ([{"groups": ["head"], "until": {"epochs": 1}}, {"groups": ["head"]}], "phase 2 trains what the phase before"),
        ([{"groups": ["head"], "lr_multiplier": 2}], "phase 1: lr_multiplier is 2: expected"),
        ([{"groups": ["head"], "lr_schedule": "wave"}], "phase 1: lr_schedule is 'wave'"),
        (["head"], "phase 1 is 'head': expected a mapping"),
    ],
)
def test_a_mistake_in_a_phase_is_named_with_its_number(phases, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=message):
        resolve_phases(parse_phases(phases), NAMES)
