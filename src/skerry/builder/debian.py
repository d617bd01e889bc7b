"""Small trees of Debian packages, from the archive that the building machine itself uses.

No mirror's address is part of skerry: the sources of another suite are derived from the
machine's own apt sources, and only a machine that is not Debian falls back to the archive's
public name. Packages are extracted, not installed: no maintainer script runs.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from skerry.builder.tarball import TarEntry, link_entry
from skerry.lib.errors import NotAllowedHere
from skerry.lib.proc import Runner

_FALLBACK = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Nothing in a container reads these; leaving them out halves the layer. The package manager's own
# settings and what it copied from this machine (name, resolver, archive addresses) stay out too.
_UNWANTED = re.compile(
    r"usr/share/(doc|man|info|locale|lintian|bug|bash-completion|zsh|initramfs-tools)/"
    r"|usr/share/(nftables|gcc|gdb)/"
    r"|usr/lib/[^/]+/(gconv|engines-3|ossl-modules)/"
    r"|etc/(apt|dpkg|cron[^/]*|init[^/]*|modprobe\.d|depmod\.d|fstab|hostname|resolv\.conf)/"
)
_WANTED = re.compile(r"(usr|etc|bin|sbin|lib|lib64)/")


def sources_for(suite: str, *, etc_apt: Path = Path("/etc/apt")) -> str:
    """deb822 sources of `suite`, on the servers that this machine's own sources name."""
    stanzas = []
    for server, own, components in _own_sources(etc_apt):
        codename = own[0].split("-")[0].split("/")[0]
        suites = [suite + entry[len(codename) :] for entry in own if entry.startswith(codename)]
        stanzas.append(
            f"Types: deb\nURIs: {server}\nSuites: {' '.join(suites)}\n"
            f"Components: {components}\nSigned-By: {_KEYRING}\n"
        )
    return "\n".join(stanzas) or _FALLBACK.format(suite=suite)


async def extract_packages(
    packages: Sequence[str], *, suite: str, architecture: str, into: Path, runner: Runner
) -> None:
    """Make a tar of the packages and what they depend on. Needs root; `into` is the tar's path."""
    sources = into.with_name(f"{into.name}.sources")
    sources.write_text(sources_for(suite), encoding="utf-8")
    if not Path(_KEYRING).exists():
        raise NotAllowedHere(
            f"Debian's archive keys are missing: {_KEYRING}",
            hint="install debian-archive-keyring",
        )
    await runner.run(
        [
            "nice",
            "mmdebstrap",
            "--quiet",
            "--variant=extract",
            f"--architectures={architecture}",
            f"--include={','.join(packages)}",
            suite,
            str(into),
            str(sources),
        ],
        timeout_s=900,
    )
    sources.unlink()


def layer_entries(tree: Path, links: Mapping[str, str]) -> list[TarEntry]:
    """Entries of a layer: the packages' files without documentation, plus links."""
    entries: dict[str, TarEntry] = {}
    with tarfile.open(tree) as archive:
        for member in archive:
            path = member.name.removeprefix("./").rstrip("/")
            if not _WANTED.match(f"{path}/") or _UNWANTED.match(f"{path}/"):
                continue
            if member.issym():
                entries[path] = link_entry(path, member.linkname)
            elif member.isdir():
                entries[path] = TarEntry(path=path, mode=member.mode & 0o7777, folder=True)
            elif member.isreg() or member.islnk():
                reading = archive.extractfile(member)
                data = reading.read() if reading is not None else b""
                entries[path] = TarEntry(path=path, mode=member.mode & 0o7777, data=data)
    # Merged /usr is set up by a maintainer script, which did not run.
    for name in ("bin", "sbin", "lib", "lib64"):
        if not any(path.startswith(f"{name}/") for path in entries):
            entries[name] = link_entry(name, f"usr/{name}")
    for path, target in links.items():
        entries[path] = link_entry(path, target)
    return [entries[path] for path in sorted(entries)]


def _own_sources(etc_apt: Path) -> list[tuple[str, list[str], str]]:
    """(server, suites, components) of every binary source of this machine that Debian signs."""
    found = []
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            fields = {
                name.strip().lower(): value.strip()
                for name, colon, value in (line.partition(":") for line in stanza.splitlines())
                if colon and not name.startswith(("#", " "))
            }
            if fields.get("types", "").split()[:1] == ["deb"] and "debian-archive" in fields.get(
                "signed-by", "debian-archive"
            ):
                found += [
                    (server, fields["suites"].split(), "main") for server in fields["uris"].split()
                ]
    lists = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        if not path.exists():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            words = re.sub(r"\[[^]]*\]", "", line.split("#")[0]).split()
            if len(words) >= 4 and words[0] == "deb" and "debian" in words[1]:
                found.append((words[1], [words[2]], "main"))
    return found
