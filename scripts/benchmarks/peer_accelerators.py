"""Has the programs of peers run on one CPU thread, or on one GPU with all cores, and watches the memory of that GPU."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

MOST_WORKERS = 16
# What a program says for one CPU thread -> what its library's guide says for a GPU, bfloat16 and that many workers.
ON_GPU = {
    "--trainer.accelerator cpu": "--config hardware/gpu",  # lightning-transfer, which needs no workers
    "trainer.accelerator: cpu": "trainer.accelerator: gpu\n  trainer.precision: bf16-mixed",  # its study
    "use_cpu=True": "bf16=True, dataloader_num_workers={workers}",  # transformers
    'accelerator="cpu"': 'accelerator="gpu", precision="bf16-mixed"',  # lightning
    " batch_size=": " num_workers={workers}, persistent_workers=True, pin_memory=True, batch_size=",  # its loaders
    "metrics=accuracy)": "metrics=accuracy).to_bf16()",  # fastai
    "num_workers=0": "num_workers={workers}",  # its loaders
    "--workers 1 --device cpu": "--workers {workers} --device cuda --amp --amp-dtype bfloat16",  # timm
}
SAMPLES = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop-ms=100", "--id"]


def rewritten(program: str, accelerator: str) -> str:
    """Puts what a GPU needs into a program; for the CPU it stays as it is."""
    if accelerator == "gpu":
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
        for words, others in ON_GPU.items():
            program = program.replace(words, others.format(workers=workers))
    return program


def variables(accelerator: str) -> dict[str, str]:
    """Returns the environment variables that hold a program to one CPU thread, or to the first visible GPU."""
    if accelerator == "cpu":
        return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": first_gpu()}


def first_gpu() -> str:
    """Returns the number or name of the first GPU that this process may use."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


@contextlib.contextmanager
def watched_memory(accelerator: str) -> Iterator[list[int]]:
    """Samples the memory of the GPU, that of all its processes, while a block runs.

    Yields:
        A list that has the samples in MiB once the block has ended; none on a CPU or without ``nvidia-smi``.
    """
    samples: list[int] = []
    if accelerator == "cpu" or not shutil.which(SAMPLES[0]):
        yield samples
        return
    with tempfile.TemporaryFile("w+") as told:
        sampler = subprocess.Popen([*SAMPLES, first_gpu()], stdout=told)
        try:
            yield samples
        finally:
            sampler.terminate()
            sampler.wait()
            told.seek(0)
            samples += [int(line) for line in told if line.strip().isdigit()]
