"""One class per failure that a user can meet.

The first line of a class's docstring is its message template, filled from the keyword arguments of the constructor;
`hint` says what to do about it. Exit codes are stable and documented in docs/operations.md:

0 done | 1 done, with warnings (some files were refused or failed) | 2 usage or configuration | 3 the catalog
4 a tier | 5 a record, a placeholder or a held original | 6 models | 7 the system (permissions, disk, another instance)
130 interrupted
"""

from __future__ import annotations

import errno
import re
from typing import ClassVar

EXIT_OK = 0
EXIT_WARNINGS = 1


_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


class ArchiverError(Exception):
    """{detail}"""

    exit_code: ClassVar[int] = 7
    hint: ClassVar[str] = ""

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        template = (type(self).__doc__ or "").partition("\n")[0]
        super().__init__(template.format(**facts))

    @property
    def message(self) -> str:
        """The filled-in message, one line."""
        return str(self.args[0])

    @property
    def kind(self) -> str:
        """What sort of failure it is, in a word or two, the same for every file: "file open", "too small"."""
        if isinstance(self, ImageRefused):
            return str(self.facts["reason"])
        return _WORDS.sub(" ", type(self).__name__).lower()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(cls: type[ArchiverError], facts: dict[str, object]) -> ArchiverError:
    return cls(**facts)


# -- configuration -----------------------------------------------------------------------------------------------------


class ConfigInvalid(ArchiverError):
    """{path}: {problem}"""

    exit_code = 2
    hint = "`archiver config check` lists every problem; config.example.toml explains every key."

    @property
    def problems(self) -> tuple[str, ...]:
        """Every problem of the file, one an entry."""
        several = self.facts.get("problems")
        return several if isinstance(several, tuple) else (str(self.facts["problem"]),)


class ConfigMissing(ArchiverError):
    """no configuration at {path}"""

    exit_code = 2
    hint = "Run `archiver init`, or name a file with --config or $ARCHIVER_CONFIG."


class ConfigExists(ArchiverError):
    """{path} is there already and is never overwritten"""

    exit_code = 2
    hint = "Add a [[tier]] to it, or name another file with --config; `archiver init` alone creates what it names."


class DemoFolderTaken(ArchiverError):
    """{path} is not empty"""

    exit_code = 2
    hint = "The demo deletes nothing: remove the folder of an earlier demo yourself, or name another one with --work."


class DemoWithoutPhotographs(ArchiverError):
    """no photographs in {where}"""

    exit_code = 2
    hint = "Name a folder that has some (`archiver demo DIR`), or `pip install 'archiver[demo]'` for a few free ones."


class TierUnknown(ArchiverError):
    """there is no tier {tier}, only {known}"""

    exit_code = 2
    hint = "`archiver config check` lists the tiers and their folders."


class NotInAnyTier(ArchiverError):
    """{path} lies in no configured tier"""

    exit_code = 2
    hint = "`archiver config check` lists the tiers and their folders."


# -- catalog -----------------------------------------------------------------------------------------------------------


class CatalogUnavailable(ArchiverError):
    """the catalog {url} cannot be opened: {reason}"""

    exit_code = 3
    hint = "Run `archiver init` for a new catalog, or `archiver doctor` to see what is wrong with this one."


class CatalogOutdated(ArchiverError):
    """the catalog {url} has schema {found}, this program needs {wanted}"""

    exit_code = 3
    hint = "Run `archiver db upgrade`."


class CatalogTooNew(ArchiverError):
    """the catalog {url} has schema {found}, this program only knows up to {wanted}"""

    exit_code = 3
    hint = "A newer archiver made it. Upgrade this one; a catalog is never downgraded."


class CatalogDowngrade(ArchiverError):
    """a catalog is never downgraded: revision {revision} cannot be taken back"""

    exit_code = 3
    hint = "Bring back the backup from before the upgrade, or run `archiver rebuild` into a new catalog."


class StateConflict(ArchiverError):
    """{path} is {found}, not {expected}: another process acted on it"""

    exit_code = 3
    hint = "Nothing was changed. Look at it with `archiver status FILE` and try again."


class AnotherInstance(ArchiverError):
    """another archiver daemon already serves this catalog ({holder})"""

    exit_code = 7
    hint = "Stop it first, or give this daemon its own catalog."


