"""Does everything work here? Looks at every part, leaves everything as it was."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from archiver.access import fanotify
from archiver.access.client import RecallClient
from archiver.access.protocol import How
from archiver.catalog import Catalog
from archiver.catalog.rows import TierRow
from archiver.catalog.tiers import IDENTITY
from archiver.checks import Check, Report, Verdict, belonging, broken
from archiver.codec import lossless
from archiver.codec.record import NO_PROFILE, Scheme
from archiver.config import LocalTierSettings, Settings, TierSettings, load
from archiver.decoder import status as decoder_status
from archiver.decoder.queued import steering_of
from archiver.errors import (
    ArchiverError,
    CatalogOutdated,
    CatalogTooNew,
    CatalogUnavailable,
    DecoderProfileMissing,
    ProfileUnknown,
    from_os_error,
)
from archiver.lifecycle import journal
from archiver.models.vault import Vault
from archiver.tiers.local import Abilities, LocalTier
from archiver.units import about_duration, about_size, counted

_LIBRARIES = ("torch", "diffusers", "safetensors", "efficientnet_lite_pytorch")
_LITTLE = 200 * 10**6  # bytes; a catalog that cannot grow stops everything
_FEW = 1000  # inodes; every original that is held has a placeholder beside it
_YOUNGEST = datetime(2026, 1, 1, tzinfo=UTC)  # no clock is right that says an earlier year than this program's
_NEEDED = {0: "CAP_CHOWN", 1: "CAP_DAC_OVERRIDE", 3: "CAP_FOWNER", 28: "CAP_LEASE"}  # linux/capability.h


def examine(config: Path) -> Report:
    """Look at everything that the configuration at `config` names. Raises nothing that a user could meet."""
    try:
        settings = load(config)
    except ArchiverError as error:
        return Report((broken("configuration", error),))
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("configuration", lambda: _configuration(config, settings)),
        ("libraries", lambda: _libraries(settings)),
        ("decoder", lambda: _decoder(settings)),
        ("privileges", _privileges),
        ("clock", lambda: _clock(settings)),
        ("vault", lambda: _vault(settings)),
        ("catalog", lambda: _catalog(settings)),
        ("archiver-recall", lambda: _recall_service(settings)),
    ]
    for tier in settings.tier:
        parts.append((f"tier {tier.name}", lambda tier=tier: _tier(settings, tier)))  # type: ignore[misc]
    return Report(tuple(check for name, part in parts for check in _guarded(name, part)))


def _guarded(name: str, part: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """One part's failure is a finding and does not keep the others from being looked at."""
    try:
        yield from part()
    except (CatalogUnavailable, CatalogOutdated, CatalogTooNew) as error:
        if name == "catalog":
            yield broken(name, error)
        else:
            yield Check(name, Verdict.WARNING, "not looked at without the catalog")
    except ArchiverError as error:
        yield broken(name, error)
    except OSError as error:
        yield broken(name, from_os_error(error))


# -- the machine -------------------------------------------------------------------------------------------------------


def _configuration(path: Path, settings: Settings) -> Iterator[Check]:
    found = f"{path}: {len(settings.tier)} tier(s), {len(settings.rule)} rule(s)"
    if not settings.tier or not settings.rule:
        what = "tier" if not settings.tier else "rule"
        yield Check("configuration", Verdict.WARNING, found, f"Without a [[{what}]] nothing is ever archived.")
    else:
        yield Check("configuration", Verdict.OK, found)
    if settings.redacted_url != settings.catalog.url and "***" in settings.redacted_url:
        holder = settings.catalog.url_file or path
        if holder.stat().st_mode & 0o077:
            hint = f"It holds a database password: chmod 600 {holder}"
            yield Check("configuration", Verdict.WARNING, f"{holder} can be read by other users", hint)


def _libraries(settings: Settings) -> Iterator[Check]:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        lost = "archived or recalled" if settings.decoder.url is None else "archived"
        found = f"not installed: {', '.join(missing)}; nothing can be {lost} here"
        yield Check("model libraries", Verdict.WARNING, found, "pip install 'archiver[decode]'")
    else:
        yield Check("model libraries", Verdict.OK, "installed")


