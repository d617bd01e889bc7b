"""The Kairos engine with the real kairos-agent on a real disk."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.contract.osengine.test_kairos import TRACE
from tests.lab.kairoshost import KairosHost, save_image, write_source

from skerry.agent.content import ContentStore
from skerry.agent.osengine.engine import OsEngineFailed, OsReason
from skerry.agent.osengine.kairos import KairosEngine
from skerry.agent.osengine.kairos_guards import upgrade_config
from skerry.agent.osengine.kairos_measure import measure
from skerry.agent.osengine.kairos_state import ImageFacts, parse_env, slot_names
from skerry.builder.cache import default_cache
from skerry.builder.gomodules import machine_architecture
from skerry.builder.kairos import AGENT, kairos_program
from skerry.builder.kairosimage import pack_kairos_image
from skerry.builder.layout import describe
from skerry.lib.oci import Layout
from skerry.lib.proc import SystemRunner
from skerry.model.artifact import ArtifactRef
from skerry.plan.osupdate import OsObserved, SlotState

pytestmark = [
    pytest.mark.lab,
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
]


@pytest.fixture(scope="module")
async def host(lab_base: Path, anyio_backend: str) -> AsyncIterator[KairosHost]:
    """An installed host that runs v1.0.0."""
    agent = await kairos_program(
        AGENT, cache=default_cache(os.environ), runner=SystemRunner(), env=os.environ
    )
    async with KairosHost(lab_base / f"kairos-{os.getpid()}", agent) as made:
        source = write_source(made.folder / "one", "v1.0.0")
        assert (await made.install(source))[-1] == "done"
        await made.boot()
        yield made


def engine_of(host: KairosHost) -> KairosEngine:
    return KairosEngine(
        host.root,
        host.runner,
        content=ContentStore(host.root, None),
        architecture=machine_architecture(),
    )


async def seen_by_file(host: KairosHost) -> OsObserved:
    """What the engine reports, with the slots called by their files."""
    engine = engine_of(host)
    facts = await measure(host.root, host.runner, machine_architecture())
    names = {name: role for role, name in slot_names(facts, engine._record()).items()}
    seen = await engine.describe()
    slots = tuple(
        msgspec.structs.replace(slot, name=names.get(slot.name, slot.name)) for slot in seen.slots
    )
    return msgspec.structs.replace(seen, slots=slots, running=names.get(seen.running, ""))


def deliver(host: KairosHost, version: str, *, payload_mib: int = 4) -> ArtifactRef:
    """Build an image, once, and put its blobs into the running host's content store."""
    folder = host.folder / f"image-{version}"
    if not folder.exists():
        source = write_source(folder / "tree", f"v{version}", payload_mib=payload_mib)
        tar = save_image(source, folder / "image.tar")
        pack_kairos_image(
            tar,
            folder / "layout",
            name="shop",
            version=version,
            architecture=machine_architecture(),
        )
    built = describe(folder / "layout")
    store = ContentStore(host.root, None)
    layout = Layout.open(built.path)
    pointer, manifest = layout.only_manifest()
    for part in (pointer, manifest.config, *manifest.layers):
        store.put(part.digest, layout.blob_path(part.digest).read_bytes())
    return ArtifactRef(
        name="shop",
        type="os",
        version=version,
        architecture=machine_architecture(),
        digest=built.digest,
        envelope_digest=built.digest,
        size_bytes=built.size_bytes,
    )


async def test_installed_host_describes_itself(host: KairosHost) -> None:
    seen = await seen_by_file(host)

    assert (seen.running, seen.version, seen.recovery) == ("active", "v1.0.0", False)
    assert [(slot.name, slot.state) for slot in seen.slots] == [
        ("active", SlotState.GOOD),
        ("passive", SlotState.GOOD),
        ("next", SlotState.EMPTY),
    ]
    assert seen.problems == ()


async def test_describe_agrees_with_kairos_agent(host: KairosHost) -> None:
    facts = await measure(host.root, host.runner, machine_architecture())

    told = await host.runner.run(["kairos-agent", "state", "get", "boot"], timeout_s=30)
    assert facts.booted == told.stdout.strip()
    for part, label in (
        ("persistent", "COS_PERSISTENT"),
        ("oem", "COS_OEM"),
        ("state", "COS_STATE"),
    ):
        told = await host.runner.run(
            ["kairos-agent", "state", "get", f"{part}.mount_point"], timeout_s=30
        )
        assert facts.label_of(getattr(facts.mount(told.stdout.strip()), "source", "")) == label


