"""Makes an environment for each peer, which shares torch with this one, and tells the versions in it."""

import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

# Packages by peer; the first names the version that is shown.
REQUIREMENTS = {
    "fastai": ["fastai", "transformers"],
    "transformers": ["transformers[torch]", "datasets"],
    "timm": ["timm"],
    "lightning": ["lightning", "finetuning-scheduler", "transformers", "datasets"],
}
TIMM = "pytorch-image-models"  # the repository with timm's train script, which its package lacks


def python_of(peer: str, folder: Path) -> Path | None:
    """Finds the interpreter of a peer, and makes its environment where it lacks.

    Args:
        peer: Name of the peer; that of this package has this environment.
        folder: Folder of all environments.

    Returns:
        The interpreter, or None with a printed reason where the train script of timm lacks.
    """
    if peer not in REQUIREMENTS:
        return Path(sys.executable)
    if peer == "timm" and not (folder / TIMM / "train.py").is_file():
        print(f"timm is left out: git clone https://github.com/huggingface/{TIMM} {folder / TIMM}")
        return None
    place = folder / peer
    python = place / "bin" / "python"
    if not (done := place / "installed").exists():
        venv.create(place, with_pip=True, clear=True)
        # pip finds what this environment has, torch above all, and adds what the peer needs beside it.
        site = sysconfig.get_path("purelib", vars={"base": str(place)})
        Path(site, "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pins = [f"{name}=={public_version(name)}\n" for name in ("torch", "torchvision")]
        (place / "constraints.txt").write_text("".join(pins))
        install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(place / "constraints.txt")]
        subprocess.run([*install, *REQUIREMENTS[peer]], check=True)
        done.touch()
    return python


def public_version(package: str) -> str:
    """Returns a version without the local part, such as ``+cu130``, which no index may have."""
    return version(package).partition("+")[0]


def versions(peer: str, python: Path, folder: Path) -> str:
    """Tells the versions of a peer's packages, as an environment's interpreter finds them."""
    if peer == "timm":  # the script takes the package that lies beside it
        found = re.search(r"__version__ = '(.*)'", (folder / TIMM / "timm" / "version.py").read_text())
        return f"timm {found[1] if found else '?'}"
    names = [requirement.partition("[")[0] for requirement in REQUIREMENTS.get(peer, ["lightning-transfer"])]
    code = "import sys; from importlib.metadata import version; print(*(f'{n} {version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", code, *names], capture_output=True, text=True, check=True)
    return done.stdout.strip()
