"""The calculation of docs/scaling.md."""

import subprocess
import sys

from conftest import REPOSITORY

PHASES = [("head", 162.1, 0.2), ("layer4", 384.1, 32.22), ("layer3", 391.3, 40.22)]
PHASES += [("layer2", 487.4, 42.23), ("layer1", 590.3, 42.79), ("stem", 540.4, 42.83)]


def scaling(*arguments: str) -> list[str]:
    given = [word for phase in PHASES for word in ("--phase", *map(str, phase))]
    command = [sys.executable, str(REPOSITORY / "scripts" / "scaling"), *given, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_tables_in_the_documentation_are_what_the_script_prints() -> None:
    page = (REPOSITORY / "docs" / "scaling.md").read_text()
    ethernet = ["--devices-per-node", "1", "--network-gib-per-second", "1", "--network-latency-us", "50"]
    for arguments in (["--step-factor", "0.032"], ["--step-factor", "0.002"], ethernet):
        assert "\n".join(scaling(*arguments)) in page


def test_efficiency_is_whole_on_one_device_and_as_promised_at_the_step_that_is_needed() -> None:
    assert all("100%" in line for line in scaling("--devices", "1", "--step-factor", "0.002")[2:])
    *_, needed = scaling("--devices", "64")[-1].split()
    factor = str(float(needed) / PHASES[-1][1])
    assert scaling("--devices", "64", "--step-factor", factor)[-1].split()[3] == "90%"
