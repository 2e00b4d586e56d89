"""What captured models say of one candidate record: loss, confidence, gradient norms, and how its gradient lies to the
others' update.

A participant holds the global models theta_t of several rounds. Of a candidate (x, y) it can compute for each

- the cross-entropy l(theta_t; x) and the confidence phi_t = ln(p_y / (1 - p_y)), on the scale on which Carlini et al.
  (2022) found it to be nearly normal;
- the norm of the gradient by all weights, and by those of the last layer (Nasr et al. 2019);
- the cosine of that gradient with -D_t, where D_t = theta_{t+1} - theta_t is the update that the others made of it:
  whoever trained on x moved the weights against the gradient of x.

Networks are in eval mode. Nothing here knows which candidate is a member.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fedinverse.data.source import unit
from fedinverse.errors import IntegrityError
from fedinverse.models import Classifier, build
from fedinverse.storage import into_module, load_weights


@dataclass(frozen=True)
class Signals:
    """What was computed of N candidates on T models, in the order of their rounds.

    Attributes:
        rounds: the T rounds.
        loss: float64 [T, N], cross-entropy, at least 0.
        phi: float64 [T, N], ln(p_y / (1 - p_y)).
        last_layer: float64 [T, N], gradient norm of the last layer; NaN where the network has no such layer.
        gradient: float64 [T, N], gradient norm of all weights.
        cosine: float64 [T - 1, N], of the gradient on theta_t and -D_t, in [-1, 1].
    """

    rounds: tuple[int, ...]
    loss: Tensor
    phi: Tensor
    last_layer: Tensor
    gradient: Tensor
    cosine: Tensor


def logit_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Return phi = ln(p_y / (1 - p_y)), [N], of ``logits`` [N, K]: the logit of y less the others' log-sum-exp."""
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return of_label - others


def confidences(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Return phi, float64 [N] on the CPU, of uint8 ``images`` [N, C, H, W] under ``model`` in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            logit_confidence(model(unit(part, device)).double(), truth.to(device)).cpu()
            for part, truth in zip(images.split(256), labels.split(256), strict=True)
        ]
    return torch.cat(parts)


def open_models(captures: Mapping[int, Path], device: str | torch.device = "cpu") -> dict[int, Classifier]:
    """Read captured models by round.

    Raises:
        IntegrityError: a file is damaged, or the captures are of different networks; names both files.
    """
    models: dict[int, Classifier] = {}
    first: tuple[Path, dict[str, str]] | None = None
    for number, path in sorted(captures.items()):
        weights, about = load_weights(path)
        kind = {key: about.get(key, "") for key in ("model", "width", "classes")}
        if not all(kind.values()):
            raise IntegrityError(f"{path}: its metadata does not say its network, width and classes; not a capture")
        if first is not None and kind != first[1]:
            raise IntegrityError(
                f"{first[0]} and {path} are of different networks: captures of two federations were mixed; keep those "
                "of one in a directory of their own"
            )
        first = first or (path, kind)
        network = build(kind["model"], int(kind["classes"]), float(kind["width"]), seed=0)
        into_module(network, weights, str(path))
        models[number] = network.eval().to(device)
    return models


def signals(models: Mapping[int, Classifier], images: Tensor, labels: Tensor) -> Signals:
    """Return what ``models`` by round say of the candidates.

    Args:
        models: captured models, on one device, in eval mode.
        images: uint8 [N, C, H, W].
        labels: int64 [N].
    """
    rounds = tuple(sorted(models))
    loss, phi, last, whole, cosines = [], [], [], [], []
    for place, number in enumerate(rounds):
        model = models[number]
        after = models[rounds[place + 1]] if place + 1 < len(rounds) else None
        seen = _on_one_model(model, after, images, labels)
        confident = confidences(model, images, labels)
        phi.append(confident)
        loss.append(F.softplus(-confident))  # -ln p = ln(1 + e^-phi)
        last.append(seen[0])
        whole.append(seen[1])
        cosines.append(seen[2])
    return Signals(
        rounds,
        torch.stack(loss),
        torch.stack(phi),
        torch.stack(last),
        torch.stack(whole),
        torch.stack(cosines[:-1]) if len(rounds) > 1 else torch.empty(0, len(labels), dtype=torch.float64),
    )


def _on_one_model(
    model: Classifier, after: Classifier | None, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of the last layer's gradient, of the whole one, and its cosine with -(after - model).

    One record at a time: on a CPU that was faster than ``torch.func.vmap`` over records at any size.
    """
    names = [name for name, _ in model.named_parameters()]
    weights = list(model.parameters())
    device = weights[0].device
    heads = [place for place, name in enumerate(names) if name in last_layer(model)]
    step = [old.detach() - new.detach() for old, new in zip(weights, (after or model).parameters(), strict=True)]
    length = float(torch.stack([part.square().sum() for part in step]).sum().sqrt())
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(unit(image[None], device)), label[None].to(device))
        gradients = torch.autograd.grad(loss, weights)
        squares = torch.stack([gradient.square().sum() for gradient in gradients])
        last = squares[heads].sum().sqrt() if heads else squares.sum() * torch.nan
        along = torch.stack([(gradient * part).sum() for gradient, part in zip(gradients, step, strict=True)]).sum()
        rows.append(torch.stack([last, squares.sum().sqrt(), along]))
    last, whole, along = torch.stack(rows).double().cpu().T
    return last, whole, along / (whole * length).clamp_min(1e-30)


def last_layer(model: Classifier) -> tuple[str, ...]:
    """Return the names of the parameters of the last layer that has a row for every class; empty: there is none."""
    parameters: tuple[str, ...] = ()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and weight.shape[0] == model.classes:
            prefix = f"{name}." if name else ""
            parameters = tuple(prefix + each for each, _ in module.named_parameters(recurse=False))
    return parameters
