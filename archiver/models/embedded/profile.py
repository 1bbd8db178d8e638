"""Read and write the embedded profile: safetensors files and the `profile.toml` that pins them."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archiver.errors import ProfileInvalid, ProfileUnknown, WeightsDamaged
from archiver.models.embedded.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from archiver.models.embedded.denoiser import EMBEDDING_DIM, TIMESTEPS, WORDS, Denoiser, cosine_alphas_cumprod
from archiver.models.embedded.semantics import SemanticEncoder
from archiver.models.profiles import PROFILE_FILE, WeightFile, enlarge_for, sha256_of

_FORMAT = "archiver-embedded-1"
_SHAPES = {
    "latent_channels": LATENT_CHANNELS,
    "downscale": DOWNSCALE,
    "words": WORDS,
    "embedding_dim": EMBEDDING_DIM,
    "timesteps": TIMESTEPS,
}


@dataclass(frozen=True, slots=True)
class ProfileMeta:
    """What `profile.toml` says. `long_side` is the working size in pixels; `digest` names this exact set of weights."""

    name: str
    licence: str
    long_side: int
    latent_channels: int
    downscale: int
    words: int
    embedding_dim: int
    timesteps: int
    schedule: str
    prediction: str
    files: tuple[WeightFile, ...]

    @property
    def enlarge(self) -> int:
        """How many times larger the semantic encoder sees pictures than they come."""
        return enlarge_for(self.long_side)

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over the files' names and hashes."""
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(self.files, key=lambda file: file.name))
        return hashlib.sha256(lines.encode()).digest()


class Networks(Protocol):
    """The networks of a profile, wherever they are and whenever they are loaded."""

    @property
    def autoencoder(self) -> Autoencoder:
        """Pictures to latents and back."""
        ...

    @property
    def denoiser(self) -> Denoiser:
        """Predicts v."""
        ...

    @property
    def semantics(self) -> SemanticEncoder:
        """What a picture shows."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """The noise schedule (1000,), on the CPU."""
        ...

    @property
    def meta(self) -> ProfileMeta:
        """What `profile.toml` says."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddedModels:
    """The networks of the embedded profile, in evaluation mode, float32, and the noise schedule (1000,) they know."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    semantics: SemanticEncoder
    alphas_cumprod: Tensor
    meta: ProfileMeta

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.autoencoder.latent_mean.device

    @property
    def betas(self) -> Tensor:
        """The schedule as betas (1000,), which diffusers' schedulers take as `trained_betas`."""
        previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1].double()])
        return (1 - self.alphas_cumprod.double() / previous).float()


_PARTS: dict[str, Callable[[ProfileMeta], nn.Module]] = {
    "autoencoder": lambda _: Autoencoder(),
    "denoiser": lambda _: Denoiser(),
    "semantics": lambda meta: SemanticEncoder(meta.enlarge),
}


def _models(networks: dict[str, nn.Module], meta: ProfileMeta) -> EmbeddedModels:
    for network in networks.values():
        network.eval().requires_grad_(False)
    autoencoder, denoiser, semantics = networks["autoencoder"], networks["denoiser"], networks["semantics"]
    assert isinstance(autoencoder, Autoencoder) and isinstance(denoiser, Denoiser)
    assert isinstance(semantics, SemanticEncoder)
    return EmbeddedModels(autoencoder, denoiser, semantics, cosine_alphas_cumprod(), meta)


def _meta(name: str, licence: str, long_side: int, files: tuple[WeightFile, ...]) -> ProfileMeta:
    return ProfileMeta(
        name=name,
        licence=licence,
        long_side=long_side,
        schedule="cosine",
        prediction="v_prediction",
        files=files,
        **_SHAPES,
    )


def read_profile(directory: Path) -> ProfileMeta:
    """Read `profile.toml` without touching the weights.

    Raises ProfileUnknown (there is none) or ProfileInvalid (not one that this version can read).
    """
    path = directory / PROFILE_FILE
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProfileUnknown(profile=directory.name) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ProfileInvalid(path=path, problem=problem) from problem
    expected = _SHAPES | {"format": _FORMAT, "schedule": "cosine", "prediction": "v_prediction"}
    for key, value in expected.items():
        if raw.get(key) != value:
            raise ProfileInvalid(path=path, problem=f"{key} is {raw.get(key)!r}, this version knows {value!r}")
    try:
        files = tuple(WeightFile(str(file["name"]), str(file["sha256"])) for file in raw["files"])
        meta = _meta(str(raw["name"]), str(raw["licence"]), int(raw["long_side"]), files)
    except (KeyError, TypeError, ValueError) as problem:
        raise ProfileInvalid(path=path, problem=f"{type(problem).__name__} {problem}") from problem
    wanted = {f"{network}.safetensors" for network in ("autoencoder", "denoiser", "semantics")}
    if {file.name for file in files} != wanted:
        raise ProfileInvalid(path=path, problem=f"it must pin exactly {', '.join(sorted(wanted))}")
    return meta


