"""Pulling a recipe's files from a hub into the vault, and accepting what came. Imports no torch.

    pulled/<profile>/from/<owner>--<name>/<commit>/<path>   what came; with ".partial" behind its name, what comes
    pulled/<profile>/<component>/<file>                     the same files under the profile's names
    pulled/<profile>/profile.toml                           written last: commit, size and SHA-256 of all that came

The transport is huggingface_hub's. What is ours is that nothing which came is used before its SHA-256 is one that was
pinned: in the recipe, or by whoever accepted it here. That is trust on first use, no more: the hub says what the first
copy is, and every later one is held to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from archiver.errors import (
    DiskFull,
    HubFileChanged,
    HubFileMissing,
    HubNotInstalled,
    HubOffline,
    HubUnreachable,
    ProfileNotPulled,
)
from archiver.models.hub.recipes import Pin, Recipe, Source, read_recipe
from archiver.models.profiles import PROFILE_FILE, ProfileInfo
from archiver.models.vault import Vault

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPARE = 64 << 20  # bytes that a download leaves free
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Announced:
    """What a hub says of a file before it comes. sha256: None for small files, of which it knows another hash."""

    commit: str
    size: int
    sha256: str | None
    url: str
    headers: dict[str, str]


class Hub:
    """A server of model repositories, through huggingface_hub.

    endpoint: None for $HF_ENDPOINT, else huggingface.co. offline: nothing is asked at all. Raises HubNotInstalled.
    """

    def __init__(self, endpoint: str | None = None, *, offline: bool = False) -> None:
        try:
            import huggingface_hub
            from huggingface_hub import constants, errors, file_download
        except ImportError as error:
            raise HubNotInstalled(missing=error.name or error) from error
        self._library, self._errors, self._downloads = huggingface_hub, errors, file_download
        self._endpoint = endpoint
        # The token of the hub is not for whoever mirrors it.
        self._token: bool | None = None if endpoint is None else False
        self.offline = offline or constants.HF_HUB_OFFLINE
        self.where = endpoint or constants.ENDPOINT

    def look(self, source: Source) -> Announced:
        """Ask about a file. Raises HubOffline, HubUnreachable, HubFileMissing."""
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it is documented there

        with self._named_failures(source):
            url = self._library.hf_hub_url(
                source.repository, source.path, revision=source.revision, endpoint=self._endpoint
            )
            found = self._library.get_hf_file_metadata(url, token=self._token, endpoint=self._endpoint)
            # Large files lie with other hosts, which the token is not for.
            is_hub_s = urlsplit(found.location).netloc == urlsplit(url).netloc
            headers = build_hf_headers(token=self._token if is_hub_s else False)
        if found.commit_hash is None or found.size is None:
            raise HubUnreachable(where=self.where, reason=f"it does not say which commit {source.path} is of")
        etag = found.etag or ""
        sha256 = etag if _SHA256.fullmatch(etag) else None
        return Announced(found.commit_hash, found.size, sha256, found.location, headers)

    def fetch(self, source: Source, told: Announced, folder: Path) -> Path:
        """Bring a file into `folder`; one that is there already is not brought again, one that broke off is continued.

        Raises HubOffline, HubUnreachable, HubFileMissing, OSError.
        """
        target = folder / source.repository.replace("/", "--") / told.commit / source.path
        if target.is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with self._named_failures(source), partial.open("ab") as file:
            if 0 < told.size < file.tell():
                file.truncate(0)
            if file.tell() < told.size:
                # Not hf_hub_download: that one begins anew when a process has ended within a file of gigabytes.
                self._downloads.http_get(
                    told.url, file, resume_size=file.tell(), headers=told.headers, expected_size=told.size
                )
            file.flush()
            os.fsync(file.fileno())
        return partial.replace(target)

    @contextmanager
    def _named_failures(self, source: Source) -> Iterator[None]:
        if self.offline:
            raise HubOffline(where=self.where)
        errors = self._errors
        try:
            yield
        except (
            errors.EntryNotFoundError,
            errors.RepositoryNotFoundError,
            errors.RevisionNotFoundError,
            errors.GatedRepoError,
        ) as error:
            if isinstance(error, errors.LocalEntryNotFoundError):  # what it says when the network fails
                raise HubUnreachable(where=self.where, reason=_first_line(error)) from error
            raise HubFileMissing(
                where=self.where, path=f"{source.repository}/{source.path}", reason=_first_line(error)
            ) from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise  # of this machine's disk
            # Transport errors are those of whichever HTTP library huggingface_hub has.
            raise HubUnreachable(where=self.where, reason=_first_line(error)) from error


def pull(recipe: Recipe, vault: Vault, hub: Hub, tell: Tell) -> ProfileInfo:
    """Bring all files of a recipe into the vault's `pulled` folder and write what they are; whatever is there is kept.

    All files of one repository come from one commit. Raises HubFileChanged where a file is not what the recipe pins or
    what the hub announced, DiskFull, and what `Hub` raises.
    """
    with _alone(pulled_folder(vault, recipe.info.name)) as folder:
        return _pull(recipe, vault, hub, tell, folder)


def _pull(recipe: Recipe, vault: Vault, hub: Hub, tell: Tell, folder: Path) -> ProfileInfo:
    announced = _announced(recipe, hub)
    _check_space(folder, recipe, announced)
    (folder / PROFILE_FILE).unlink(missing_ok=True)  # until it is true again
    pins: dict[str, Pin] = {}
    for number, source in enumerate(recipe.sources, 1):
        told = announced[source.name]
        tell(f"{number} of {len(recipe.sources)}, {source.name} ({told.size / 1e6:,.0f} MB)")
        came = vault.object(source.sha256 or told.sha256) or hub.fetch(source, told, folder / "from")
        pins[source.name] = _checked(source, told, came, hub.where)
        _place(came, folder / source.name)
    text = recipe.pinned(pins)
    staged = folder / f".{PROFILE_FILE}"
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(folder / PROFILE_FILE)
    return read_recipe(folder / PROFILE_FILE).info


def pulled(vault: Vault, name: str) -> Recipe:
    """What was pulled under this name and not accepted yet. Raises ProfileNotPulled."""
    path = pulled_folder(vault, name) / PROFILE_FILE
    if not path.is_file():
        raise ProfileNotPulled(profile=name)
    return read_recipe(path)


def all_pulled(vault: Vault) -> tuple[Recipe, ...]:
    """Everything that was pulled whole and not accepted yet."""
    return tuple(read_recipe(path) for path in sorted((vault.path / "pulled").glob(f"*/{PROFILE_FILE}")))


def pin(vault: Vault, name: str) -> ProfileInfo:
    """Accept what was pulled: every file is read and compared with the hash that was written down when it came, and the
    profile is one of the vault's from now on.

    Raises ProfileNotPulled, WeightsDamaged (it has changed since it came), OSError.
    """
    pulled(vault, name)
    with _alone(pulled_folder(vault, name)) as folder:
        profile = vault.import_directory(folder)
        shutil.rmtree(folder)
    return profile


def unpin(vault: Vault, profile: ProfileInfo, live_records: int) -> None:
    """Take back that a profile's hashes were accepted: it leaves the vault, and its files are again as if just pulled.

    Raises ProfileInUse where live records need it, NotAHubProfile, WeightsDamaged.
    """
    within = vault.directory(profile.fingerprint)
    read_recipe(within / PROFILE_FILE)
    vault.verify(profile)
    folder = pulled_folder(vault, profile.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not live_records:  # else `remove` refuses
        for file in profile.files:
            _place((within / file.name).resolve(), folder / file.name)
        shutil.copyfile(within / PROFILE_FILE, folder / PROFILE_FILE)
    vault.remove(profile, live_records)


def pulled_folder(vault: Vault, name: str) -> Path:
    """Where the files of a profile wait until they are accepted."""
    return vault.path / "pulled" / name


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """One process at a time within a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(lock)


