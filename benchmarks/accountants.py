"""Epsilon by our accountant beside Google's dp-accounting, by Renyi divergence and by privacy loss distributions.

dp-accounting pins versions of its own dependencies that others here refuse: it is asked in an environment of its own.

    python3 -m venv DIR && DIR/bin/pip install dp-accounting
    python benchmarks/accountants.py DIR/bin/python

The reference values in tests/test_accounting.py are what this prints.
"""

import subprocess
import sys

from fedinverse.accounting import spent_epsilon

# noise multiplier, sample rate, steps, delta
CASES = (
    (0.5, 0.05, 200, 1e-5),
    (1.0, 0.25, 40, 1e-5),
    (2.0, 0.25, 40, 1e-5),
    (0.8, 0.016, 500, 1e-5),
    (1.0, 1.0, 10, 1e-5),
    (4.0, 1.0, 50, 1e-6),
    (0.3, 0.1, 12, 1e-4),
    (10.0, 0.5, 1000, 1e-5),
)
REFERENCE = """
import sys
import dp_accounting as dp
from dp_accounting import pld, rdp
noise, rate, steps, delta = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
event = dp.GaussianDpEvent(noise)
event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, event) if rate < 1 else event, steps)
for accountant in (rdp.RdpAccountant(), pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-3)):
    print(accountant.compose(event).get_epsilon(delta))
"""


def main(python: str) -> None:
    """Print a table."""
    print(f"{'noise':>6} {'rate':>6} {'steps':>6} {'delta':>7} {'ours':>9} {'their RDP':>9} {'their PLD':>9}")
    for case in CASES:
        words = [python, "-c", REFERENCE, *map(str, case)]
        answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        renyi, losses = map(float, answer)
        noise, rate, steps, delta = case
        ours = spent_epsilon(noise, rate, steps, delta)
        print(f"{noise:6} {rate:6} {steps:6} {delta:7.0e} {ours:9.4f} {renyi:9.4f} {losses:9.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