async def test_upgrade_is_a_trial_until_it_is_confirmed(host: KairosHost) -> None:
    image = deliver(host, "2.0.0")

    await engine_of(host).stage(image)
    staged = await seen_by_file(host)
    await engine_of(host).activate(image, trial_s=600)
    activated = await seen_by_file(host)
    entry = await host.boot()
    trial = await seen_by_file(host)
    await engine_of(host).confirm()
    confirmed = await seen_by_file(host)

    assert states(staged) == {"next": "staged", "active": "good", "passive": "good"}
    # The system that runs has become the passive image; the new one is next, once.
    assert states(activated) == {"next": "empty", "active": "trial", "passive": "good"}
    assert (activated.running, activated.version) == ("passive", "v1.0.0")
    assert entry == "cos"
    assert (trial.running, trial.image, states(trial)["active"]) == (
        "active",
        image.digest,
        "trial",
    )
    assert states(confirmed) == {"next": "empty", "active": "good", "passive": "good"}
    assert confirmed.problems == ()
    assert await host.boot() == "cos"


async def test_a_second_upgrade_before_the_restart_is_refused(host: KairosHost) -> None:
    first, second = deliver(host, "3.0.0"), deliver(host, "3.0.1")
    await engine_of(host).stage(first)
    await engine_of(host).activate(first, trial_s=600)
    await engine_of(host).stage(second)

    with pytest.raises(OsEngineFailed, match="not restarted") as caught:
        await engine_of(host).activate(second, trial_s=600)

    assert caught.value.reason == OsReason.OS_BUSY
    assert (await seen_by_file(host)).slot("active").image == first.digest  # type: ignore[union-attr]  # slots are fixed


async def test_a_start_without_a_verdict_leads_back_and_can_be_tried_again(
    host: KairosHost,
) -> None:
    image = deliver(host, "3.0.0")

    entries = [await host.boot(), await host.boot(), await host.boot()]
    returned = await seen_by_file(host)
    await engine_of(host).activate(image, trial_s=600)
    again = await seen_by_file(host)
    entries.append(await host.boot())

    assert entries == ["cos", "fallback", "fallback", "cos"]
    assert (returned.running, returned.version, states(returned)["active"]) == (
        "passive",
        "2.0.0",
        "bad",
    )
    assert states(again)["active"] == "trial"


async def test_the_way_back_lasts(host: KairosHost) -> None:
    image = deliver(host, "3.0.0")

    await engine_of(host).roll_back()
    entries = [await host.boot(), await host.boot()]
    await engine_of(host).confirm()
    entries.append(await host.boot())
    seen = await seen_by_file(host)

    assert entries == ["fallback"] * 3
    assert (seen.running, seen.version) == ("passive", "2.0.0")
    assert states(seen) == {"next": "staged", "active": "bad", "passive": "good"}
    assert seen.slot("active").image == image.digest  # type: ignore[union-attr]  # slots are fixed


async def test_an_upgrade_from_the_passive_slot_keeps_it(host: KairosHost) -> None:
    image = deliver(host, "4.0.0")
    name = (await engine_of(host).describe()).running
    before = (await measure(host.root, host.runner, machine_architecture())).images["passive"]

    await engine_of(host).stage(image)
    await engine_of(host).activate(image, trial_s=600)
    seen = await seen_by_file(host)
    after = (await measure(host.root, host.runner, machine_architecture())).images["passive"]
    entry = await host.boot()
    await engine_of(host).confirm()

    assert (seen.running, states(seen)["active"]) == ("passive", "trial")
    assert after == before
    assert entry == "cos"
    assert (await engine_of(host).describe()).running != name
    assert (await seen_by_file(host)).version == "4.0.0"


