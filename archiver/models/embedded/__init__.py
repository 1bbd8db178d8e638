"""The embedded profile: networks small enough to ship in the package and to run on a CPU."""

from archiver.models.embedded.autoencoder import Autoencoder
from archiver.models.embedded.denoiser import Conditions, Denoiser
from archiver.models.embedded.profile import (
    EmbeddedModels,
    Networks,
    ProfileMeta,
    init_random,
    load_embedded,
    load_network,
    read_profile,
    save_profile,
    verify_profile,
)
from archiver.models.embedded.semantics import SemanticEncoder, Semantics, colour_map

__all__ = [
    "Autoencoder",
    "Conditions",
    "Denoiser",
    "EmbeddedModels",
    "Networks",
    "ProfileMeta",
    "SemanticEncoder",
    "Semantics",
    "colour_map",
    "init_random",
    "load_embedded",
    "load_network",
    "read_profile",
    "save_profile",
    "verify_profile",
]
