"""Two processes with gloo: replicas of every family of pretrained networks stay equal over a transition."""

from pathlib import Path

import pytest
import torch
from backbones import TIMM, TRANSFORMERS, timm_network, transformer
from launching import run_ranks


@pytest.mark.slow
def test_replicas_of_every_family_are_equal_and_trained(tmp_path: Path) -> None:
    first, second = run_ranks("backbone_replicas.py", tmp_path)
    assert set(first) == {*TIMM, *TRANSFORMERS}
    for name, weights in first.items():
        network = timm_network(name) if name in TIMM else transformer(name)
        before, parameters = network.state_dict(), dict(network.named_parameters())
        # A norm layer's statistics are those of the rank's own batches.
        changed = [key for key in parameters if not torch.equal(before[key], weights[f"network.{key}"])]
        assert 2 < len(changed) < len(parameters), name
        for key in parameters:
            assert torch.equal(weights[f"network.{key}"], second[name][f"network.{key}"]), (name, key)
