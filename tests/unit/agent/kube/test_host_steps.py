"""Surroundings, restore points, stopping, confirming and resetting over a folder and a script."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest
import yaml

from skerry.agent.kube import (
    controlplane,
    etcd,
    gate,
    hostsetup,
    places,
    releases,
    runtime,
    surroundings,
)
from skerry.agent.kube.engine import EngineFailed
from skerry.lib.proc import Result
from skerry.plan import steps as do

pytestmark = pytest.mark.anyio

TCP_HEADER = "  sl  local_address rem_address   st\n"


def listen(host, *ports: int) -> None:
    lines = [f"   0: 00000000:{port:04X} 00000000:0000 0A 0\n" for port in ports]
    host.root.write("/proc/net/tcp", (TCP_HEADER + "".join(lines)).encode())


def programs(host) -> None:
    for name in surroundings._PROGRAMS:
        host.root.write(f"/usr/bin/{name}", b"")
    host.root.write("/proc/meminfo", b"MemTotal: 4000000 kB\n")


async def test_a_clean_host_passes(host) -> None:
    programs(host)

    await host.engine.perform(do.Preflight(), None)


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/rancher/k3s/server",
        "/etc/systemd/system/kubelet.service",
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "/var/lib/etcd/member",
    ],
)
async def test_a_foreign_kubernetes_is_refused_with_the_place_it_was_found(host, path: str) -> None:
    programs(host)
    host.root.write(path, b"")

    with pytest.raises(EngineFailed, match=path) as caught:
        await host.engine.perform(do.Preflight(), None)

    assert caught.value.reason == "ForeignKubernetes"
    assert not caught.value.retryable


async def test_a_busy_port_is_refused_by_number(host) -> None:
    programs(host)
    listen(host, 22, 10250)

    with pytest.raises(EngineFailed, match="port 10250"):
        await host.engine.perform(do.Preflight(), None)


async def test_everything_missing_is_said_at_once(host) -> None:
    programs(host)
    host.root.remove("/usr/bin/nft")
    host.root.remove("/usr/bin/conntrack")
    host.root.write("/proc/meminfo", b"MemTotal: 500000 kB\n")

    with pytest.raises(EngineFailed) as caught:
        await host.engine.perform(do.Preflight(), None)

    assert caught.value.reason == "PreflightRefused"
    for part in ("nft", "conntrack", "488 MiB of memory"):
        assert part in caught.value.message


async def test_our_own_cluster_is_not_foreign(host) -> None:
    host.remember()
    host.root.write(places.manifest("kube-apiserver"), b"x")

    await host.engine.perform(do.Preflight(), None)


async def test_a_restore_point_brings_back_every_file_and_removes_what_came_later(host) -> None:
    host.remember()
    host.root.write(places.manifest("kube-apiserver"), b"old manifest")
    host.root.write(places.KUBELET_CONFIG, b"old kubelet")
    host.root.link(f"{places.LINKS}/kubelet", places.program("1.35.4", "kubelet"))
    etcd.save_files(host.doors, "p")
    host.root.write(places.manifest("kube-apiserver"), b"new manifest")
    host.root.write(places.PROXY_ENV, b"came later")
    host.root.link(f"{places.LINKS}/kubelet", places.program("1.36.3", "kubelet"))
    release = host.release("1.36.3")
    await host.engine.perform(do.UnpackRelease(version="1.36.3", release=release), None)

    await host.engine.perform(do.RestoreControlPlane(point="p"), None)

    assert host.root.read(places.manifest("kube-apiserver")) == b"old manifest"
    assert host.root.read(places.KUBELET_CONFIG) == b"old kubelet"
    assert not host.root.exists(places.PROXY_ENV)
    assert not host.runner.called(places.program("1.35.4", "etcdutl"))


async def test_etcd_is_restored_only_when_it_was_saved_completely(host) -> None:
    host.remember()
    release = host.release("1.36.3")
    await host.engine.perform(do.UnpackRelease(version="1.36.3", release=release), None)
    host.root.link(f"{places.LINKS}/kubelet", places.program("1.36.3", "kubelet"))
    save, restore = (
        host.root.host_path(places.program("1.36.3", name)) for name in ("etcdctl", "etcdutl")
    )

    def write(path: str):
        def answer(argv):
            host.root.write(path, b"db")
            return Result(argv, 0, "", "")

        return answer

    host.runner.answer_with(save, answer=write(f"{places.SNAPSHOTS}/p/etcd.db"))
    host.runner.answer_with(restore, answer=write(f"{places.STATE}/etcd.restored/member"))
    host.root.write(f"{places.ETCD}/member", b"newer")
    etcd.save_files(host.doors, "p")

    await host.engine.perform(do.SnapshotEtcd(point="p"), None)
    await host.engine.perform(do.RestoreControlPlane(point="p"), None)

    assert host.root.read(f"{places.ETCD}/member") == b"db"
    (call,) = [call for call in host.runner.calls if call[0] == restore]
    assert "--bump-revision" in call
    assert "n1=https://10.254.254.1:2380" in call


async def test_old_snapshots_go_and_the_newest_stay(host) -> None:
    host.remember()
    save = host.root.host_path(places.program("", "etcdctl"))
    host.runner.answer_with(
        save,
        answer=lambda argv: (
            host.root.write(argv[-1].removeprefix(host.root.base), b"db"),
            Result(argv, 0, "", ""),
        )[1],
    )
    for name in ("a", "b", "c", "d"):
        host.clock.advance(60)
        await host.engine.perform(do.SnapshotEtcd(point=name, keep=2), None)

    assert host.root.list(places.SNAPSHOTS) == ["c", "d"]


async def test_a_lost_restore_point_is_said_and_nothing_is_touched(host) -> None:
    host.remember()

    with pytest.raises(EngineFailed, match="restore point p is gone"):
        await host.engine.perform(do.RestoreControlPlane(point="p"), None)

    assert host.runner.calls == []


def running(host, *components: str) -> set[str]:
    """Let the runtime report these static pods as running until they are killed."""
    alive = set(components)

    def answer(argv):
        if "kill" in argv:
            alive.discard(argv[-1])
            return Result(argv, 0, "", "")
        if "tasks" in argv:
            return Result(argv, 0, "\n".join(alive), "")
        if "containers" in argv:
            name = argv[-1].split("==")[1].removesuffix("-n1")
            return Result(argv, 0, f"{name}\n", "")
        return None

    host.runner.answer_with(f"{places.LINKS}/ctr", answer=answer)
    return alive


async def test_stopping_leaves_etcd_and_waits_until_the_processes_are_gone(host) -> None:
    host.remember()
    for name in (*places.CONTROL_PLANE, "etcd"):
        host.root.write(places.manifest(name), b"x")
    alive = running(host, "kube-apiserver", "etcd")
    began = host.clock.monotonic()

    await host.engine.perform(do.StopApiServer(), None)

    assert host.root.list(places.MANIFESTS) == ["etcd.yaml"]
    assert alive == {"etcd"}
    assert host.clock.monotonic() - began >= 5


async def test_without_a_kubelet_the_api_server_is_stopped_at_once(host) -> None:
    host.remember()
    alive = running(host, "kube-apiserver")
    host.runner.fail("systemctl", "is-active")
    began = host.clock.monotonic()

    await host.engine.perform(do.StopApiServer(), None)

    assert alive == set()
    assert host.clock.monotonic() - began < 2


async def test_a_process_that_survives_everything_is_reported(host) -> None:
    host.remember()
    running(host, "kube-apiserver")
    host.runner.answer_with(
        f"{places.LINKS}/ctr",
        answer=lambda argv: Result(argv, 0, "", "") if "kill" in argv else None,
    )

    with pytest.raises(EngineFailed, match="kube-apiserver did not stop") as caught:
        await host.engine.perform(do.StopApiServer(), None)

    assert caught.value.reason == "ControlPlaneNotReady"


async def test_only_a_changed_manifest_restarts_its_component(host) -> None:
    host.remember()
    alive = running(host, "etcd", *places.CONTROL_PLANE)
    kubeadm = host.root.host_path(places.program("1.36.3", "kubeadm"))
    texts = dict.fromkeys(("etcd", *places.CONTROL_PLANE), "same")

    def write(argv):
        for name, text in texts.items():
            host.root.write(places.manifest(name), text.encode())
        return Result(argv, 0, "", "")

    host.runner.answer_with(kubeadm, answer=write)
    await host.engine.perform(do.ReplaceControlPlane(version="1.36.3"), host.cluster())
    alive.update(("etcd", *places.CONTROL_PLANE))
    texts["kube-scheduler"] = "other"
    await host.engine.perform(do.ReplaceControlPlane(version="1.36.3"), host.cluster())
    after = set(alive)
    await host.engine.perform(do.ReplaceControlPlane(version="1.36.3"), host.cluster())

    assert after == alive == {"etcd", "kube-apiserver", "kube-controller-manager"}


async def test_the_fence_falls_only_after_everything_else_of_the_confirmation(host) -> None:
    host.remember(initialised=False, version="1.35.4")
    host.root.write(places.FENCE, b"x")

    await host.engine.perform(
        do.ConfirmControlPlane(version="1.36.3", config_digest="d"), host.cluster()
    )

    record = host.doors.record()
    assert (record.initialised, record.version, record.config_digest) == (True, "1.36.3", "d")
    assert host.runner.calls[-1] == ("nft", "delete", "table", "inet", "skerry_fence")
    assert not host.root.exists(places.FENCE)


async def test_a_failing_phase_keeps_the_old_version_and_the_fence(host) -> None:
    host.remember(version="1.35.4")
    host.root.write(places.FENCE, b"x")
    kubeadm = host.root.host_path(places.program("1.36.3", "kubeadm"))
    host.runner.fail(kubeadm, "init", "phase", "addon", stderr="boom")

    with pytest.raises(EngineFailed, match="boom"):
        await host.engine.perform(
            do.ConfirmControlPlane(version="1.36.3", config_digest="d"), host.cluster()
        )

    assert host.doors.record().version == "1.35.4"
    assert host.root.exists(places.FENCE)


async def test_kubeadms_refusals_are_told_as_preflight(host) -> None:
    host.remember()
    kubeadm = host.root.host_path(places.program("1.36.3", "kubeadm"))
    host.runner.fail(
        kubeadm, stderr="preflight\n\t[ERROR Swap]: swap is on\n\t[ERROR Mem]: too little\n"
    )

    with pytest.raises(EngineFailed) as caught:
        await controlplane.kubeadm(host.doors, "1.36.3", "init")

    assert caught.value.reason == "PreflightRefused"
    assert "swap is on" in caught.value.message
    assert "too little" in caught.value.message


async def test_kubeadm_never_sees_a_proxy(host) -> None:
    """It would write one into every manifest of the control plane."""
    from skerry.agent.kube.record import NO_PROXIES

    assert set(NO_PROXIES.values()) == {""}
    assert {"HTTPS_PROXY", "https_proxy", "NO_PROXY"} <= set(NO_PROXIES)


async def test_a_gate_names_what_was_missing_last(host) -> None:
    host.remember()
    manifest = {"spec": {"containers": [{"image": "registry.k8s.io/x:v1.35.4"}]}}
    for name in places.CONTROL_PLANE:
        host.root.write(places.manifest(name), yaml.safe_dump(manifest).encode())

    with pytest.raises(EngineFailed, match=r"kube-apiserver is registry\.k8s\.io/x:v1\.35\.4"):
        await host.engine.perform(do.GateControlPlane(version="1.36.3", gate_limit_s=3), None)


async def test_a_control_plane_without_its_kubelet_is_the_kubelet_s_trouble(host) -> None:
    host.remember()
    manifest = {"spec": {"containers": [{"image": "registry.k8s.io/x:v1.36.3"}]}}
    for name in places.CONTROL_PLANE:
        host.root.write(places.manifest(name), yaml.safe_dump(manifest).encode())
    host.runner.fail("systemctl", "is-active")
    host.runner.answer("journalctl", stdout="could not restore state from checkpoint\n")

    with pytest.raises(EngineFailed, match="could not restore state") as caught:
        await gate.control_plane(host.doors, version="1.36.3", limit_s=3)

    assert caught.value.reason == "KubeletNotReady"


async def test_a_kubelet_that_starts_again_and_again_does_not_pass(host) -> None:
    host.remember()
    node = {
        "metadata": {"name": "n1"},
        "status": {
            "nodeInfo": {"kubeletVersion": "v1.36.3"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    host.api.answer("/api/v1/nodes/n1", node)
    count = iter(range(1000))
    host.runner.answer_with(
        "systemctl",
        answer=lambda argv: Result(argv, 0, f"{next(count)}", "") if "show" in argv else None,
    )

    with pytest.raises(EngineFailed, match="the kubelet ended") as caught:
        await gate.node(host.doors, version="1.36.3", limit_s=20, settle_s=2)

    assert caught.value.reason == "KubeletNotReady"


async def test_a_look_at_the_node_without_settling_asks_the_api_once(host) -> None:
    host.remember()
    node = {
        "status": {
            "nodeInfo": {"kubeletVersion": "v1.36.3"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    host.api.answer("/api/v1/nodes/n1", node)

    await gate.node(host.doors, version="1.36.3", limit_s=0, settle_s=0)

    asked = [path for path in host.api.asked if path.startswith("/api/v1/nodes/")]
    assert len(asked) == 1


async def test_reset_removes_what_the_cluster_made_and_leaves_the_rest(host) -> None:
    kept = {"/etc/hosts": b"hosts", "/var/lib/skerry/identity/host.key": b"key"}
    for path, data in kept.items():
        host.root.write(path, data)
    before = hostsetup.Before(sysctls={"vm.overcommit_memory": "0"}, nft_tables=("ip mine",))
    host.root.write(places.BEFORE, msgspec.json.encode(before))
    host.remember()
    made = (
        places.KUBELET_CONFIG,
        places.CNI_CONFIG,
        f"{places.UNITS}/{places.KUBELET_UNIT}",
        f"{places.POD_SCOPES}/50-skerry.conf",
        f"{places.ETCD}/member",
        f"{places.RELEASES}/1.36.3/release.json",
        f"{places.PKI}/ca.key",
        "/usr/libexec/kubernetes/x",
    )
    for path in made:
        host.root.write(path, b"x")
    host.root.write("/proc/sys/vm/overcommit_memory", b"1\n")
    tables = {"nftables": [{"table": {"family": "ip", "name": n}} for n in ("mine", "kube-proxy")]}
    host.runner.answer("nft", "-j", "list", "tables", stdout=json.dumps(tables))

    await host.engine.perform(do.Reset(), None)

    assert [path for path in made if host.root.exists(path)] == []
    assert not host.root.exists(places.POD_SCOPES)
    assert all(host.root.read(path) == data for path, data in kept.items())
    deleted = [call for call in host.runner.calls if call[:2] == ("nft", "delete")]
    assert deleted == [("nft", "delete", "table", "ip", "kube-proxy")]
    assert host.runner.called("/usr/lib/systemd/systemd-sysctl")
    observed = await host.engine.observe()
    assert not observed.leftovers
    assert not observed.cluster_uid


@pytest.mark.parametrize("used", [False, True])
async def test_a_shared_folder_that_came_with_the_cluster_goes_only_when_empty(host, used) -> None:
    before = hostsetup.Before(folders=("/usr/lib/modules",))
    host.root.write(places.BEFORE, msgspec.json.encode(before))
    host.remember()
    host.root.mkdir("/usr/lib/modules")
    host.root.mkdir("/run/netns")
    if used:
        host.root.write("/run/netns/somebody", b"")

    await host.engine.perform(do.Reset(), None)

    assert host.root.exists("/run/netns") is used
    assert host.root.is_dir("/usr/lib/modules")


async def test_reset_empties_a_folder_that_is_a_mount_of_its_own(host) -> None:
    host.remember()
    host.root.write(f"{places.KUBELET}/config.yaml", b"x")
    host.root.write(
        "/proc/self/mountinfo",
        f"1 0 8:1 / {places.KUBELET} rw - ext4 /dev/sdb rw\n".encode(),
    )

    await host.engine.perform(do.Reset(), None)

    assert host.root.is_dir(places.KUBELET)
    assert host.root.list(places.KUBELET) == []
    assert not any(call[0] == "umount" for call in host.runner.calls)


async def test_reset_takes_only_kubernetes_rules_out_of_iptables(host) -> None:
    saved = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n:MINE - [0:0]\n"
        "-A PREROUTING -j KUBE-SERVICES\n-A PREROUTING -j MINE\nCOMMIT\n"
    )
    host.remember()
    host.runner.answer("iptables-save", stdout=saved)

    await host.engine.perform(do.Reset(), None)

    index = host.runner.calls.index(("iptables-restore",))
    assert host.runner.inputs[index] == (
        b"*nat\n:PREROUTING ACCEPT [0:0]\n:MINE - [0:0]\n-A PREROUTING -j MINE\nCOMMIT\n"
    )


async def test_a_step_of_a_later_agent_is_refused_by_name(host) -> None:
    class Dance(do.Reset, frozen=True, kw_only=True, tag="Dance"):
        words = "dance"

    class Other:
        title = "dance"

    with pytest.raises(EngineFailed, match="dance") as caught:
        await host.engine.perform(Other(), None)  # type: ignore[arg-type]

    assert caught.value.reason == "StepUnknown"


async def test_other_registries_are_read_at_the_next_pull_and_restart_nothing(host) -> None:
    host.remember()
    release = host.release("1.36.3")
    await host.engine.perform(do.UnpackRelease(version="1.36.3", release=release), host.cluster())
    account = {"hosts": {"r.example:5000": {"username": "till", "password": "old"}}}
    changed = {"hosts": {"r.example:5000": {"username": "till", "password": "new"}}}
    for registries in (account, changed):
        host.runner.calls.clear()
        cluster = host.cluster(values={"registries": registries})
        await host.engine.perform(do.ConfigureHost(version="1.36.3"), cluster)
        await host.engine.perform(do.SwitchRuntime(version="1.36.3"), cluster)

    hosts = host.root.read(f"{places.CERTS_D}/r.example:5000/hosts.toml").decode()
    assert base64.b64encode(b"till:new").decode() in hosts
    restarts = [call for call in host.runner.calls if "restart" in call]
    assert restarts == []


def test_of_a_panic_the_reason_is_told_and_not_the_stack() -> None:
    log = (
        "I1125 flags.go:64] FLAG\n"
        "panic: unrecognized feature gate: NoSuchFeature\n\n"
        "goroutine 1 [running]:\n"
        "k8s.io/kubernetes/cmd/kubelet/app.loadConfigFile({0x33f5750, 0x54b6300})\n"
        "\tk8s.io/kubernetes@v1.36.3/cmd/kubelet/kubelet.go:37 +0x2a\n"
    )

    assert runtime.telling_line(log) == "unrecognized feature gate: NoSuchFeature"
    assert runtime.telling_line("one\ntwo\n\n") == "two"
    assert runtime.telling_line("") == ""


async def test_a_look_at_the_images_that_failed_is_repeated_at_the_next_round(host) -> None:
    await releases.unpack(host.doors, host.release("1.36.3"))
    host.remember()
    look = (f"{places.LINKS}/ctr", "--address", places.CONTAINERD_SOCKET, "--namespace", "k8s.io")
    host.runner.fail(*look, "images", "ls", stderr="connection refused")
    assert (await host.engine.observe()).images_missing == ()

    host.runner.answer(*look, "images", "ls", stdout="")
    seen = (await host.engine.observe()).images_missing

    assert seen == ("registry.k8s.io/pause:3.10",)


async def test_a_component_that_is_not_well_is_named_with_its_own_words(host) -> None:
    host.remember()
    probe = {"httpGet": {"host": "127.0.0.1", "path": "/livez", "port": 10259, "scheme": "HTTPS"}}
    manifest = {"spec": {"containers": [{"image": "x", "livenessProbe": probe}]}}
    host.root.write(places.manifest("kube-scheduler"), yaml.safe_dump(manifest).encode())
    host.api.unwell("https://127.0.0.1:10259/livez", "HTTP 500: [-]leaderElection failed")

    told = await gate.component_lacks(host.doors, "kube-scheduler")

    assert told == "kube-scheduler does not answer (HTTP 500: [-]leaderElection failed)"
