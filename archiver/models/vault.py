"""The vault: every profile that a live record needs, content-addressed, verified, never lost by accident.

    objects/<sha256>                 one weight file
    profiles/<fingerprint>/          profile.toml and a relative link for each weight file
    incoming/                        what is being brought in; what a crash left there is cleared by the next change

A profile appears by one rename after all its objects are durable, so there is never half a profile. Old profiles stay
when an upgrade ships new weights: records name theirs by its fingerprint.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archiver.codec.record import NO_PROFILE
from archiver.errors import ProfileInUse, ProfileInvalid, ProfileUnknown, WeightsDamaged
from archiver.models.profiles import PROFILE_FILE, ProfileInfo, WeightFile, check_name, read_profile, sha256_of

PACKAGED = Path(__file__).with_name("weights")  # one folder a profile
_SEAL = "profile.sha256"  # in an exported tar: the hash of its profile.toml
_CHUNK = 1 << 20
_MAX_IMPORT = 64 << 30  # bytes of one weight file that an import unpacks
_MAX_WORDS = 1 << 20  # bytes of what says something of the weights


class Vault:
    """The profiles of one installation, in a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._objects = path / "objects"
        self._profiles = path / "profiles"
        self._incoming = path / "incoming"

    # -- asking --------------------------------------------------------------------------------------------------------

    def list(self) -> tuple[ProfileInfo, ...]:
        """All profiles, in the order in which they came."""
        return tuple(read_profile(folder) for folder in self._folders())

    def find(self, key: bytes) -> ProfileInfo:
        """The profile whose fingerprint begins with `key`, as a record names it.

        Raises ProfileUnknown.
        """
        return read_profile(self.directory(key))

    def directory(self, key: bytes) -> Path:
        """The folder with `profile.toml` and the weights of the profile whose fingerprint begins with `key`.

        Raises ProfileUnknown.
        """
        for folder in self._folders():
            if folder.name.startswith(key.hex()):
                return folder
        raise ProfileUnknown(profile=key.hex())

    def named(self, name: str) -> ProfileInfo:
        """The profile of this name, the newest if there are several, or of this fingerprint (8 or more digits).

        Raises ProfileUnknown.
        """
        infos = self.list()
        for info in reversed(infos):
            if info.name == name or (len(name) >= 8 and info.fingerprint.hex().startswith(name)):
                return info
        raise ProfileUnknown(profile=name)

    def holds(self, key: bytes) -> bool:
        """Whether the weights that a record names are all there."""
        try:
            self.require(key)
        except (ProfileUnknown, WeightsDamaged):
            return False
        return True

    def require(self, key: bytes) -> None:
        """Prove that the weights that a record names are all there; cheap, their content is not read.

        A record that needs none names NO_PROFILE. Raises ProfileUnknown or WeightsDamaged.
        """
        if key == NO_PROFILE:
            return
        folder = self.directory(key)
        for file in read_profile(folder).files:
            if not (folder / file.name).is_file():
                raise WeightsDamaged(path=folder / file.name)

    def prove(self, key: bytes) -> None:
        """As `require`, with the content of the weights, which takes as long as reading them."""
        if key != NO_PROFILE:
            self.verify(self.find(key))

    def verify(self, profile: ProfileInfo) -> None:
        """Read every weight file of a profile and compare it with its pin.

        Raises ProfileUnknown or WeightsDamaged.
        """
        folder = self.directory(profile.fingerprint)
        for file in profile.files:
            path = folder / file.name
            if not path.is_file() or sha256_of(path) != file.sha256:
                raise WeightsDamaged(path=path)

    def object(self, sha256: str | None) -> Path | None:
        """The weight file of this SHA-256 that some profile brought, read and found whole; None where there is none."""
        path = None if sha256 is None else self._objects / sha256
        return path if path is not None and path.is_file() and sha256_of(path) == sha256 else None

    # -- changing ------------------------------------------------------------------------------------------------------

    def install_embedded(self) -> tuple[ProfileInfo, ...]:
        """Bring the weights that ship with this package into the vault; of profiles that are there already, their
        presets.

        Raises ProfileUnknown where this installation ships none, WeightsDamaged where they are not what they should be.
        """
        folders = sorted(path.parent for path in PACKAGED.glob(f"*/{PROFILE_FILE}"))
        if not folders:
            raise ProfileUnknown(profile=PACKAGED.name)
        return tuple(self.import_directory(folder) for folder in folders)

    def import_directory(self, source: Path) -> ProfileInfo:
        """Bring in a folder with `profile.toml` and the weights that it pins; of a profile that is here and whole only
        what it newly says, which may be other presets.

        Raises ProfileUnknown, ProfileInvalid, WeightsDamaged, OSError.
        """
        with self._changing():
            return self._bring_in(source)

    def import_tar(self, source: Path) -> ProfileInfo:
        """Bring in a profile that `export_tar` wrote.

        Raises ProfileInvalid (not such a tar), WeightsDamaged, OSError.
        """
        with self._changing(), tempfile.TemporaryDirectory(dir=self._incoming) as folder:
            try:
                with tarfile.open(source, "r:") as tar:
                    _unpack(tar, Path(folder))
                _check_seal(Path(folder))
            except (tarfile.TarError, ValueError) as problem:  # ValueError: a number in a header that is none
                raise ProfileInvalid(path=source, problem=problem) from problem
            try:
                return self._bring_in(Path(folder))
            except ProfileUnknown:
                raise ProfileInvalid(path=source, problem=f"it holds no {PROFILE_FILE}") from None

    def export_tar(self, profile: ProfileInfo, target: Path) -> None:
        """Write a profile as one uncompressed tar, verified first; `target` appears when it is whole.

        Raises ProfileUnknown, WeightsDamaged, OSError.
        """
        self.verify(profile)
        folder = self.directory(profile.fingerprint)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
                    seal = sha256_of(folder / PROFILE_FILE).encode()
                    member = tarfile.TarInfo(_SEAL)
                    member.size = len(seal)
                    tar.addfile(member, io.BytesIO(seal))
                    for name in (PROFILE_FILE, *(weight.name for weight in profile.files)):
                        tar.add(folder / name, name)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def remove(self, profile: ProfileInfo, live_records: int) -> None:
        """Delete a profile and what no other profile shares with it. `live_records`: how many records need it.

        Raises ProfileInUse where any does, ProfileUnknown.
        """
        if live_records:
            raise ProfileInUse(profile=profile.name, records=live_records)
        folder = self.directory(profile.fingerprint)
        with self._changing():
            gone = Path(tempfile.mkdtemp(dir=self._incoming)) / folder.name
            folder.rename(gone)
            _sync_folder(self._profiles)
            kept = {file.sha256 for info in self.list() for file in info.files}
            for file in profile.files:
                if file.sha256 not in kept:
                    (self._objects / file.sha256).unlink(missing_ok=True)
            self._clear_incoming()

    # -- within --------------------------------------------------------------------------------------------------------

    def _folders(self) -> tuple[Path, ...]:
        """The profiles' folders, in the order in which they came."""
        if not self._profiles.is_dir():
            return ()
        folders = (folder for folder in self._profiles.iterdir() if folder.is_dir())
        return tuple(sorted(folders, key=lambda folder: (folder.stat().st_mtime_ns, folder.name)))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time; what a crash left in `incoming` is cleared."""
        for folder in (self._objects, self._profiles, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._clear_incoming()
            yield
        finally:
            os.close(lock)

    def _clear_incoming(self) -> None:
        for left in self._incoming.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()

    def _bring_in(self, source: Path) -> ProfileInfo:
        profile = read_profile(source)
        for file in profile.files:
            self._take_in(source / file.name, file)
        self._publish(profile, (source / PROFILE_FILE).read_bytes())
        return profile

    def _take_in(self, source: Path, file: WeightFile) -> None:
        """Copy one weight file to its object, hashed on the way; an object that is whole is left alone."""
        target = self._objects / file.sha256
        if target.is_file() and sha256_of(target) == file.sha256:
            return
        if not source.is_file():
            raise WeightsDamaged(path=source)
        staged = self._incoming / file.sha256
        digest = hashlib.sha256()
        with source.open("rb") as reader, staged.open("wb") as writer:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fchmod(writer.fileno(), 0o444)
            os.fsync(writer.fileno())
        if digest.hexdigest() != file.sha256:
            raise WeightsDamaged(path=source)
        staged.replace(target)
        _sync_folder(self._objects)

    def _publish(self, profile: ProfileInfo, toml: bytes) -> None:
        folder = self._profiles / profile.fingerprint.hex()
        if folder.is_dir():
            self._describe_anew(folder / PROFILE_FILE, toml)
            return
        staged = Path(tempfile.mkdtemp(dir=self._incoming))
        staged.chmod(0o755)
        _write_durably(staged / PROFILE_FILE, toml)
        for weight in profile.files:
            link = staged / weight.name
            link.parent.mkdir(exist_ok=True)
            up = [".."] * len(Path(weight.name).parts)
            link.symlink_to(Path(*up, "..", "objects", weight.sha256))
        for within in {(staged / weight.name).parent for weight in profile.files} | {staged}:
            _sync_folder(within)
        staged.rename(folder)
        _sync_folder(self._profiles)

    def _describe_anew(self, description: Path, toml: bytes) -> None:
        """Exchange the `profile.toml` of weights that are here: their fingerprint says nothing of presets."""
        if description.read_bytes() == toml:
            return
        staged = self._incoming / PROFILE_FILE
        _write_durably(staged, toml)
        staged.replace(description)
        _sync_folder(description.parent)


def _unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack plain files at the top of a tar or one folder below; anything else in it is refused, and so are sparse
    files: of a few bytes they would fill a disk.
    """
    for member in tar:
        most = _MAX_WORDS if member.name in (PROFILE_FILE, _SEAL) else _MAX_IMPORT
        if not member.isfile() or member.issparse() or not _is_part(member.name) or member.size > most:
            raise tarfile.TarError(f"it holds {member.name!r}, which is not part of a profile")
        stream = tar.extractfile(member)
        assert stream is not None  # it is a plain file
        target = folder / member.name
        if target.exists() or (target.parent.exists() and not target.parent.is_dir()):
            raise tarfile.TarError(f"it holds {member.name!r} twice")
        target.parent.mkdir(exist_ok=True)
        with stream, target.open("xb") as file:
            shutil.copyfileobj(stream, file, _CHUNK)


def _check_seal(folder: Path) -> None:
    """The description is held to its hash, as the weights are to theirs; a tar of an older version has none."""
    seal, description = folder / _SEAL, folder / PROFILE_FILE
    if seal.is_file() and description.is_file() and seal.read_bytes() != sha256_of(description).encode():
        raise tarfile.TarError(f"its {PROFILE_FILE} is damaged")


def _is_part(name: str) -> bool:
    """Whether a member of a tar may be unpacked under its name."""
    if name in (PROFILE_FILE, _SEAL):
        return True
    try:
        check_name(name, of_hub=True)
    except ValueError:
        return False
    return True


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
