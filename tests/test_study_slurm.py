"""A study on a real SLURM: the same table as in this process, jobs found again, dead ones noticed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY
from slurm_cluster import SlurmCluster
from study_toys import pretend, toy_study
from submitit.slurm.slurm import SlurmExecutor
from test_study import small, table

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.study import slurm as launcher
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Study
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.session import run_unfinished

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
JOBS = {"timeout_min": 20, "slurm_partition": "test", "cpus_per_task": 1}


@pytest.fixture
def on_slurm(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """Lets this process submit to the cluster."""
    for name in ("SLURM_CONF", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.3)
    return slurm


@pytest.mark.usefixtures("on_slurm")
def test_jobs_give_the_same_results_as_this_process() -> None:
    study = small(slurm={**JOBS, "cells_per_job": 2, "slurm_array_parallelism": 2}, seeds=[0], tuning=None)
    main([*study, "--workers", "0", "--logs", "here"])
    main([*study, "--launcher", "slurm"])
    assert len(table()) == 1 + 2
    assert table() == table("here")
    jobs = json.loads(Path("logs/toy/slurm/jobs.json").read_text())
    assert len(set(jobs.values())) == 2  # the pretraining, and both runs


def cells() -> list[Cell]:
    plan = Plan(toy_study(sizes=[2], seeds=[0], tuning=None, weights={"none": None}), Path("logs"))
    plan.folder.mkdir(parents=True)
    return plan.final()


def numbers(cluster: SlurmCluster) -> set[str]:
    """Of all jobs that the cluster has seen."""
    return set(cluster.run("squeue", "--noheader", "--array", "--states=all", "--format=%i").split())


def test_jobs_of_an_interrupted_study_are_found_again(on_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    found, folder = cells(), Path("logs/toy/slurm")
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_wait", lambda *_: iter(()))  # as if the study had been killed now
        list(launcher.run_on_slurm(found, folder, JOBS, 1))
    jobs = json.loads((folder / "jobs.json").read_text())
    assert [cell.name for cell, _ in launcher.run_on_slurm(found, folder, JOBS, 1)] != []
    assert json.loads((folder / "jobs.json").read_text()) == jobs
    assert all(cell.is_finished for cell in found)


def test_study_killed_while_it_submits_finds_its_jobs_again(
    on_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit_and_die(
        executor: SlurmExecutor, jobs: Any, submit: Any = SlurmExecutor._internal_process_submissions
    ) -> Any:
        submit(executor, jobs)
        raise KeyboardInterrupt

    found, folder = cells(), Path("logs/toy/slurm")
    before = numbers(on_slurm)
    with monkeypatch.context() as patch:
        patch.setattr(SlurmExecutor, "_internal_process_submissions", submit_and_die)
        with pytest.raises(KeyboardInterrupt):
            list(launcher.run_on_slurm(found, folder, JOBS, 1))
    submitted = numbers(on_slurm) - before
    assert len(submitted) == 2
    assert {cell.name for cell, _ in launcher.run_on_slurm(found, folder, JOBS, 1)} == {cell.name for cell in found}
    assert numbers(on_slurm) - before == submitted
    assert all(cell.is_finished for cell in found)


def test_single_job_is_found_again(on_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    found, folder = cells()[:1], Path("logs/toy/slurm")  # no array, whose jobs are named in another way
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_wait", lambda *_: iter(()))
        list(launcher.run_on_slurm(found, folder, JOBS, 1))
    before = numbers(on_slurm)
    assert [cell.name for cell, _ in launcher.run_on_slurm(found, folder, JOBS, 1)] == [found[0].name]
    assert numbers(on_slurm) == before


def test_job_that_ends_without_a_result_is_a_failed_run(
    on_slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 1.0)
    found, folder = cells()[:1], Path("logs/toy/slurm")

    def cancel_and_wait(waiting: list[Cell], jobs: dict[str, str], wait: Any = launcher._wait) -> Any:
        on_slurm.run("scancel", *(f"--name={job.rpartition('_')[0]}" for job in jobs.values()))
        return wait(waiting, jobs)

    monkeypatch.setattr(launcher, "_wait", cancel_and_wait)
    [(cell, _)] = launcher.run_on_slurm(found, folder, JOBS, 1)
    assert "ended without a result" in str(cell.failure)


def test_job_that_squeue_misses_now_and_then_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    sleep = lambda seconds: clock.append(clock[-1] + seconds)  # noqa: E731
    monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=lambda: clock[-1], sleep=sleep))
    [cell] = cells()[:1]

    def queue(jobs: set[str]) -> set[str]:
        if len(clock) == 40:
            pretend(cell, 0.5)
        return set() if len(clock) in (1, 30) or cell.is_finished else jobs

    monkeypatch.setattr(launcher, "_queue", queue)
    assert list(launcher._wait([cell], {cell.name: "toy_0"})) == [(cell, 2.0)]
    assert not (cell.folder / "failed.json").exists()
    cell.forget()
    del clock[1:]
    monkeypatch.setattr(launcher, "_queue", lambda jobs: set())
    assert list(launcher._wait([cell], {cell.name: "toy_0"})) == [(cell, 0.0)]
    assert launcher.GRACE_SECONDS < clock[-1] <= launcher.GRACE_SECONDS + launcher.POLL_SECONDS


def test_what_slurm_needs_is_said_of_the_option_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^--launcher slurm needs SLURM's own commands"):
        launcher._queue({"toy_0"})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^--launcher slurm needs submitit, .* 'lightning-transfer\[slurm\]'"):
        run_unfinished(Plan(Study("toy", ["configs/quickstart.yaml"], baseline="scratch"), Path("logs")), 1, "slurm")
    assert not Path("logs").exists()


@pytest.mark.usefixtures("on_slurm")
def test_unknown_parameter_of_the_jobs_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*small(slurm={"partition_of_slurm": "test"}), "--launcher", "slurm"])
    [line] = capsys.readouterr().err.splitlines()
    assert "slurm of the study" in line
    assert "partition_of_slurm" in line
