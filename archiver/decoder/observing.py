"""One picture to what its record is composed of: what the networks see in it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from archiver.codec.record import Scheme
from archiver.codec.schemes import Facts
from archiver.decoder.attention import reference
from archiver.decoder.pixels import to_tensor
from archiver.models.embedded import Networks


def observe(models: Networks, pixels: NDArray[np.uint8], scheme: Scheme) -> Facts:
    """What `scheme` needs to know of a picture (h, w, 3) at working size."""
    with torch.no_grad():  # not inference mode: networks loaded within could not be differentiated later
        picture = to_tensor(pixels).to(models.device)
        seen = models.semantics(picture)
        attention = None
        if scheme is Scheme.SEACOM:
            attention = reference(models, models.autoencoder.encode(picture), seen.embedding)[0].cpu().numpy()
        labels = seen.labels[0].to(torch.uint8).cpu().numpy()
        return Facts(seen.embedding[0].cpu().numpy(), labels, models.meta.words, attention)