def _announced(recipe: Recipe, hub: Hub) -> dict[str, Announced]:
    """What the hub says of every file, each repository at one commit."""
    commits: dict[tuple[str, str], str] = {}
    found: dict[str, Announced] = {}
    for source in recipe.sources:
        told = hub.look(source)
        commit = commits.setdefault((source.repository, source.revision), told.commit)
        wrong = [
            f"the hub's {what} is {theirs}, the recipe pins {ours}"
            for what, ours, theirs in (("size", source.size, told.size), ("SHA-256", source.sha256, told.sha256))
            if ours is not None and theirs is not None and ours != theirs
        ]
        if told.commit != commit:
            wrong.append(f"{source.repository} changed while it was asked about")
        if wrong:
            raise HubFileChanged(path=f"{source.repository}/{source.path}", problem=wrong[0])
        found[source.name] = told
    return found


def _check_space(folder: Path, recipe: Recipe, announced: dict[str, Announced]) -> None:
    """Twice what is still to come must fit: what was pulled stays until it has been copied into the vault."""
    missing = sum(announced[source.name].size for source in recipe.sources if not (folder / source.name).is_file())
    if shutil.disk_usage(folder).free < 2 * missing + _SPARE:
        raise DiskFull(path=f"{folder} ({2 * missing / 1e9:.1f} GB are needed)")


def _checked(source: Source, told: Announced, path: Path, where: str) -> Pin:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    for what, wanted in (("the recipe pins", source.sha256), (f"{where} announced", told.sha256)):
        if wanted is not None and sha256 != wanted:
            path.unlink()  # or the next pull would take it for what was wanted
            raise HubFileChanged(
                path=f"{source.repository}/{source.path}", problem=f"SHA-256 {sha256} came, {what} {wanted}"
            )
    return Pin(told.commit, sha256, size)


def _place(came: Path, target: Path) -> None:
    """Give a file another name as well; a copy where the filesystem has no hard links would be no harm, but it has."""
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    target.hardlink_to(came)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
