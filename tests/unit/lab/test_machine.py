"""What the lab does to this computer: sources, control groups, sysctls, command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.lab import cgroups, launch
from skerry.lab.cleanup import mounts_below
from skerry.lab.errors import TreeFailed
from skerry.lab.facts import MachineFacts
from skerry.lab.registry import SYSCTLS, Registry
from skerry.lab.tree import apt_sources
from skerry.lib.clock import ManualClock

V1 = MachineFacts(
    cgroup_version=1, can_raise_limits=False, runs_systemd=False, has_swap=False, is_root=True
)
V2 = MachineFacts(
    cgroup_version=2, can_raise_limits=True, runs_systemd=True, has_swap=False, is_root=True
)
SPEC = launch.HostSpec(
    run="demo",
    name="n1",
    folder=Path("/lab/demo/hosts/n1"),
    tree=Path("/trees/x"),
    bridge="sk-demo",
)


def test_apt_sources_follow_this_computers_mirror_with_another_suite(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "debian.sources").write_text(
        "# where\nTypes: deb\nURIs: http://mirror.test/debian\nSuites: old old-updates\n"
        "Components: main contrib\n\n"
        "Types: deb\nURIs: http://mirror.test/security\nSuites: old-security\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.test\nSuites: old\nComponents: main\n"
    )
    (folder / "other.sources").write_text(
        "Types: deb\nURIs: http://other.test\nSuites: nodistro\nComponents: main\n"
    )

    text = apt_sources(tmp_path, codename="old", suite="new")

    assert "URIs: http://mirror.test/debian\nSuites: new new-updates\nComponents: main\n" in text
    assert "URIs: http://mirror.test/security\nSuites: new-security\n" in text
    assert "other.test" not in text
    assert "off.test" not in text


def test_apt_sources_read_one_line_entries_with_options(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://comment.test old main\n"
        "deb [ arch=amd64 signed-by=/k.gpg ] http://one.test old main non-free\n"
        "deb-src http://source.test old main\n"
    )

    text = apt_sources(tmp_path, codename="old", suite="new")

    assert text.count("URIs:") == 1
    assert "URIs: http://one.test\nSuites: new\nComponents: main\n" in text


def test_computer_without_debian_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TreeFailed, match="old"):
        apt_sources(tmp_path, codename="old", suite="new")


def test_v1_host_gets_a_group_in_every_controller_with_processors_set(tmp_path: Path) -> None:
    for controller in ("cpuset", "memory"):
        group = tmp_path / controller / "skerry-lab.demo" / "n1"
        group.mkdir(parents=True)
        (tmp_path / controller / "cgroup.procs").touch()
    for name, value in (("cpuset.cpus", "0-1"), ("cpuset.mems", "0")):
        (tmp_path / "cpuset" / name).write_text(value)
        (tmp_path / "cpuset/skerry-lab.demo" / name).touch()
        (tmp_path / "cpuset/skerry-lab.demo/n1" / name).touch()
    (tmp_path / "alias").symlink_to("cpuset")

    places = cgroups.make("demo", "n1", V1, tmp_path)

    assert places == [
        tmp_path / "cpuset/skerry-lab.demo/n1/cgroup.procs",
        tmp_path / "memory/skerry-lab.demo/n1/cgroup.procs",
    ]
    assert (tmp_path / "cpuset/skerry-lab.demo/n1/cpuset.cpus").read_text() == "0-1"
    assert (tmp_path / "cpuset/skerry-lab.demo/n1/cpuset.mems").read_text() == "0"


def test_legacy_settings_are_given_only_on_cgroup_v1() -> None:
    force = "--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"

    assert force in launch.nspawn_argv(SPEC, V1)
    assert "--keep-unit" in launch.nspawn_argv(SPEC, V1)
    assert force not in launch.nspawn_argv(SPEC, V2)
    assert "--keep-unit" not in launch.nspawn_argv(SPEC, V2)
    assert launch.nspawn_env(V1)["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] == "0"
    assert "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY" not in launch.nspawn_env(V2)


def test_command_inside_joins_the_groups_of_the_hosts_first_process() -> None:
    text = "5:memory:/lab/n1\n2:cpu,cpuacct:/\n1:name=systemd:/lab/n1/init.scope\n0::/x\n"

    assert launch.cgroup_places(text, V1) == [
        "/sys/fs/cgroup/memory/lab/n1/cgroup.procs",
        "/sys/fs/cgroup/cpu,cpuacct/cgroup.procs",
        "/sys/fs/cgroup/systemd/lab/n1/init.scope/cgroup.procs",
        "/sys/fs/cgroup/unified/x/cgroup.procs",
    ]
    assert launch.cgroup_places("0::/m.scope/init.scope\n", V2) == [
        "/sys/fs/cgroup/m.scope/init.scope/cgroup.procs"
    ]


def test_values_of_variables_never_appear_on_the_command_line() -> None:
    argv = launch.enter_argv(42, ["true"], cgroup_procs=[], drop_env=["OTHER"])

    assert argv[argv.index("OTHER") - 1] == "-u"
    assert launch.inside_env({"TOKEN": "secret"})["TOKEN"] == "secret"
    assert not any("secret" in word for word in argv)


@pytest.mark.anyio
async def test_first_lab_records_sysctls_and_only_the_last_restores_them(tmp_path: Path) -> None:
    proc_sys = tmp_path / "sys"
    for name in SYSCTLS:
        (proc_sys / name).parent.mkdir(parents=True, exist_ok=True)
        (proc_sys / name).write_text("0\n")
    registry = Registry(ManualClock(), folder=tmp_path / "run", proc_sys=proc_sys)

    async with registry.locked():
        registry.enter("a", tmp_path)
        (proc_sys / "kernel/panic").write_text("10\n")
        registry.enter("b", tmp_path)
        registry.leave("a")
        between = (proc_sys / "kernel/panic").read_text()
        registry.leave("b")
        registry.leave("b")

    assert between == "10\n"
    assert (proc_sys / "kernel/panic").read_text() == "0"
    assert registry.runs() == []


def test_mounts_below_a_folder_come_deepest_first_and_no_neighbours() -> None:
    mountinfo = (
        "1 0 8:1 / / rw - ext4 /dev/a rw\n"
        "2 1 0:5 / /lab/demo/root rw - overlay o rw\n"
        "3 2 0:6 / /lab/demo/root/with\\040space rw - tmpfs t rw\n"
        "4 1 0:7 / /lab/demo-2/root rw - overlay o rw\n"
    )

    assert mounts_below(mountinfo, Path("/lab/demo")) == [
        "/lab/demo/root/with space",
        "/lab/demo/root",
    ]
