"""models: the profiles in the vault, without which records are noise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, interruptible, pass_invocation
from archiver.cli.output import Column, Output, printable
from archiver.cli.progress import advancing
from archiver.cli.verb import VerbGroup
from archiver.errors import EXIT_OK, EXIT_WARNINGS, ArchiverError, ModelsNotInstalled, NotAHubProfile, ProfileUnknown
from archiver.formats.folder import photographs
from archiver.models.profiles import PROFILE_FILE, ProfileInfo
from archiver.models.vault import Vault
from archiver.units import format_size

if TYPE_CHECKING:
    from archiver.models.hub.recipes import Memory, Recipe


@dataclass(frozen=True, slots=True)
class Listed:
    """A profile and how many records need it."""

    name: str
    fingerprint: bytes
    licence: str
    long_side: int
    schemes: tuple[str, ...]
    live_records: int
    records: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A hub profile that is not in the vault. state: "to be pulled", or "pulled, not accepted"."""

    name: str
    state: str
    licence: str
    long_side: int
    schemes: tuple[str, ...]
    about: str


@click.group(cls=VerbGroup)
def models() -> None:
    """Pull, accept, verify, export, import or remove profiles."""


@models.command("list", example="archiver models list --all")
@click.option("--all", "everything", is_flag=True, help="Also what can be pulled, and what waits to be accepted.")
@pass_invocation
def list_(invocation: Invocation, everything: bool) -> int:
    """List the profiles in the vault and how many records need each."""
    uses = _uses(invocation)
    vault = _vault(invocation)
    listed = [_listed(profile, uses) for profile in vault.list()]
    for profile in listed:
        invocation.output.json(profile, "profile")
    if everything:
        _list_offers(invocation.output, vault, {profile.name for profile in listed})
    invocation.output.table(
        [
            Column("profile"),
            Column("fingerprint"),
            Column("side", number=True),
            Column("live records", number=True),
            Column("schemes"),
            Column("licence"),
        ],
        [
            [one.name, one.fingerprint.hex()[:16], one.long_side, one.live_records, ", ".join(one.schemes), one.licence]
            for one in listed
        ],
    )
    return 0


@models.command(example="archiver models show sd15")
@click.argument("name", metavar="PROFILE")
@pass_invocation
def show(invocation: Invocation, name: str) -> int:
    """Show what a profile is made of.

    Its schemes and presets, its licence, and every file with its pinned SHA-256; of hub profiles also where each comes
    from and how much memory it takes.
    """
    from archiver.models.hub.pulling import all_pulled
    from archiver.models.hub.recipes import find_recipe, read_recipe

    vault, recipe = _vault(invocation), None
    try:
        profile, state = vault.named(name), "in the vault"
        with suppress(NotAHubProfile):  # an embedded one
            recipe = read_recipe(vault.directory(profile.fingerprint) / PROFILE_FILE)
    except ProfileUnknown:
        waiting = {one.info.name: one for one in all_pulled(vault)}
        recipe = waiting.get(name) or find_recipe(name)
        profile, state = recipe.info, "pulled, not accepted" if name in waiting else "to be pulled"
    _show(invocation.output, profile, recipe, state)
    return EXIT_OK


@models.command(example="archiver models pull sd15\narchiver models pull sd15 --accept")
@click.argument("name", metavar="PROFILE|FILE.toml")
@click.option("--accept", is_flag=True, help="Trust what comes: pin its hashes at once.")
@pass_invocation
def pull(invocation: Invocation, name: str, accept: bool) -> int:
    """Fetch a hub profile's weights.

    From huggingface.co, or the mirror that the configuration names. A pull that broke off goes on where it was. Where
    the profile pins its files, they are compared and it is ready. Where it does not, this is trust on first use: the
    hashes of what came are shown and written down, and nothing is used until you accept them, now with --accept or
    later with `archiver models pin`.
    """
    from archiver.models.hub.pulling import Hub, pin, pull, pulled
    from archiver.models.hub.recipes import find_recipe

    settings, vault, output = invocation.settings.vault, _vault(invocation), invocation.output
    recipe = find_recipe(name)
    with output.busy(f"pulling {recipe.info.name}") as tell:
        profile = pull(recipe, vault, Hub(settings.mirror, offline=settings.offline), tell)
    if accept or recipe.is_pinned:
        _tell(output, pin(vault, profile.name), "pulled, in the vault")
        return EXIT_OK
    _show(output, profile, pulled(vault, profile.name), "pulled, not accepted")
    output.warn(f"nobody vouches for these hashes; if you do: archiver models pin {profile.name}")
    return EXIT_WARNINGS


