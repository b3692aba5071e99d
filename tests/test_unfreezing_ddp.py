"""Two processes with gloo: replicas stay equal over transitions, and only what trains is reduced."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from unfreezing_replicas import SCENARIOS, run

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow  # starts two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two ranks saw in each scenario."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", HERE / "unfreezing_replicas.py", folder],
            env={**shared, "LOCAL_RANK": str(rank)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


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
