"""Two processes with gloo: replicas stay equal over transitions, and only what trains is reduced."""

from typing import Any

import pytest
import torch
from launching import run_ranks
from unfreezing_replicas import SCENARIOS, run

pytestmark = pytest.mark.slow  # starts two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two ranks saw in each scenario."""
    return run_ranks("unfreezing_replicas.py", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_ranks_hold_equal_weights_before_every_batch_and_at_the_end(ranks: Any, scenario: str) -> None:
    first, second = ranks[0][scenario], ranks[1][scenario]
    assert first["trainable"] == second["trainable"]
    assert len({frozenset(names) for names in first["trainable"]}) >= 3, "two transitions are needed to test anything"
    for ours, theirs in zip(first["weights"], second["weights"], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_ranks_train_as_one_process_on_the_same_global_batches(ranks: Any, scenario: str) -> None:
    alone = run(scenario)
    assert alone["trainable"] == ranks[0][scenario]["trainable"]
    for ours, theirs in zip(alone["weights"], ranks[0][scenario]["weights"], strict=True):
        assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_step_reduces_the_bytes_of_its_trainable_parameters(ranks: Any, scenario: str) -> None:
    result = ranks[0][scenario]
    parameters = result["weights"][0]
    accumulate = SCENARIOS[scenario].get("trainer", {}).get("accumulate_grad_batches", 1)
    expected = [
        sum(4 * parameters[name].numel() for name in names) if batch % accumulate == accumulate - 1 else 0
        for batch, names in enumerate(result["trainable"])
    ]
    assert result["bytes"] == expected


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_wrapper_of_an_earlier_phase_is_freed(ranks: Any, scenario: str) -> None:
    assert set(ranks[0][scenario]["alive"]) == {1}


def test_resume_on_two_ranks_equals_the_uninterrupted_run(ranks: Any) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["resume"]["resumed"], rank["resume"]["uninterrupted"], rtol=0, atol=0)
