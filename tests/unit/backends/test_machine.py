"""The name of the processor, by which results are told apart."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ppo37 import machine

GRAVITON = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

processor\t: 1
"""


@pytest.fixture(autouse=True)
def forgotten() -> None:
    machine.cpu_name.cache_clear()


def test_arm_processors_are_told_apart_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: GRAVITON)
    assert machine.cpu_name() == "0x41 0xd0c 0x3 1"


def test_the_name_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "machdep.cpu.brand_string"
        return subprocess.CompletedProcess(command, 0, "Apple M2\n")

    monkeypatch.setattr(machine, "cpu_info", dict)
    monkeypatch.setattr(subprocess, "run", run)
    assert machine.cpu_name() == "Apple M2"


def test_a_processor_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_info", dict)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.cpu_name() == "unknown"
