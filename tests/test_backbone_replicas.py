"""Two processes with gloo: replicas of every family of pretrained networks stay equal over a transition."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backbones import TIMM, TRANSFORMERS, timm_network, transformer

HERE = Path(__file__).parent


@pytest.mark.slow
def test_replicas_of_every_family_are_equal_and_trained(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", HERE / "backbone_replicas.py", tmp_path],
            env={**os.environ, **shared, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "LOCAL_RANK": str(rank)},
            cwd=tmp_path,
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
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert set(first) == {*TIMM, *TRANSFORMERS}
    for name, weights in first.items():
        network = timm_network(name) if name in TIMM else transformer(name)
        before, parameters = network.state_dict(), dict(network.named_parameters())
        # A norm layer's statistics are those of the rank's own batches.
        changed = [key for key in parameters if not torch.equal(before[key], weights[f"network.{key}"])]
        assert 2 < len(changed) < len(parameters), name
        for key in parameters:
            assert torch.equal(weights[f"network.{key}"], second[name][f"network.{key}"]), (name, key)