# -- tiers -------------------------------------------------------------------------------------------------------------


class TierUnreachable(ArchiverError):
    """tier {tier} cannot be reached: {reason}"""

    exit_code = 4
    hint = "Nothing was changed: an unreachable tier is never read as deleted files. Is it mounted?"


class TierBeingScanned(ArchiverError):
    """tier {tier} is being scanned already"""

    exit_code = 4
    hint = "The daemon scans on its schedule and after changes; try again when it is done."


class TierNotScanned(ArchiverError):
    """the first full scan of tier {tier} has not finished"""

    exit_code = 4
    hint = "Run `archiver scan`, then try again."


class NotTracked(ArchiverError):
    """{path} is not in the catalog"""

    exit_code = 4
    hint = "Run `archiver scan`, or `archiver rebuild` if the catalog was lost."


# -- records, placeholders, held originals -----------------------------------------------------------------------------


class RecordCorrupt(ArchiverError):
    """the record is damaged: {problem}"""

    exit_code = 5
    hint = "The catalog and the placeholder each hold a copy: `archiver verify` names the good one."


class RecordVersionUnknown(ArchiverError):
    """the record has version {version}, this program reads up to {known}"""

    exit_code = 5
    hint = "Upgrade archiver; records are never rewritten."


class PlaceholderDamaged(ArchiverError):
    """{path}: {problem}"""

    exit_code = 5
    hint = "`archiver verify` compares it with the catalog; `archiver undo` works within the grace period."


class EnvelopeDamaged(ArchiverError):
    """the placeholder's envelope is damaged: {problem}"""

    exit_code = 5
    hint = "`archiver verify` compares it with the catalog, which holds the same record."


class NotReleased(ArchiverError):
    """{path} is {state}: there is nothing to recall"""

    exit_code = 5


class NothingHeld(ArchiverError):
    """no original of {path} is held any more"""

    exit_code = 5
    hint = "Its grace period is over. `archiver recall` regenerates an image of the same meaning."


class HeldOriginalDamaged(ArchiverError):
    """the held original of {path} does not match its recorded hash"""

    exit_code = 5
    hint = "It was left where it is: {held}. Check the disk before anything else."


class FileModified(ArchiverError):
    """{path} was changed since it was {state}"""

    exit_code = 5
    hint = "It is treated as a new original. `archiver undo --to DIR` puts the held original beside it."


class NoRecord(ArchiverError):
    """there is no record of {path}"""

    exit_code = 5
    hint = "It carries none and the catalog has none: `archiver status FILE` says what is known of it."


class NotRecorded(ArchiverError):
    """{path} is {state}: only a recorded file can be released"""

    exit_code = 5


class FileBusy(ArchiverError):
    """{path} is being worked on by another archiver process"""

    exit_code = 7
    hint = "Nothing was changed. Try again in a moment."


class HardLinked(ArchiverError):
    """hard-linked: {path} has {links} names"""

    exit_code = 1
    hint = "Releasing one name would change what the others show, so such files stay resident."


class Pinned(ArchiverError):
    """pinned: {path}"""

    exit_code = 1
    hint = "`archiver unpin` lets it go."


class GateFailed(ArchiverError):
    """below the gate: {measure} {value}, the rule asks {floor}"""

    exit_code = 1
    hint = "The image stays as it is. A richer scheme or a lower floor in the rule's [rule.gate] would let it pass."


class TranscodeRefused(ArchiverError):
    """JPEG XL cannot carry these bytes: {problem}"""

    exit_code = 1
    hint = "The lossless scheme is for JPEG files that libjxl reads (no CMYK, no arithmetic coding, not damaged)."


class NothingSaved(ArchiverError):
    """kept without loss it would take {after} bytes of {before}"""

    exit_code = 1
    hint = "The image stays as it is: transcoding would free no block of the disk."


# -- models ------------------------------------------------------------------------------------------------------------


class ModelsNotInstalled(ArchiverError):
    """this needs the model libraries, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[decode]'"


class TranscoderNotInstalled(ArchiverError):
    """this needs the JPEG XL transcoder, which is not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[lossless]'"