@pytest.mark.long
async def test_an_upgrade_that_was_killed_is_done_again(host: KairosHost) -> None:
    image = deliver(host, "5.0.0", payload_mib=24)
    await engine_of(host).stage(image)
    before = await seen_by_file(host)

    # skerry's own agent dies with it: nobody tidies up.
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_when_it_writes, host)
        tar = f"ocifile:/run/source/image-{image.version}/image.tar"
        await host.runner.run(
            ["kairos-agent", "upgrade", "--source", tar], timeout_s=60, check=False
        )
    broken = await seen_by_file(host)
    await engine_of(host).activate(image, trial_s=600)
    done = await seen_by_file(host)

    assert [slot for slot in broken.slots if slot.name != "next"] == [
        slot for slot in before.slots if slot.name != "next"
    ]
    assert any("broken off" in problem for problem in broken.problems)
    assert states(done) == {"active": "trial", "passive": "good", "next": "empty"}
    assert await host.boot() == "cos"
    await engine_of(host).confirm()
    assert (await seen_by_file(host)).problems == ()


@pytest.mark.long
async def test_an_upgrade_that_fails_leaves_the_running_image_as_the_next(host: KairosHost) -> None:
    image = deliver(host, "5.1.0", payload_mib=24)
    await engine_of(host).stage(image)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_when_it_writes, host)
        with pytest.raises(OsEngineFailed):
            await engine_of(host).activate(image, trial_s=600)
    seen = await seen_by_file(host)

    assert states(seen) == {"next": "staged", "active": "good", "passive": "good"}
    assert seen.problems == ()
    assert await host.boot() == "cos"


@pytest.mark.long
@pytest.mark.parametrize("call", [1, 2])
async def test_a_power_cut_beside_the_relabelling_leaves_a_slot_that_starts(
    host: KairosHost, call: int
) -> None:
    """Before the image is renamed its label is another's already (1); after it was renamed and
    before kairos-agent labels it (2) nothing else could start."""
    image = deliver(host, f"5.2.{call}")
    before = await seen_by_file(host)
    await engine_of(host).stage(image)
    cut = (
        "#!/bin/sh\necho x >> /run/tools/calls\n"
        f'[ $(wc -l < /run/tools/calls) -ge {call} ] || exec /usr/sbin/tune2fs "$@"\n'
        "pkill -KILL -x kairos-agent; sleep 1; exit 1\n"
    )
    host.root.write("/run/tools/tune2fs", cut.encode(), mode=0o755)
    config = upgrade_config(await measure(host.root, host.runner, machine_architecture()), 8 << 20)
    host.root.write("/oem/99_skerry_upgrade.yaml", config.encode())

    tar = f"ocifile:/run/source/image-{image.version}/image.tar"
    await host.runner.run(["kairos-agent", "upgrade", "--source", tar], timeout_s=60, check=False)
    torn = await measure(host.root, host.runner, machine_architecture())
    entry = await host.boot()
    seen = await seen_by_file(host)

    assert ("active" in torn.images) == (call == 1)
    assert entry == "fallback"
    assert seen.running == "passive"
    assert seen.version == (before.version if call == 2 else before.slot("passive").version)  # type: ignore[union-attr]  # slots are fixed
    await engine_of(host).activate(image, trial_s=600)
    assert await host.boot() == "cos"
    await engine_of(host).confirm()
    assert (await seen_by_file(host)).problems == ()


async def kill_when_it_writes(host: KairosHost) -> None:
    """SIGKILL for kairos-agent while it unpacks the image."""
    while not host.root.list("/run/cos/transition/usr"):  # noqa: ASYNC110  # a mount tells nobody
        await anyio.sleep(0.002)
    await host.runner.run(["pkill", "-KILL", "-x", "kairos-agent"], timeout_s=10)


async def test_an_upgrade_that_ended_between_its_renames_is_mended(host: KairosHost) -> None:
    image = deliver(host, "6.0.0")
    await engine_of(host).stage(image)
    folder = "/run/initramfs/cos-state/cOS"
    script = (
        f"mount -o remount,rw {folder}/.. && mv {folder}/active.img {folder}/passive.img"
        f" && mount -o remount,ro,bind {folder}/.."
    )
    await host.runner.run(["sh", "-c", script], timeout_s=10)
    torn = await seen_by_file(host)

    await engine_of(host).activate(image, trial_s=600)
    done = await seen_by_file(host)

    assert torn.running == "passive"
    assert "there is no active image" in torn.problems
    assert any("passive image cannot start: its label is COS_ACTIVE" in x for x in torn.problems)
    assert states(done) == {"next": "empty", "active": "trial", "passive": "good"}
    assert await host.boot() == "cos"
    await engine_of(host).confirm()


