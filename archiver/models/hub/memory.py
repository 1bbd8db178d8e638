"""How a profile's networks share a device's memory: decided from sizes, before anything is loaded. Imports no torch.

What changes the last bits of a picture (slicing, tiling) follows from the device's total memory alone, so that a record
gives the same bytes whatever else runs there. What changes no bit (which networks are there at a time) follows from
what is free.
"""

from __future__ import annotations

from dataclasses import dataclass

# Working memory of one picture, bytes a latent cell, in two-byte numbers: a U-Net of Stable Diffusion's size under
# classifier-free guidance, and its autoencoder's last blocks (512 channels at half, 256 and 128 at full resolution).
_UNET_BYTES = 400_000
_AUTOENCODER_BYTES = 500_000
_SHARE = 0.9  # of the memory; the rest is the driver's and the allocator's
_GROUPS = (("unet", "controlnet"), ("vae",), ("image_encoder",), ("segmenter",))


@dataclass(frozen=True, slots=True)
class Needs:
    """weights: bytes of each network as it is computed with. cells: latent cells of the largest picture. batch:
    pictures at a time. width: bytes of a number.
    """

    weights: dict[str, int]
    cells: int
    batch: int
    width: int

    @property
    def unet(self) -> int:
        """Working memory of a step."""
        return _UNET_BYTES * self.width // 2 * self.cells * self.batch

    @property
    def autoencoder(self) -> int:
        """Working memory of encoding or decoding one picture: batches of it are taken one by one."""
        return _AUTOENCODER_BYTES * self.width // 2 * self.cells


@dataclass(frozen=True, slots=True)
class Plan:
    """sliced: attention in slices. tiled: the autoencoder in tiles. one_by_one: only the group of networks that is at
    work is on the device.
    """

    sliced: bool
    tiled: bool
    one_by_one: bool


def plan(total: int, free: int, needs: Needs) -> Plan:
    """The plan for a device of `total` bytes, `free` of them unused."""
    usable = int(_SHARE * total)
    groups = {names: sum(needs.weights.get(name, 0) for name in names) for names in _GROUPS}
    denoising, coding = groups[_GROUPS[0]], groups[_GROUPS[1]]
    everything = sum(groups.values()) + max(needs.unet, needs.autoencoder)
    return Plan(
        sliced=denoising + needs.unet > usable,
        tiled=coding + needs.autoencoder > usable,
        one_by_one=everything > min(usable, int(_SHARE * free)),
    )


def group_of(name: str) -> tuple[str, ...]:
    """The networks that are at work together with this one."""
    return next((names for names in _GROUPS if name in names), (name,))