def _decoder(settings: Settings) -> Iterator[Check]:
    """Whether the host that decodes for this one answers, if there is one."""
    if settings.decoder.url is not None:
        found = decoder_status.examine(settings)
        profiles = ", ".join(found.profiles) or "no profile: it can decode nothing"
        verdict = Verdict.OK if found.profiles else Verdict.WARNING
        yield Check("decoder", verdict, f"{found.where}, version {found.version}, {profiles}")
        yield from _guarded("decoder's profiles", lambda: _lacking(settings, found))


def _lacking(settings: Settings, decoder: decoder_status.DecoderStatus) -> Iterator[Check]:
    """The profiles that records here need and the host that decodes them does not have."""
    with Catalog.open(settings.catalog_url) as catalog:
        needed = {use.profile: f"{use.live:,} live records" for use in catalog.profiles() if use.live}
    with suppress(ProfileUnknown):  # `_model` tells of it
        needed.setdefault(Vault(settings.vault.path).named(settings.model.profile).key, "each new record")
    needed.pop(NO_PROFILE, None)  # what is kept without loss is decoded here
    for profile, who in needed.items():
        if not any(name.endswith(f"({profile.hex()})") for name in decoder.profiles):
            finding = f"{profile.hex()} is not there: no image of {who}"
            yield Check("decoder's profiles", Verdict.BROKEN, finding, DecoderProfileMissing.hint)


def _privileges() -> Iterator[Check]:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    held = int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16)
    lacking = [name for bit, name in _NEEDED.items() if not held >> bit & 1]
    who = f"user {os.geteuid()}"
    if lacking:
        found = f"{who}, without {', '.join(lacking)}: only files of this user can be released"
        yield Check(
            "privileges",
            Verdict.WARNING,
            found,
            "Fine where all files are this user's; else run it as its systemd unit does.",
        )
    else:
        yield Check("privileges", Verdict.OK, f"{who}, may act on everybody's files")


def _clock(settings: Settings) -> Iterator[Check]:
    now = datetime.now(UTC)
    if now < _YOUNGEST:
        yield Check(
            "clock", Verdict.BROKEN, f"it says {now:%Y-%m-%d}", "Set it: ages and grace periods are counted by it."
        )
        return
    with Catalog.open(settings.catalog_url) as catalog:
        last = next((row.at for row in islice(catalog.audit_rows(limit=1), 1)), 0)
    behind = last - time.time()
    if behind > 60:
        span = about_duration(datetime.fromtimestamp(last, UTC) - now)
        yield Check(
            "clock",
            Verdict.BROKEN,
            f"{span} behind the last act in the catalog",
            "Set it: grace periods are counted by it.",
        )
    else:
        yield Check("clock", Verdict.OK, f"{now:%Y-%m-%d %H:%M} UTC, not before the last act")


# -- what is kept ------------------------------------------------------------------------------------------------------


def _vault(settings: Settings) -> Iterator[Check]:
    vault = Vault(settings.vault.path)
    for profile in vault.list():
        subject = f"profile {profile.name}"
        try:
            vault.verify(profile)
            yield Check(subject, Verdict.OK, f"{profile.fingerprint.hex()[:16]}, every weight file matches its SHA-256")
        except ArchiverError as error:
            yield broken(subject, error)
    yield from _model(settings, vault)
    with Catalog.open(settings.catalog_url) as catalog:
        uses = catalog.profiles()
    yield from _transcoder(settings, sum(use.live for use in uses if use.profile == NO_PROFILE))
    for use in uses:
        if use.profile == NO_PROFILE:
            continue
        subject = f"records of profile {use.profile.hex()[:16]}"
        if vault.holds(use.profile):
            yield Check(subject, Verdict.OK, f"{use.live:,} live records can be decoded")
        else:
            found = f"{use.live:,} live records cannot be decoded: their weights are not in the vault"
            yield Check(subject, Verdict.BROKEN, found, "Bring them back with `archiver models import FILE`.")


def _model(settings: Settings, vault: Vault) -> Iterator[Check]:
    """What the profile that codes lacks of what the rules ask of it."""
    model = settings.model
    try:
        profile = vault.named(model.profile)
        for label in sorted({rung for rule in settings.rule for rung in rule.rungs} - {Scheme.LOSSLESS.label}):
            steering_of(profile, model.preset, Scheme.parse(label))
    except ArchiverError as error:
        yield broken("model", error)


