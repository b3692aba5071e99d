"""Preparing on a login node what runs on a compute node need."""

from pathlib import Path

import pytest
from conftest import fit_arguments

from lightning_transfer.cli.entry import main


def test_run_finds_all_that_was_prepared(image_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(cache))

    def files() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"}

    arguments = fit_arguments(image_folder)[1:]
    main(["prepare", *arguments])
    assert not Path("logs").exists()
    prepared = files()
    assert prepared
    main(["fit", *arguments, "--test_after_fit", "true"])
    assert files() == prepared


def test_prepare_needs_no_accelerator(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "CIFAR10", "--data.path", str(image_folder), "--model.network", "SeedCNN"]
    main(["prepare", "--config", "configs/hardware/fsdp.yaml", *data])
    assert "prepared: " in capsys.readouterr().out


def test_language_model_is_prepared_without_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", "--config", "configs/quickstart_lm.yaml"])
    assert "prepared: " in capsys.readouterr().out
