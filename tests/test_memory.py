"""Freed memory is kept: a second round of the same tensors maps no page."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from fedinverse.memory import keep_freed_memory
assert keep_freed_memory() == {kept}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(12_000_000).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_tensors_of_the_step_before_are_used_again() -> None:
    run = subprocess.run([sys.executable, "-c", STEPS.format(kept=True)], capture_output=True, text=True, check=True)
    pages = 12_000_000 * 4 // 4096
    assert int(run.stdout) < pages  # unkept: 16 times as many