def _transcoder(settings: Settings, live: int) -> Iterator[Check]:
    """What lossless records need instead of weights; nothing is said where neither a rule nor a record asks for it."""
    wanting = [rule.name for rule in settings.rule if "lossless" in rule.rungs]
    if not live and not wanting:
        return
    subject, hint = "lossless records", "pip install 'archiver[lossless]'"
    if lossless.is_installed():
        yield Check(subject, Verdict.OK, f"{live:,} live, and the JPEG XL transcoder is installed")
    elif live:
        yield Check(subject, Verdict.BROKEN, f"{live:,} live, and no JPEG XL transcoder to restore them", hint)
    else:
        found = f"no JPEG XL transcoder is installed, which rule {', '.join(wanting)} asks for"
        yield Check(subject, Verdict.WARNING, found, hint)


def _catalog(settings: Settings) -> Iterator[Check]:
    if settings.catalog_url.startswith("sqlite"):
        # First, for on a full disk it cannot even be opened, and says "disk I/O error".
        file = Path("/" + settings.catalog_url.partition(":///")[2].lstrip("/").partition("?")[0])
        if file.exists():
            yield from _database_file(file)
    with Catalog.open(settings.catalog_url) as catalog:
        yield Check("catalog", Verdict.OK, settings.redacted_url)
        damage = catalog.integrity()
        if damage:
            hint = "Stop the daemon, keep this file, restore a backup or `archiver rebuild` into a new catalog."
            yield Check("catalog", Verdict.BROKEN, "; ".join(damage[:3]), hint)
        wrong = catalog.recount(correct=False)
        if wrong:
            found = ", ".join(f"{one.tier} {one.what}: {one.files} instead of {one.counted_files}" for one in wrong)
            yield Check("counters", Verdict.WARNING, found, "`archiver verify` counts anew.")
        else:
            yield Check("counters", Verdict.OK, "agree with the rows")
        yield from _unnamed_tiers(settings, catalog)


def _unnamed_tiers(settings: Settings, catalog: Catalog) -> Iterator[Check]:
    """Tiers that somebody took out of the configuration, or gave another name, with files that are not forgotten."""
    named = {tier.name for tier in settings.tier}
    for known in catalog.summary():
        tracked = sum(count.files for count in known.states)
        if known.tier.name in named or not tracked:
            continue
        found = f"not in the configuration: {counted(tracked, 'file')}, {counted(known.held_files, 'original')} held"
        hint = "Nothing there is verified or expires, and its pins protect nothing, until it is named so again."
        yield Check(f"tier {known.tier.name}", Verdict.WARNING, found, hint)


def _database_file(path: Path) -> Iterator[Check]:
    if path.stat().st_mode & stat.S_IWOTH:
        yield Check("catalog", Verdict.BROKEN, f"{path} can be written by everybody", f"chmod 600 {path}")
    free = shutil.disk_usage(path.parent).free
    if free > _LITTLE:
        yield Check("catalog's disk", Verdict.OK, f"{about_size(free)} free")
    else:
        hint = "Make room there: while it is full nothing is archived, recalled or given back."
        yield Check("catalog's disk", Verdict.WARNING, f"{about_size(free)} free", hint)


# -- tiers -------------------------------------------------------------------------------------------------------------


def _tier(settings: Settings, tier: TierSettings) -> Iterator[Check]:
    with Catalog.open(settings.catalog_url) as catalog:
        row = next((row for row in catalog.tiers() if row.name == tier.name), None)
        identity = catalog.setting(IDENTITY)
    if isinstance(tier, LocalTierSettings):
        yield from _folder(settings, LocalTier(tier), row, identity)
    else:
        from archiver.s3.checkup import look_at

        yield from look_at(tier, row, identity)