async def test_a_stale_mark_of_the_boot_assessment_is_cleared(host: KairosHost) -> None:
    host.power_off()
    block = "# GRUB Environment Block\nenable_boot_assessment=yes\nboot_assessment_tentative=yes\n"
    host.edit("COS_STATE", f"printf '{block}' > boot_assessment")
    host.edit("COS_OEM", "printf 'next_entry=cos\n' > grubenv")
    await host.boot()
    image = deliver(host, "7.0.0")
    await engine_of(host).stage(image)

    await engine_of(host).activate(image, trial_s=600)

    facts = await measure(host.root, host.runner, machine_architecture())
    assert facts.assessment.get("boot_assessment_tentative", "") == ""
    assert await host.boot() == "cos"
    await engine_of(host).confirm()


async def test_what_must_hold_is_checked_before_anything_is_written(host: KairosHost) -> None:
    image = deliver(host, "8.0.0")
    await engine_of(host).stage(image)
    before = (await measure(host.root, host.runner, machine_architecture())).images

    async def refused(reason: OsReason, words: str) -> None:
        with pytest.raises(OsEngineFailed, match=words) as caught:
            await engine_of(host).activate(image, trial_s=600)
        assert caught.value.reason == reason

    # Something else sits where kairos-agent mounts the new image.
    holder = "mkdir -p /run/cos/transition; mount -t tmpfs x /run/cos/transition"
    await host.runner.run(["sh", "-c", holder], timeout_s=10)
    await host.runner.run(
        ["sh", "-c", "cd /run/cos/transition; sleep 30 >/dev/null 2>&1 &"], timeout_s=10
    )
    await refused(OsReason.OS_BUSY, "still at work")
    await host.runner.run(["pkill", "-x", "-f", "sleep 30"], timeout_s=10)

    # The host answers, but immucore ended early.
    await host.runner.run(["umount", "/oem"], timeout_s=10)
    await refused(OsReason.OS_ENGINE_FAILED, "/oem is not mounted")
    assert any("/oem" in x for x in (await seen_by_file(host)).problems)
    oem = "mount $(blkid -t LABEL=COS_OEM -o device) /oem"
    await host.runner.run(["sh", "-c", oem], timeout_s=10)

    # The partition of the slots is full.
    state = "/run/initramfs/cos-state"
    fill = (
        f"mount -o remount,rw {state}; fallocate -l $(( $(stat -f -c '%a*%S' {state}) - 40000000 ))"
        f" {state}/filler; mount -o remount,ro,bind {state}"
    )
    await host.runner.run(["sh", "-c", fill], timeout_s=10)
    await refused(OsReason.IMAGE_TOO_LARGE, "COS_STATE")
    free = f"mount -o remount,rw {state}; rm {state}/filler; mount -o remount,ro,bind {state}"
    await host.runner.run(["sh", "-c", free], timeout_s=10)

    assert (await measure(host.root, host.runner, machine_architecture())).images == before
    await engine_of(host).activate(image, trial_s=600)
    assert await host.boot() == "cos"
    await engine_of(host).confirm()


async def test_cloud_config_is_checked_before_it_is_kept(host: KairosHost) -> None:
    good = "#cloud-config\nstages:\n  boot:\n    - commands: [touch /run/it-ran]\n"
    await engine_of(host).apply_config(good)

    with pytest.raises(OsEngineFailed):
        await engine_of(host).apply_config("#cloud-config\nstages: [this is none]\n")

    assert host.root.read("/oem/91_skerry.yaml").decode() == good
    await host.runner.run(["kairos-agent", "run-stage", "boot"], timeout_s=60)
    assert host.root.exists("/run/it-ran")


async def test_the_overlay_keeps_folders_by_the_words_of_kairos(host: KairosHost) -> None:
    text = (files("skerry.builder") / "data/kairos/system/oem/50_skerry.yaml").read_bytes()
    host.root.write("/run/overlay/50_skerry.yaml", text)
    host.root.write("/run/cos/extra-layout.env", b'PERSISTENT_STATE_PATHS="/snap"\n')

    await host.runner.run(
        [
            *("kairos-agent", "run-stage", "--strict"),
            *("--override-cloud-init-paths", "/run/overlay", "rootfs"),
        ],
        timeout_s=60,
    )

    found = parse_env(host.root.read("/run/cos/extra-layout.env").decode())
    assert found == {"PERSISTENT_STATE_PATHS": "/snap /var/lib/skerry /etc/skerry"}