@models.command(example="archiver models pin sd15")
@click.argument("name", metavar="PROFILE")
@pass_invocation
def pin(invocation: Invocation, name: str) -> int:
    """Accept the hashes of a profile that was pulled.

    Trust on first use: what came first is what every later copy and every `archiver models verify` is compared with.
    """
    from archiver.models.hub.pulling import pin

    _tell(invocation.output, pin(_vault(invocation), name), "pinned, in the vault")
    return EXIT_OK


@models.command(example="archiver models unpin sd15")
@click.argument("name", metavar="PROFILE")
@pass_invocation
def unpin(invocation: Invocation, name: str) -> int:
    """Take back that a hub profile's hashes were accepted.

    It leaves the vault; its files wait as if just pulled. Refused while a live record needs it.
    """
    from archiver.models.hub.pulling import unpin

    vault = _vault(invocation)
    profile = vault.named(name)
    unpin(vault, profile, _listed(profile, _uses(invocation)).live_records)
    _tell(invocation.output, profile, "no longer pinned, not in the vault")
    return EXIT_OK


@models.command(example="archiver models learn sd15 ~/Pictures\narchiver models learn sd15 ~/Pictures --count 5000")
@click.argument("name", metavar="PROFILE")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--count", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N", help="Look at so many of them."
)
@pass_invocation
def learn(invocation: Invocation, name: str, folder: Path, count: int) -> int:
    """Learn to write a hub profile's embeddings shorter.

    What its encoder sees in your own pictures becomes a codebook, and embeddings take 57 bytes rather than 100 or 132.
    Profile and codebook are a new profile of the same name, which codes new records, those of a running daemon once it
    is restarted. The one without it stays for the records that need it.
    """
    try:
        from archiver.decoder.learning import learn
    except ImportError as error:
        raise ModelsNotInstalled(missing=error.name or error) from None
    from archiver.access.client import let_through
    from archiver.models.hub.codebooks import with_codebook

    vault, output = _vault(invocation), invocation.output
    profile, paths = vault.named(name), photographs(folder, count)
    told = advancing(output, "looking", "looked at", len(paths))
    # Placeholders are left out, and not recalled for this.
    with let_through(invocation.settings.recall.socket), interruptible(invocation) as stop, told as advance:
        found = learn(vault, profile, paths, invocation.settings.decoder.device, stop, advance)
    if found is None:
        return EXIT_INTERRUPTED
    made = with_codebook(vault, profile, found.codebook, f"{found.pictures} pictures")
    output.json(
        {
            "profile": made.name,
            "fingerprint": made.fingerprint,
            "result": "learnt",
            **{key: getattr(found, key) for key in ("pictures", "left_out", "now", "before")},
        },
        "profile",
    )
    output.text(f"{made.name} ({made.fingerprint.hex()[:16]}): in the vault, learnt from {found.pictures} pictures")
    ways = (("by the codebook", found.now), ("by a bit a dimension", found.before))
    output.table(
        [Column("embedding"), Column("bytes", number=True), Column("cosine", number=True)],
        [[way, coded.size, f"{coded.cosine:.3f}"] for way, coded in ways],
        title="of pictures that it was not learnt from",
    )
    for path, reason in found.left_out.items():
        output.warn(f"{printable(str(path))} was left out: {printable(reason)}")
    return EXIT_WARNINGS if found.left_out else EXIT_OK


@models.command(example="archiver models verify")
@click.argument("names", metavar="[PROFILE]...", nargs=-1)
@pass_invocation
def verify(invocation: Invocation, names: tuple[str, ...]) -> int:
    """Compare every weight file with its pinned SHA-256."""
    vault, code = _vault(invocation), 0
    for profile in [vault.named(name) for name in names] or vault.list():
        try:
            vault.verify(profile)
        except ArchiverError as error:
            invocation.output.error(error)
            code = error.exit_code
            continue
        _tell(invocation.output, profile, "whole")
    return code


@models.command(example="archiver models export embedded-1 /mnt/usb/embedded-1.tar")
@click.argument("name", metavar="PROFILE")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_invocation
def export(invocation: Invocation, name: str, file: Path) -> int:
    """Write a profile as one tar file.

    It is verified first. Keep it where the archive is not.
    """
    vault = _vault(invocation)
    profile = vault.named(name)
    vault.export_tar(profile, file)
    _tell(invocation.output, profile, f"written to {file}")
    return 0