def verify_profile(directory: Path) -> ProfileMeta:
    """Read `profile.toml` and prove that every file has its pinned SHA-256.

    Raises what `read_profile` raises, and WeightsDamaged.
    """
    meta = read_profile(directory)
    for file in meta.files:
        _verify(directory, file)
    return meta


def _verify(directory: Path, file: WeightFile) -> None:
    path = directory / file.name
    if not path.is_file() or sha256_of(path) != file.sha256:
        raise WeightsDamaged(path=path)


def load_embedded(directory: Path) -> EmbeddedModels:
    """Load the profile in `directory` from safetensors only, after checking every hash; float32 on the CPU.

    Raises ProfileUnknown, ProfileInvalid or WeightsDamaged.
    """
    meta = verify_profile(directory)
    return _models({name: load_network(directory, meta, name) for name in _PARTS}, meta)


def load_network(directory: Path, meta: ProfileMeta, name: str) -> nn.Module:
    """Load one network, "autoencoder", "denoiser" or "semantics", after checking its hash; float32 on the CPU, in
    evaluation mode.

    Raises ProfileInvalid or WeightsDamaged.
    """
    path = directory / f"{name}.safetensors"
    _verify(directory, next(file for file in meta.files if file.name == path.name))
    network = _PARTS[name](meta)
    try:
        network.load_state_dict({key: tensor.float() for key, tensor in load_file(path).items()})
    except (RuntimeError, ValueError, SafetensorError) as problem:
        # The right hash and the wrong content: the pin itself is wrong.
        raise ProfileInvalid(path=path, problem=str(problem).splitlines()[0]) from problem
    return network.eval().requires_grad_(False)


def init_random(seed: int, long_side: int = 256) -> EmbeddedModels:
    """Networks with random weights: the right shapes and speed, no meaning. For tests and as a start of training."""
    meta = _meta(f"random-{seed}", "CC0-1.0", long_side, ())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = {name: make(meta) for name, make in _PARTS.items()}
        for network in networks.values():
            for tensor in network.state_dict().values():
                if not tensor.any():  # layers that start at zero would hide the conditions
                    tensor.normal_(0, 0.05)
    return _models(networks, meta)


def save_profile(directory: Path, models: EmbeddedModels, name: str, licence: str, presets: str = "") -> ProfileMeta:
    """Write the networks as float16 safetensors and the `profile.toml` that pins them; returns what it says.

    `presets`: tables in TOML that say how its schemes are driven (`archiver.models.profiles`).
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    parts = {"autoencoder": models.autoencoder, "denoiser": models.denoiser, "semantics": models.semantics}
    for part, network in parts.items():
        path = directory / f"{part}.safetensors"
        save_file({key: tensor.half().contiguous() for key, tensor in network.state_dict().items()}, path)
        path.chmod(0o644)  # safetensors makes it private, but the daemon runs as another user
        files.append(WeightFile(path.name, sha256_of(path)))
    meta = _meta(name, licence, models.meta.long_side, tuple(files))
    (directory / PROFILE_FILE).write_text(_to_toml(meta) + presets, encoding="utf-8")
    return meta


def _to_toml(meta: ProfileMeta) -> str:
    facts = _SHAPES | {"long_side": meta.long_side}
    texts = {"format": _FORMAT, "name": meta.name, "licence": meta.licence}
    texts |= {"schedule": meta.schedule, "prediction": meta.prediction}
    lines = [f'{key} = "{value}"' for key, value in texts.items()] + [
        f"{key} = {value}" for key, value in facts.items()
    ]
    for file in meta.files:
        lines += ["", "[[files]]", f'name = "{file.name}"', f'sha256 = "{file.sha256}"']
    return "\n".join(lines) + "\n"
