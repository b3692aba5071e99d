"""What an installation rests on: the constraints of the release, the files of the image, and the exit statuses."""

import re
import tomllib

from conftest import REPOSITORY
from packaging.requirements import Requirement

from lightning_transfer.cluster.signals import SIGNALS

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONSTRAINTS = f"docs/constraints/{PROJECT['version']}.txt"
PAGE = (REPOSITORY / "docs" / "install.md").read_text()


def test_constraints_of_the_release_have_names_and_versions_alone_and_fit_the_requirements() -> None:
    lines = (REPOSITORY / CONSTRAINTS).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    versions = dict(line.split("==") for line in lines)
    extras = PROJECT["optional-dependencies"]
    of_users = [text for extra, texts in extras.items() if extra not in ("dev", "docs") for text in texts]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *of_users]):
        assert versions[requirement.name] in requirement.specifier, requirement


def test_image_takes_files_that_exist_and_the_constraints_of_the_release() -> None:
    text = (REPOSITORY / "scripts" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
    assert len(copied) == 4
    assert [name for names in copied for name in names.split() if not (REPOSITORY / name).exists()] == []
    assert f"/source/{CONSTRAINTS} " in text
    assert f" {CONSTRAINTS} " in PAGE


def test_page_has_the_status_of_each_signal() -> None:
    for status in (0, 1, 2, *(128 + signum for signum in SIGNALS)):
        assert f"\n| {status} |" in PAGE
