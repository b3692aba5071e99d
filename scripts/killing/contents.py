"""What a command has left in its folder, and where that differs from what another has left."""

import csv
import hashlib
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from killing.commands import TRAININGS

EQUIVALENCE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "equivalence"))
# Values that no two runs have in common: how long something took, and how the run was started.
OWN = re.compile(r"seconds|per_second|pareto|[.](ckpt_path|resume)$|results[.]json[.]command$")
NAMES_ALONE = (".lock", ".txt", ".html", ".svg", ".md")  # of a training: logs, and pages that say how long it took
Content = dict[str, Any]  # a value by the name of its file, and by its place in that


def is_part(path: Path) -> bool:
    """Says whether a path is that of something that is being written, or lies in such a folder."""
    return any(name.endswith((".partial", ".earlier", ".incomplete")) for name in path.parts)


def files_below(folder: Path) -> Iterator[Path]:
    """Finds what a command has written, but for its output."""
    for file in sorted(folder.rglob("*")):
        if (
            file.is_file()
            and file.name != "output.txt"
            and not any(path.is_symlink() for path in (file, *file.parents))
        ):
            yield file


def by_folder(content: Content) -> dict[str, Content]:
    """Groups files by the folder that they are in, but for parts and locks."""
    found: dict[str, Content] = {}
    for name, value in content.items():
        if not is_part(Path(name)) and not name.endswith(".lock"):
            found.setdefault(str(Path(name).parent), {})[Path(name).name] = value
    return found


def damaged_files(folder: Path) -> Iterator[str]:
    """Names checkpoints, records and configs that cannot be read."""
    import yaml

    from lightning_transfer.transfer.damage import damage_of

    for file in files_below(folder):
        if is_part(file):
            continue
        try:
            if file.suffix == ".ckpt" and (damage := damage_of(file)):
                yield f"{file.name} {damage}"
            elif file.suffix in (".json", ".yaml"):
                yaml.safe_load(file.read_text())
        except (ValueError, yaml.YAMLError):
            yield f"{file.relative_to(folder)} is damaged"


def content_of(name: str, folder: Path) -> Content:
    """Reads what a command has left, value by value for a training, else byte by byte."""
    found: Content = {}
    for file in files_below(folder):
        path = str(file.relative_to(folder))
        if name not in TRAININGS:
            found[path] = None if path.endswith(".lock") else digest_of(file)
        elif "tfevents" in file.name:
            found |= curves_of(file.parent, path.removesuffix(file.name))
        else:
            found[path] = None
            leaves = EQUIVALENCE["leaves"](values_of(file), path)
            found |= {place: leaf for place, leaf in leaves if not OWN.search(place)}
    return found


def digest_of(file: Path) -> str:
    """Returns a digest of the bytes; of safetensors whatever the order of the metadata is, in which it writes any."""
    content = file.read_bytes()
    if file.suffix == ".safetensors":
        end = 8 + int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
    return hashlib.sha256(content).hexdigest()


def values_of(file: Path) -> Any:
    """Reads a file of a training."""
    import torch
    import yaml

    if file.suffix == ".ckpt":
        return torch.load(file, map_location="cpu", weights_only=True)
    if file.suffix == ".json":
        return json.loads(file.read_text())
    if file.suffix == ".yaml":
        return yaml.safe_load(file.read_text())
    if file.suffix == ".csv":
        return list(csv.DictReader(file.open(newline="")))
    return None if file.suffix in NAMES_ALONE else file.read_bytes()


def curves_of(folder: Path, path: str) -> Content:
    """Reads all curves that TensorBoard shows of a run, but for its speed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not (tag.startswith("speed/") or OWN.search(tag))]
    return {f"{path}curves.{tag}": [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def difference(expected: Content, found: Content) -> str:
    """Says where two results differ: "" if they are equal."""
    differing = [
        name
        for name in {**expected, **found}
        if name not in expected or name not in found or not EQUIVALENCE["are_equal"](expected[name], found[name])
    ]
    return f"{len(differing)} values differ: {', '.join(differing[:5])}" if differing else ""