class MeasuresNotInstalled(ArchiverError):
    """this needs the libraries that measure pictures, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[bench]'"


class NothingToMeasure(ArchiverError):
    """no photograph in {path}"""

    exit_code = 2
    hint = "Name a folder of JPEG, PNG, WebP or TIFF photographs, at least two."


class ProfileUnknown(ArchiverError):
    """no profile {profile} in the vault"""

    exit_code = 6
    hint = "`archiver models list` shows what there is; `archiver models import FILE` brings one in."


class WeightsDamaged(ArchiverError):
    """{path} does not have the pinned SHA-256"""

    exit_code = 6
    hint = "Nothing can be decoded from damaged weights: bring them back with `archiver models import`."


class ProfileInvalid(ArchiverError):
    """{path}: {problem}"""

    exit_code = 6
    hint = "This version cannot use that profile: `archiver models import` a whole one, or upgrade archiver."


class TrainingDataMissing(ArchiverError):
    """no tar file of photographs in {path}"""

    exit_code = 6
    hint = "Put WebP photographs into .tar files in that folder; docs/training.md says more."


class TrainingStageMissing(ArchiverError):
    """{path} is missing: the stage {stage} has not run"""

    exit_code = 6
    hint = "Run `archiver train --stage all`, or the missing stage first."


class ProfileInUse(ArchiverError):
    """profile {profile} is needed by {records} live records and cannot be removed"""

    exit_code = 6
    hint = "Without its weights these records are noise."


class PresetUnknown(ArchiverError):
    """profile {profile} has no preset {preset} for scheme {scheme}"""

    exit_code = 6
    hint = "Every profile has the presets `default` and `paper`; set `preset` under [model] in the configuration."


class SchemeUnsupported(ArchiverError):
    """profile {profile} cannot code scheme {scheme}: {reason}"""

    exit_code = 6
    hint = "`archiver models list` shows which schemes each profile offers."


class DecoderBusy(ArchiverError):
    """the decoder {where} has too much to do: {waiting} records wait already"""

    exit_code = 6
    hint = "Try again in a moment; `queue` under [decoder] in the configuration is how many may wait."


class DeadlineMissed(ArchiverError):
    """no picture within {seconds} s: the decoder {where} is too slow or has too much to do"""

    exit_code = 6
    hint = "`archiver decoder status` shows what it is doing. Nothing was changed."


class DecoderFailed(ArchiverError):
    """the decoder {where} failed: {reason}"""

    exit_code = 6
    hint = "Nothing was changed. It is started again for the next record; the log says more."


class DecoderUnreachable(ArchiverError):
    """the decoder {where} cannot be reached: {reason}"""

    exit_code = 6
    hint = "Is `archiver decoder serve` running there? `archiver decoder status` asks it. Nothing was changed."


class DecoderRefused(ArchiverError):
    """the decoder {where} refused the request: {reason}"""

    exit_code = 6
    hint = "Both sides need the same token ([decoder] token_file) and the same version of archiver."


class DecoderAnswerInvalid(ArchiverError):
    """the decoder {where} gave an answer that cannot be read: {problem}"""

    exit_code = 6
    hint = "Is it an `archiver decoder serve` of this version, and nothing else between?"


class DecoderProfileMissing(ArchiverError):
    """the decoder {where} has no profile {profile}"""

    exit_code = 6
    hint = "Bring it there: `archiver models export` where it is, `archiver models import` on the decoder's host."


class DecoderUnguarded(ArchiverError):
    """a decoder that listens on {address} needs a token: others can reach it"""

    exit_code = 2
    hint = "Set `token_file` under [decoder] or $ARCHIVER_DECODER_TOKEN, or listen on 127.0.0.1."


class ServerNotInstalled(ArchiverError):
    """this needs the libraries of the HTTP server, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[serve]'"


# -- single files: why an image stays resident -------------------------------------------------------------------------


class ImageRefused(ArchiverError):
    """{reason}: {detail}"""

    exit_code = 1
    hint = "The image stays as it is."


# -- the system: files, filesystems, permissions -----------------------------------------------------------------------


class FileOpen(ArchiverError):
    """{path} is open"""

    exit_code = 7
    hint = "A file that somebody has open is left alone; `fuser -v FILE` shows who. It is tried again on the next run."


