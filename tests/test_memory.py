"""Freed memory is kept: a second round of the same tensors maps no page."""

import platform
import subprocess
import sys

STEPS = """
import resource, torch
from fedinverse.machine import keep_freed_memory
assert keep_freed_memory() == {kept}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(12_000_000).add(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_tensors_of_the_step_before_are_used_again() -> None:
    switch = platform.libc_ver()[0] == "glibc"  # elsewhere it says that it did nothing
    run = subprocess.run([sys.executable, "-c", STEPS.format(kept=switch)], capture_output=True, text=True, check=True)
    pages = 12_000_000 * 4 // 4096
    assert int(run.stdout) < 4 * pages or not switch  # a tensor may find its place late; unkept, all 16 map theirs
