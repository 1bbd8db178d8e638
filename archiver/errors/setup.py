"""Configuration, catalog and tiers: why nothing can begin."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


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
    hint = (
        "Name a folder that has some which were not released (`archiver demo DIR`), "
        "or `pip install 'archiver[demo]'` for a few free ones."
    )


class TierUnknown(ArchiverError):
    """there is no tier {tier}, only {known}"""

    exit_code = 2
    hint = "`archiver config check` lists the tiers and their folders."


class NotInAnyTier(ArchiverError):
    """{path} lies in no configured tier"""

    exit_code = 2
    hint = "`archiver config check` lists the tiers and their folders."


class CatalogUnavailable(ArchiverError):
    """the catalog {url} cannot be opened: {reason}"""

    exit_code = 3
    hint = (
        "`archiver init` makes a first one. Where one was lost, `archiver rebuild` makes it of the placeholders; "
        "`archiver doctor` tells what is wrong with one that is there."
    )


class PostgresqlNotInstalled(CatalogUnavailable):
    """the catalog {url} cannot be opened: PostgreSQL needs psycopg, which cannot be used here ({reason})"""

    hint = "pip install 'archiver[postgresql]'"


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


class TierUnreachable(ArchiverError):
    """tier {tier} cannot be reached: {reason}"""

    exit_code = 4
    hint = (
        "Nothing was changed: an unreachable tier is never read as deleted files. Is it mounted? If its disk was "
        "replaced by a copy: `archiver rebuild --accept TIER`."
    )


class TierEmpty(TierUnreachable):
    """tier {tier} cannot be reached: {root} is empty"""

    hint = "Nothing was changed. Mount its disk there, or copy the tier's files there, `.archiver` too; then try again."


class TierOfAnotherCatalog(ArchiverError):
    """tier {tier} is archived with another catalog than this one"""

    exit_code = 4
    hint = (
        "Nothing is released there and no original deleted: only that catalog knows until when they are held. Name it "
        "as [catalog] url. Where it is lost or given up: `archiver rebuild` makes the tier this one's."
    )


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