async def test_a_reset_is_believed_when_it_shows(host: KairosHost) -> None:
    host.root.write("/var/lib/skerry/identity/host.key", b"a key", mode=0o600)

    await engine_of(host).reset(keep_identity=True)
    first = await host.boot()
    # The service of the image that should reset did not run (kairos issue 4314).
    second = await host.boot()
    unbelieved = await seen_by_file(host)
    await engine_of(host).reset(keep_identity=True)
    third = await host.boot()
    await host.runner.run(["kairos-agent", "reset", "--unattended"], timeout_s=60)
    await host.boot()
    seen = await seen_by_file(host)

    assert [first, second, third] == ["statereset", "cos", "statereset"]
    assert "a reset was asked for and did not happen" in unbelieved.problems
    assert seen.problems == ()
    assert (seen.running, seen.version, seen.image) == ("active", "v1.0.0", "")
    assert host.root.list("/var/lib/skerry") == []
    assert host.root.read("/oem/skerry-identity/host.key") == b"a key"


async def test_the_recorded_trace_is_what_kairos_agent_does(host: KairosHost) -> None:
    """The contract suite's simulated agent is held to this trace. SKERRY_RECORD=1 writes it."""
    letters: dict[str, str] = {}
    steps: list[dict[str, Any]] = []

    async def state() -> dict[str, Any]:
        facts = await measure(host.root, host.runner, machine_architecture())
        images = dict(facts.images)
        if facts.transition_file:
            images["transition"] = ImageFacts(identity="transition")
        told = {
            name: {
                "label": image.label,
                "version": image.version,
                "identity": letters.setdefault(image.identity, f"image-{len(letters)}"),
            }
            for name, image in images.items()
        }
        env = {key: value for key, value in facts.grubenv.items() if value}
        return {"images": told, "grubenv": env}

    async def step(*argv: str, version: str = "v0.0.0", config: str = "") -> None:
        files = {"/oem/99_skerry_upgrade.yaml": config} if config else {}
        for path, text in files.items():
            host.root.write(path, text.encode())
        before = await state()
        place = "" if version == "v0.0.0" else deliver(host, version[1:]).version
        source = f"ocifile:/run/source/image-{place}/image.tar"
        words = [source if word == "SOURCE" else word for word in argv]
        done = await host.runner.run(words, timeout_s=60, check=False)
        for path in files:
            host.root.remove(path)
        told = {"argv": list(argv), "version": version, "config": files, "code": done.code}
        cmdline = host.root.read("/proc/cmdline").decode().strip()
        steps.append({**told, "cmdline": cmdline, "before": before, "after": await state()})

    upgrade = ("kairos-agent", "upgrade", "--source", "SOURCE")
    host.root.write("/oem/grubenv", b"# GRUB Environment Block\n")
    await step(*upgrade, version="v9.0.0")
    # Without a restart: the image that never ran replaces the one that runs.
    await step(*upgrade, version="v9.0.1")
    await step("kairos-agent", "grubedit", "set", "saved_entry=fallback")
    await step("kairos-agent", "bootentry", "--select", "fallback")
    await step("kairos-agent", "bootentry", "--select", "nothing")
    await step("kairos-agent", "grubedit", "set", "saved_entry=")
    await host.boot()
    await step(*upgrade, version="v9.0.2")
    await host.boot()
    facts = await measure(host.root, host.runner, machine_architecture())
    await step(*upgrade, version="v9.0.3", config=upgrade_config(facts, 8 << 20))
    await host.runner.run(["rm", "-f", "/oem/grubenv"], timeout_s=10)
    await step("kairos-agent", "grubedit", "set", "saved_entry=fallback")

    if os.environ.get("SKERRY_RECORD"):
        TRACE.write_text(json.dumps(steps, indent=1) + "\n")
    assert steps == json.loads(TRACE.read_text())


def states(seen: OsObserved) -> dict[str, str]:
    return {slot.name: slot.state.value for slot in seen.slots}
