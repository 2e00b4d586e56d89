"""The optimisers step as PyTorch's own do, bit for bit, and import no compiler."""

import subprocess
import sys

STEPS = """
import sys, torch
from {module} import Adam, SGD
torch.manual_seed(0)
weight, other = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
for make in (lambda w: SGD(w, 0.1, momentum=0.9, weight_decay=0.01, foreach=True), lambda w: Adam(w, 0.1)):
    optimiser = make([weight])
    optimiser.add_param_group({{"params": [other], "lr": 0.2}})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    for _ in range(4):
        optimiser.zero_grad()
        (weight - other).square().sum().backward()
        optimiser.step()
        schedule.step()
assert weight.requires_grad and torch.is_grad_enabled()
print(weight.tolist(), other.tolist())
print("torch._dynamo" in sys.modules, file=sys.stderr)
"""


def _steps(module: str) -> tuple[str, str]:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STEPS.format(module=module)], capture_output=True, text=True, check=True
    )
    return ran.stdout, ran.stderr.strip()


def test_optimisers_step_as_pytorchs_do_without_its_compiler() -> None:
    weights, compiler = _steps("fedinverse.optimisers")
    assert compiler == "False"
    assert weights == _steps("torch.optim")[0]