@models.command("import", example="archiver models import /mnt/usb/embedded-1.tar")
@click.argument("source", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@pass_invocation
def import_(invocation: Invocation, source: Path) -> int:
    """Bring in a profile.

    From a file that was exported, or from a folder with a profile.toml and its weights. Every file is compared with
    its pinned hash. A profile of the same fingerprint that is damaged is repaired by it.
    """
    vault = _vault(invocation)
    profile = vault.import_directory(source) if source.is_dir() else vault.import_tar(source)
    _tell(invocation.output, profile, "in the vault")
    return 0


@models.command(example="archiver models remove embedded-0")
@click.argument("name", metavar="PROFILE")
@pass_invocation
def remove(invocation: Invocation, name: str) -> int:
    """Remove a profile that no live record needs.

    Refused for any other: without its weights a record is noise.
    """
    vault = _vault(invocation)
    profile = vault.named(name)
    vault.remove(profile, _listed(profile, _uses(invocation)).live_records)
    _tell(invocation.output, profile, "removed")
    return 0


def _list_offers(output: Output, vault: Vault, there: set[str]) -> None:
    from archiver.models.hub.pulling import all_pulled
    from archiver.models.hub.recipes import packaged

    states = {recipe.info.name: (recipe, "to be pulled") for recipe in packaged()}
    states |= {recipe.info.name: (recipe, "pulled, not accepted") for recipe in all_pulled(vault)}
    offered = [
        Offered(name, state, recipe.info.licence, recipe.info.long_side, _labels(recipe.info), recipe.about)
        for name, (recipe, state) in states.items()
        if name not in there
    ]
    for offer in offered:
        output.json(offer, "offer")
    output.table(
        [Column("not in the vault"), Column("state"), Column("side", number=True), Column("schemes"), Column("what")],
        [[one.name, one.state, one.long_side, ", ".join(one.schemes), one.about] for one in offered],
    )


def _show(output: Output, profile: ProfileInfo, recipe: Recipe | None, state: str) -> None:
    known = state != "to be pulled" or (recipe is not None and recipe.is_pinned)
    output.json(
        {
            "name": profile.name,
            "state": state,
            "fingerprint": profile.fingerprint if known else None,
            "profile": profile,
            "memory_mib": recipe.memory if recipe else None,
            "sources": recipe.sources if recipe else (),
        },
        "profile",
    )
    output.facts(
        [
            ("state", state),
            ("what", recipe.about if recipe else ""),
            ("fingerprint", profile.fingerprint.hex() if known else ""),
            ("licence", profile.licence),
            ("working size", f"{profile.long_side} pixels, sides multiples of {profile.multiple}"),
            ("schemes", ", ".join(_labels(profile))),
            ("own presets", ", ".join(sorted({preset.name for preset in profile.presets}))),
            ("memory", _memory(recipe.memory) if recipe else ""),
        ],
        title=profile.name,
    )
    if recipe is None:
        output.facts([(file.name, file.sha256) for file in profile.files], title="SHA-256")
        return
    output.table(
        [Column("file"), Column("from"), Column("revision"), Column("size", number=True), Column("SHA-256")],
        [
            [
                source.name,
                f"{source.repository}/{source.path}",
                source.revision[:12],
                "" if source.size is None else format_size(source.size),
                source.sha256 or "not known before the first pull",
            ]
            for source in recipe.sources
        ]
        + [
            [file.name, "learnt here", "", "", file.sha256]
            for file in profile.files
            if file.name not in {source.name for source in recipe.sources}
        ],
    )


def _memory(memory: Memory) -> str:
    return (
        f"weights that decode: {memory.decode_gpu} MiB on a GPU, {memory.decode_cpu} on a CPU; "
        f"that encode besides: {memory.encode_cpu} on a CPU"
    )


def _labels(profile: ProfileInfo) -> tuple[str, ...]:
    return tuple(scheme.label for scheme in profile.schemes)


def _vault(invocation: Invocation) -> Vault:
    return Vault(invocation.settings.vault.path)


def _uses(invocation: Invocation) -> dict[bytes, tuple[int, int]]:
    """Live and all records by profile key. Raises CatalogUnavailable: without a catalog nobody knows what is needed."""
    from archiver.catalog import Catalog

    with Catalog.open(invocation.settings.catalog_url) as catalog:
        return {use.profile: (use.live, use.total) for use in catalog.profiles()}


def _listed(profile: ProfileInfo, uses: dict[bytes, tuple[int, int]]) -> Listed:
    # Records carry the first bytes of a fingerprint.
    needed = [counts for key, counts in uses.items() if profile.fingerprint.startswith(key)]
    return Listed(
        profile.name,
        profile.fingerprint,
        profile.licence,
        profile.long_side,
        _labels(profile),
        sum(live for live, _ in needed),
        sum(total for _, total in needed),
    )


def _tell(output: Output, profile: ProfileInfo, what: str) -> None:
    output.json({"profile": profile.name, "fingerprint": profile.fingerprint, "result": what}, "profile")
    output.text(f"{profile.name} ({profile.fingerprint.hex()[:16]}): {what}")
