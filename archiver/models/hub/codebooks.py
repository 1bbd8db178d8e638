"""A codebook as a part of a hub profile, which is another profile then: records name it by its fingerprint, the vault
keeps and exports it as any other. Imports no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from archiver.codec.codebook import Codebook
from archiver.errors import ProfileInvalid
from archiver.models.hub.recipes import LEARNT, Pin, file_table, read_recipe
from archiver.models.profiles import PROFILE_FILE, ProfileInfo
from archiver.models.vault import Vault

COMPONENT = "codebook"
_FILE = f"{COMPONENT}/codebook.safetensors"


def load_codebook(path: Path) -> Codebook:
    """Raises ProfileInvalid where the file holds none, OSError."""
    try:
        return Codebook(**load_file(path))
    except (SafetensorError, TypeError, ValueError, AttributeError) as problem:  # the last: numbers NumPy has not
        raise ProfileInvalid(path=path, problem=f"no codebook: {problem}") from problem


def with_codebook(vault: Vault, profile: ProfileInfo, codebook: Codebook, learnt_from: str) -> ProfileInfo:
    """Bring `profile` with this codebook into the vault, in place of one that it may have; the other stays, for records
    may need it. learnt_from: for whoever looks at the profile.

    Raises ProfileUnknown, NotAHubProfile, WeightsDamaged, OSError.
    """
    there = vault.directory(profile.fingerprint)
    recipe = read_recipe(there / PROFILE_FILE)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for source in recipe.sources:
            target = folder / source.name
            target.parent.mkdir(exist_ok=True)
            target.symlink_to((there / source.name).resolve())
        (folder / COMPONENT).mkdir()
        save_file(codebook.parts, folder / _FILE)
        sha256 = hashlib.sha256((folder / _FILE).read_bytes()).hexdigest()
        pins = {one.name: Pin(one.revision, one.sha256 or "", one.size or 0) for one in recipe.sources}
        entry = file_table({"name": _FILE, "sha256": sha256, LEARNT: learnt_from})
        (folder / PROFILE_FILE).write_text(f"{recipe.pinned(pins)}\n{entry}\n", encoding="utf-8")
        return vault.import_directory(folder)
