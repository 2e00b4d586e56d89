"""Central differential privacy: Flower's own wrappers around a plain average (Geyer et al. 2017; McMahan et al. 2018).

Every client's update is clipped to an L2 norm C, at the server or by Flower's mod at the client; the unweighted mean of
n updates gets Gaussian noise of standard deviation z C / n. The unit is one client's whole update in a round,
neighbours differ by putting none in its place. The wrappers stay as they are but for four things:

- noise comes from the run's seed, so that a run repeats; whoever knows the seed can take the noise off again;
- a client that fails is left out and n is how many answered; Flower would drop the whole round;
- an update of exactly zero is refused, since Flower's clipping divides by its norm;
- the adaptive bound follows Andrew et al. (2021), C exp(-lr (share not clipped - target)). Flower (1.39) puts the share
  that *was* clipped there: a bound that is too small then shrinks for ever.

BatchNorm buffers are averaged without noise; with any in the model no epsilon is claimed.
"""

import logging
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from pydantic import Field

from fedinverse.config import Section
from fedinverse.messages import ARRAYS, CLIPPING
from fedinverse.seeds import derive, seeded_numpy

log = logging.getLogger("fedinverse.server")
Kind = Literal["none", "server_fixed", "server_adaptive", "client_fixed", "client_adaptive"]


class CentralPrivacy(Section):
    """Where updates are clipped, to what, and how much noise their mean gets."""

    kind: Kind = Field("none", description="who clips the updates, and whether the bound is fixed or adaptive")
    noise_multiplier: float = Field(0.5, ge=0, description="standard deviation of the noise over C / n")
    clipping_norm: float = Field(1.0, gt=0, description="L2 bound C on an update; adaptive: the first one")
    target_quantile: float = Field(0.5, ge=0, le=1, description="adaptive: share of the updates to leave unclipped")
    clip_norm_lr: float = Field(0.2, gt=0, description="adaptive: learning rate of the bound")
    clipped_count_stddev: float = Field(
        0.0, ge=0, description="adaptive: noise on the number of clipped updates; 0: a twentieth of the clients"
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="delta of the reported (epsilon, delta)")


class Private:
    """Put between ``Audited`` and one of Flower's wrappers."""

    current_arrays: ArrayRecord
    num_sampled_clients: int

    def set_up(self, settings: CentralPrivacy, seed: int) -> None:
        """Say what was configured, and the run seed, before the first round."""
        self._settings, self._seed = settings, seed
        self._at_client = settings.kind.startswith("client")

    def accounted(self) -> dict[str, float]:
        """Return the noise of a round's average, as ``ClientReports`` accounts for it."""
        return {"central_noise_multiplier": self._settings.noise_multiplier, "central_delta": self._settings.delta}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Tell the clients which of Flower's mods clips, if they do."""
        if self._at_client:
            config[CLIPPING] = self._settings.kind.removeprefix("client_")
        return super().configure_train(server_round, arrays, config, grid)  # type: ignore[misc,no-any-return]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the replies that are there, with noise for as many."""
        answered = [reply for reply in replies if not reply.has_error() and self._can_be_clipped(reply)]
        if not answered:
            return None, None
        self.num_sampled_clients = len(answered)
        with seeded_numpy(derive(self._seed, "central noise", server_round)):
            return super().aggregate_train(server_round, answered)  # type: ignore[misc,no-any-return]

    def _can_be_clipped(self, reply: Message) -> bool:
        if self._at_client:
            return True
        now, before = reply.content[ARRAYS].to_numpy_ndarrays(), self.current_arrays.to_numpy_ndarrays()
        if any(np.any(a != b) for a, b in zip(now, before, strict=True)):
            return True
        log.warning("the update of node %d was refused: it is zero", reply.metadata.src_node_id)
        return False


class Adaptive(Private):
    """With the bound of the paper."""

    def _geometric_update(self, clipped_fraction: float) -> None:
        super()._geometric_update(1 - clipped_fraction)  # type: ignore[misc]


_WRAPPERS: dict[str, tuple[type[Private], Any]] = {
    "server_fixed": (Private, flower.DifferentialPrivacyServerSideFixedClipping),
    "client_fixed": (Private, flower.DifferentialPrivacyClientSideFixedClipping),
    "server_adaptive": (Adaptive, flower.DifferentialPrivacyServerSideAdaptiveClipping),
    "client_adaptive": (Adaptive, flower.DifferentialPrivacyClientSideAdaptiveClipping),
}


def wrapper(settings: CentralPrivacy) -> tuple[type[Private], Any]:
    """Return (our mixin, Flower's class) of ``settings.kind``."""
    return _WRAPPERS[settings.kind]


def wrapper_options(settings: CentralPrivacy, participants: int) -> dict[str, Any]:
    """Return the arguments of Flower's class for rounds of ``participants`` clients."""
    options = {"noise_multiplier": settings.noise_multiplier, "num_sampled_clients": participants}
    if settings.kind.endswith("fixed"):
        return {**options, "clipping_norm": settings.clipping_norm}
    return {
        **options,
        "initial_clipping_norm": settings.clipping_norm,
        "target_clipped_quantile": settings.target_quantile,
        "clip_norm_lr": settings.clip_norm_lr,
        "clipped_count_stddev": settings.clipped_count_stddev or None,
    }
