"""Trees of Debian packages by mmdebstrap: installed, or only unpacked.

Where packages come from is taken from the building machine's own apt settings.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from skerry.builder.debian import sources_for
from skerry.builder.images import Package
from skerry.lib.proc import Runner

# Recommended packages and translations are weight; a mirror that is a snapshot has release files
# past their date.
_OPTIONS = (
    'APT::Install-Recommends "false"',
    'Acquire::Languages "none"',
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Check-Date "false"',
    'Acquire::Retries "3"',
)
_LIMIT_S = 900.0
_MAX_STATUS_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tree comes from; its files get the time of the day `as_of` at most."""

    suite: str
    architecture: str
    as_of: dt.date

    @property
    def epoch(self) -> int:
        """Seconds since 1970 of the day's begin."""
        day = self.as_of
        return int(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC).timestamp())


async def install_packages(
    packages: Sequence[str], origin: Origin, into: Path, *, runner: Runner, folder: bool = False
) -> None:
    """Install the packages over the essential ones into the tar `into`, or the folder."""
    options = ["--variant=essential", f"--format={'directory' if folder else 'tar'}"]
    await _bootstrap(packages, origin, into, runner, options)


async def unpack_packages(
    packages: Sequence[str], origin: Origin, into: Path, *, runner: Runner
) -> list[Package]:
    """Unpack the packages and what they need into the tar `into`; no script of theirs runs."""
    listing = into.with_name(f"{into.name}.list")
    hook = f'ls "$1/var/cache/apt/archives" > {shlex.quote(str(listing))}'
    options = ["--variant=extract", "--format=tar", f"--extract-hook={hook}"]
    await _bootstrap(packages, origin, into, runner, options)
    found = packages_in_listing(listing.read_text())
    listing.unlink()
    return found


def packages_in_listing(text: str) -> list[Package]:
    """Names and versions in a list of archive file names (NAME_VERSION_ARCHITECTURE.deb)."""
    found = re.findall(r"^([^_\s]+)_([^_\s]+)_[^_\s]+\.deb$", text, flags=re.MULTILINE)
    return [Package(name=name, version=unquote(version)) for name, version in sorted(found)]


def packages_in_tree(tree: Path) -> list[Package]:
    """Installed packages by the tar's own list of dpkg."""
    with tarfile.open(tree) as archive:
        for member in archive:
            if member.name.removeprefix("./") == "var/lib/dpkg/status":
                reading = archive.extractfile(member)
                data = reading.read(_MAX_STATUS_BYTES) if reading else b""
                return packages_in_status(data.decode(errors="replace"))
    return []


def packages_in_status(text: str) -> list[Package]:
    """Installed packages in dpkg's list."""
    found = []
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.+)$", stanza, flags=re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found.append(Package(name=fields["Package"], version=fields.get("Version", "")))
    return sorted(found, key=lambda package: package.name)


async def _bootstrap(
    packages: Sequence[str], origin: Origin, into: Path, runner: Runner, options: list[str]
) -> None:
    await runner.run(
        [
            *("nice", "mmdebstrap", "--quiet", "--mode=root", *options),
            f"--architectures={origin.architecture}",
            *(f"--aptopt={option}" for option in _OPTIONS),
            f"--include={','.join(packages)}",
            *(origin.suite, str(into), "-"),
        ],
        timeout_s=_LIMIT_S,
        stdin=sources_for(origin.suite).encode(),
        env={"SOURCE_DATE_EPOCH": str(origin.epoch)},
    )
