"""Models, decoders and measures."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


class ModelsNotInstalled(ArchiverError):
    """this needs the model libraries, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[decode]'"


class TranscoderNotInstalled(ArchiverError):
    """this needs the JPEG XL transcoder, which is not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[lossless]'"


class TrainingNotInstalled(ArchiverError):
    """this needs the libraries of training, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[train]'"


class MeasuresNotInstalled(ArchiverError):
    """this needs the libraries that measure pictures, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[bench]'"


class NothingToMeasure(ArchiverError):
    """no photograph in {path}"""

    exit_code = 2
    hint = "Name a folder of JPEG, PNG, WebP or TIFF photographs, at least two, that were not released."


class HubNotInstalled(ArchiverError):
    """this needs the libraries of the hub profiles, which are not installed ({missing})"""

    exit_code = 6
    hint = "pip install 'archiver[hub]'"


class HubUnreachable(ArchiverError):
    """{where} cannot be asked: {reason}"""

    exit_code = 6
    hint = (
        "What has come so far is kept: `archiver models pull` goes on from there. `mirror` under [vault] names another."
    )


class HubOffline(ArchiverError):
    """{where} is not asked: this installation is offline"""

    exit_code = 6
    hint = (
        "Use `archiver models export` where there is a network and `archiver models import` here; `offline` under "
        "[vault] in the configuration and $HF_HUB_OFFLINE say that it is."
    )


class HubFileMissing(ArchiverError):
    """{where} does not give {path}: {reason}"""

    exit_code = 6
    hint = "It was moved, withdrawn, or asks for a licence to be accepted ($HF_TOKEN); docs/models.md tells of mirrors."


class HubFileChanged(ArchiverError):
    """{path} is not what it should be: {problem}"""

    exit_code = 6
    hint = "Nothing of it was taken in. If it came damaged, pull again; do not trust other weights than were pinned."


class ProfileNotPulled(ArchiverError):
    """no pulled profile {profile} waits to be accepted"""

    exit_code = 6
    hint = "`archiver models list --all` shows what can be pulled, what was, and what is in the vault."


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


class NotAHubProfile(ProfileInvalid):
    """{path} describes no hub profile"""

    exit_code = 2
    hint = "Only these are pulled, pinned and unpinned: `archiver models list --all` shows them with their source."


class RecipeUnknown(ArchiverError):
    """no hub profile {name} is known"""

    exit_code = 6
    hint = "`archiver models list --all` shows what can be pulled; the path of a recipe of your own ends in .toml."


class CodebookNotTaken(ArchiverError):
    """profile {profile} takes no learnt codebook: its embeddings are short as they are"""

    exit_code = 2
    hint = "Hub profiles do; `archiver models list` shows what is in the vault."


class TooFewToLearnFrom(ArchiverError):
    """{found} pictures can be read, and a codebook is learnt on {least} or more"""

    exit_code = 2
    hint = "Name a folder with more photographs. They should be such as will be archived; thousands do better."


class TrainingDataMissing(ArchiverError):
    """no tar file of photographs in {path}"""

    exit_code = 6
    hint = "Put WebP photographs into .tar files in that folder; docs/training.md says more."


class TrainingDataDamaged(ArchiverError):
    """{path} is no whole tar file: {problem}"""

    exit_code = 6
    hint = "Bring it again from where it came, or move it out of that folder."


class TrainingStageMissing(ArchiverError):
    """{path} is missing: the stage {stage} has not run"""

    exit_code = 6
    hint = "Run `archiver train --stage all`, or the missing stage first."


class TrainingStale(ArchiverError):
    """{path} comes from an earlier stage as it was, and that has been trained further since"""

    exit_code = 6
    hint = "Remove it, and run its stage again."


class TrainingBegun(ArchiverError):
    """{path} holds a training that began otherwise"""

    exit_code = 2
    hint = "Give another --out; or go on with what is there: without --start, for pictures of the size it began with."


class GpuMissing(ArchiverError):
    """torch sees no GPU here"""

    exit_code = 6
    hint = "Leave --device away to train on the CPU. A GPU needs its driver and a build of torch for it."


class ProfileInUse(ArchiverError):
    """profile {profile} is needed by {records} live records and cannot be removed"""

    exit_code = 6
    hint = "Without its weights these records are noise."


class PresetUnknown(ArchiverError):
    """profile {profile} has no preset {preset} for scheme {scheme}"""

    exit_code = 6
    hint = "Every profile has the presets `default` and `paper`, embedded ones `fast`; set `preset` under [model]."


class SchemeUnsupported(ArchiverError):
    """profile {profile} cannot code scheme {scheme}: {reason}"""

    exit_code = 6
    hint = "`archiver models list` shows which schemes each profile offers."


class DecoderBusy(ArchiverError):
    """the decoder {where} has too much to do: {waiting} records wait already"""

    exit_code = 6
    hint = "Try again in a moment; `waiting` under [decoder] in the configuration is how many may wait."


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
    hint = (
        "Is `archiver decoder serve` running there? `archiver decoder status` asks it; `ca_file` under [decoder] names "
        "who vouches for a certificate of your own. Nothing was changed."
    )


class DecoderRefused(ArchiverError):
    """the decoder {where} refused the request: {reason}"""

    exit_code = 6
    hint = "Both sides need the same token ([decoder] token_file) and the same version of archiver."


class DecodeTooCostly(ArchiverError):
    """the decoder {where} refused a record that asks for the work of {runs} steps: {most} at most"""

    exit_code = 6
    hint = "No preset asks for so much: the record was not written by an archiver's own preset, or is damaged."


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
