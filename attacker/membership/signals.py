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
from torch.func import functional_call, grad, vmap

from fedinverse.data.source import unit
from fedinverse.errors import IntegrityError
from fedinverse.models import Classifier, build
from fedinverse.storage import into_module, load_weights

_AT_ONCE = 2**24  # numbers of per-example gradients held at once: 64 MiB


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
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return own - others


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
    """Return the norm of the last layer's gradient, of the whole one, and its cosine with -(after - model)."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    buffers = dict(model.named_buffers())
    device = next(iter(weights.values())).device
    heads = last_layer(model)
    step = {} if after is None else {name: weights[name] - new.detach() for name, new in after.named_parameters()}
    length = torch.stack([part.double().square().sum() for part in step.values()]).sum().sqrt() if step else None

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, (values, buffers), (image[None],))
        return F.cross_entropy(logits, label[None])

    def of_one(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = {name: value.double() for name, value in grad(loss)(weights, image, label).items()}
        squares = {name: value.square().sum() for name, value in found.items()}
        whole = torch.stack(list(squares.values())).sum().sqrt()
        last = torch.stack([squares[name] for name in heads]).sum().sqrt() if heads else whole * torch.nan
        along = torch.stack([(found[name] * part).sum() for name, part in step.items()]).sum() if step else whole * 0
        return last, whole, along

    at_once = max(1, _AT_ONCE // max(1, sum(weight.numel() for weight in weights.values())))
    parts = [
        vmap(of_one)(unit(part, device), truth.to(device))
        for part, truth in zip(images.split(at_once), labels.split(at_once), strict=True)
    ]
    last, whole, along = (torch.cat([part[place].detach() for part in parts]).cpu() for place in range(3))
    if length is None:
        return last, whole, along
    return last, whole, along / (whole * float(length)).clamp_min(1e-30)


def last_layer(model: Classifier) -> tuple[str, ...]:
    """Return the names of the parameters of the last layer that has a row for every class; empty: there is none."""
    found: tuple[str, ...] = ()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 2 and weight.shape[0] == model.classes:
            found = tuple(f"{name}.{own}" if name else own for own, _ in module.named_parameters(recurse=False))
    return found
