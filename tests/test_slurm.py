"""On a real SLURM: jobs of several tasks, requeues in mid-epoch, arrays."""

import pytest
from slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm


def test_cluster_runs_the_tasks_of_a_job(slurm: SlurmCluster) -> None:
    assert slurm.run("srun", "--ntasks=2", "printenv", "SLURM_NTASKS").splitlines() == ["2", "2"]
