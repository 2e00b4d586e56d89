"""The noise of a defence: seeded by the client's generator, drawn where the weights are."""

import torch


def noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on ``device`` seeded by one draw of the CPU ``generator``."""
    seed = torch.randint(2**62, (1,), generator=generator)
    return torch.Generator(device=device).manual_seed(int(seed))