class LeaseUnsupported(ArchiverError):
    """{path}: its filesystem cannot tell whether a file is open (no leases)"""

    exit_code = 7
    hint = "Nothing can be released safely there: network filesystems and FUSE cannot. Run archiver where the disk is."


class WatchLimit(ArchiverError):
    """the kernel lets no more be watched: {setting} is {value}"""

    exit_code = 7
    hint = "Raise it with `sysctl`; until then changes in the other folders are found by the periodic scan."


class NotRegular(ArchiverError):
    """{path} is not a regular file"""

    exit_code = 7
    hint = "Symlinks, directories, pipes and devices are never touched."


class FileVanished(ArchiverError):
    """{path} is no longer there"""

    exit_code = 7
    hint = "It was moved or deleted meanwhile; the next scan sees where it went."


class DiskFull(ArchiverError):
    """{path}: no space left"""

    exit_code = 7
    hint = "Free some space (or quota) on that filesystem; nothing was changed."


class ReadOnlyFilesystem(ArchiverError):
    """{path}: the filesystem is read-only"""

    exit_code = 7
    hint = "The kernel may have made it so after an error: look at `dmesg`, then remount it."


class InputOutputError(ArchiverError):
    """{path}: the disk failed ({reason})"""

    exit_code = 7
    hint = "Look at `dmesg` and the disk's health before anything else."


class RecallUnreachable(ArchiverError):
    """archiver-recall does not answer at {path}"""

    exit_code = 7
    hint = "`systemctl status archiver-recall` says why; without it, readers of released files see the placeholder."


class DeskUnreachable(ArchiverError):
    """no daemon answers at {path} ({reason})"""

    exit_code = 7
    hint = "Recalls by readers are the work of the daemon: `archiver run`, or `systemctl start archiver`."


class AnotherRecall(ArchiverError):
    """another archiver-recall listens at {path}"""

    exit_code = 7
    hint = "One is enough for all tiers: `systemctl status archiver-recall`."


class WatchingRefused(ArchiverError):
    """the kernel does not let archiver-recall watch reads: {reason}"""

    exit_code = 7
    hint = "It takes root or CAP_SYS_ADMIN, outside of a container. `archiver mount` needs neither."


class PermissionRefused(ArchiverError):
    """{path}: permission denied ({reason})"""

    exit_code = 7
    hint = "The daemon needs to own the files or to run with the capabilities of its systemd unit."


class FuseMissing(ArchiverError):
    """FUSE cannot be used here: {reason}"""

    exit_code = 7
    hint = "`pip install 'archiver[fuse]'`, and libfuse 3: the Debian package libfuse3-3 (for users but root: fuse3)."


class MountRefused(ArchiverError):
    """{mountpoint}: {reason}"""

    exit_code = 2
    hint = "MOUNTPOINT is an empty folder outside of the tiers; `umount -l MOUNTPOINT` removes what a dead server left."


class MountFailed(ArchiverError):
    """{mountpoint}: cannot be mounted: {reason}"""

    exit_code = 7
    hint = "It needs /dev/fuse and the right to mount: in a container --device /dev/fuse --cap-add SYS_ADMIN."


class SystemRefused(ArchiverError):
    """{path}: {reason}"""

    exit_code = 7
    hint = "`archiver doctor` shows what this filesystem can do."


_BY_ERRNO: dict[int, type[ArchiverError]] = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EROFS: ReadOnlyFilesystem,
    errno.EIO: InputOutputError,
    errno.EUCLEAN: InputOutputError,
    errno.ENODEV: InputOutputError,
    errno.ESTALE: InputOutputError,
    errno.EACCES: PermissionRefused,
    errno.EPERM: PermissionRefused,
    errno.ENOENT: FileVanished,
    errno.ENOTDIR: FileVanished,
}


def from_os_error(error: OSError, path: object = None) -> ArchiverError:
    """What a user is told about an OSError; `path` where the error does not name one itself."""
    named = error.filename if error.filename is not None else path
    if isinstance(named, bytes):
        named = named.decode("utf-8", "surrogateescape")
    kind = _BY_ERRNO.get(error.errno or 0, SystemRefused)
    return kind(path=named, reason=error.strerror or str(error))