def _folder(settings: Settings, tier: LocalTier, row: TierRow | None, identity: str | None) -> Iterator[Check]:
    subject = f"tier {tier.name}"
    try:
        tier.expect(row.identity if row else None)
        tier.check()
        yield _space(subject, settings, tier)
        yield _abilities(subject, tier.probe())
        yield _recall_on_read(subject, tier, settings.recall.events)
        under_way = len(list(journal.left_behind(tier.journal_fd)))
        if under_way:
            hint = "A crash left them; the next start of the daemon settles them, or `archiver reconcile`."
            yield Check(subject, Verdict.WARNING, f"{under_way} interrupted act(s)", hint)
        yield from belonging(tier, identity)
        if row is None or row.first_scan_done_at is None:
            yield Check(subject, Verdict.WARNING, "never scanned", "`archiver scan`; nothing is archived before.")
    finally:
        tier.close()


def _space(subject: str, settings: Settings, tier: LocalTier) -> Check:
    space = tier.space()
    found = f"{tier.root}: {about_size(space.free)} free of {about_size(space.total)}"
    if space.free < settings.release.min_free:
        return Check(
            subject, Verdict.WARNING, found, "Below release.min_free: nothing is released until there is more."
        )
    if space.files is not None and space.files < _FEW:
        hint = "A placeholder beside its held original takes one inode more: without any nothing is released."
        return Check(subject, Verdict.WARNING, f"{found}, room for {space.files:,} more files", hint)
    return Check(subject, Verdict.OK, found)


def _recall_service(settings: Settings) -> Iterator[Check]:
    """Whether anybody lets readers of released files wait."""
    socket = settings.recall.socket
    if settings.recall.mode == "managed":
        yield Check("archiver-recall", Verdict.OK, 'reads recall nothing: recall.mode is "managed"')
        return
    if settings.tier and not any(isinstance(tier, LocalTierSettings) for tier in settings.tier):
        yield Check("archiver-recall", Verdict.OK, "not needed: buckets are read through `archiver s3 gateway`")
        return
    with RecallClient(socket) as client:
        if client.connected:
            yield Check("archiver-recall", Verdict.OK, f"answers at {socket}")
            return
    hint = "`systemctl enable --now archiver-recall`, or read through `archiver mount`."
    yield Check("archiver-recall", Verdict.WARNING, f"not at {socket}: readers see placeholders", hint)


def _recall_on_read(subject: str, tier: LocalTier, events: str) -> Check:
    """What this kernel can tell us of readers of a tier, and what of it the configuration wants."""
    try:
        group = fanotify.open_group()
    except OSError as error:
        hint = "Only root outside of a container can tell; archiver-recall.service can do what this user cannot."
        found = f"recall on read: not found out ({error.strerror})"
        return Check(subject, Verdict.OK if isinstance(error, PermissionError) else Verdict.WARNING, found, hint)
    try:
        how = fanotify.ability(group, tier.root_fd)
    finally:
        os.close(group)
    if how is not How.NOTHING and events == "open":
        return Check(subject, Verdict.OK, "recall on read: when a file is opened, as [recall] events says")
    if how is How.READ:
        return Check(subject, Verdict.OK, "recall on read: when a file is read (FAN_PRE_ACCESS)")
    if how is How.OPEN:
        hint = "Linux 6.14 and ext4, xfs or btrfs see reads: opening a file is then no reason to recall it."
        return Check(subject, Verdict.WARNING, "recall on read: when a file is opened (FAN_OPEN_PERM)", hint)
    return Check(
        subject, Verdict.WARNING, "recall on read: this filesystem cannot", "Read it through `archiver mount`."
    )


def _abilities(subject: str, able: Abilities) -> Check:
    needs = {
        "leases": able.lease,
        "atomic exchange": able.exchange,
        "holes": able.punch_hole,
        "extended attributes": able.xattr,
    }
    kind = able.filesystem or "filesystem of unknown kind"
    if not able.writable:
        return Check(subject, Verdict.BROKEN, f"{kind}, read-only", "Nothing can be released or recalled.")
    if lacking := [name for name, there in needs.items() if not there]:
        hint = "Nothing can be released there. Run archiver where the disk is; ext4, xfs and btrfs have them."
        return Check(subject, Verdict.BROKEN, f"{kind}, without {', '.join(lacking)}", hint)
    found = f"{kind}: {', '.join(needs)}"
    if not able.atime:
        hint = "Ages are counted from what the daemon's watcher sees and from changes, not from reads before it ran."
        return Check(subject, Verdict.WARNING, f"{found}; mounted noatime", hint)
    return Check(subject, Verdict.OK, found)
