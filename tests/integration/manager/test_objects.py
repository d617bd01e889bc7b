"""The shared verbs over HTTP: all problems at once, compare-and-set, dry run, watch, deletion."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from skerry.lib.digest import sha256
from skerry.manager.store.protocol import Put, WriteSet
from skerry.model.kinds import EmptyStatus
from skerry.model.meta import Condition

from .conftest import Manager, cluster_spec, path_of, problems_of, profile_spec, running

pytestmark = pytest.mark.anyio


async def put(manager: Manager, plural: str, name: str, body: Any, query: str = "") -> Any:
    return await manager.admin.put(path_of(plural, name) + query, json=body)


def doc(kind: str, name: str, spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


async def test_all_problems_of_a_document_come_at_once(manager: Manager) -> None:
    body = {
        "apiVersion": "skerry.dev/v1",
        "kind": "Site",
        "metadata": {"name": "Bad Name\n", "labels": {"-x": "1", "ok": 5}, "colour": "red"},
        "spec": {"latitude": 100, "timezone": "UTC", "address": 7},
        "extra": 1,
    }

    answer = await put(manager, "sites", "x", body)

    assert answer.status_code == 422
    assert set(problems_of(answer)) == {
        "extra",
        "metadata.name",
        "metadata.colour",
        "metadata.labels",
        "metadata.labels.ok",
        "spec.latitude",
        "spec.timezone",
        "spec.address",
    }
    hints = {item["path"]: item.get("hint", "") for item in answer.json()["problems"]}
    assert hints["spec.timezone"] == "did you mean 'timeZone'?"


@pytest.mark.parametrize("body", [[], "x", 5, {"kind": "Nope", "metadata": {"name": "a"}}])
async def test_what_is_no_document_is_refused_politely(manager: Manager, body: Any) -> None:
    answer = await put(manager, "sites", "x", body)

    assert answer.status_code == 422
    assert problems_of(answer)


async def test_broken_and_oversize_bodies_are_refused(manager: Manager) -> None:
    broken = await manager.admin.put(path_of("sites", "x"), content=b"{")
    deep = await manager.admin.put(path_of("sites", "x"), content=b"[" * 100_000)
    large = await manager.admin.put(path_of("sites", "x"), content=b" " * (4 * 1024 * 1024 + 1))

    assert (broken.status_code, deep.status_code, large.status_code) == (400, 400, 413)


async def test_profile_problems_name_their_fields(manager: Manager) -> None:
    layers: list[dict[str, Any]] = [
        {"name": "k8s", "type": "kubernetes", "provider": "k9s", "version": "1.36"},
        {
            "name": "k8s",
            "type": "addon",
            "manifests": "kind: Pod\n---\n- 1",
            "artifacts": ["web"],
            "values": "${{ nope }} ${{ nope2 }}",
        },
    ]
    variables = [
        {"name": "a", "default": "${{ b }}"},
        {"name": "b", "default": "${{ a }}"},
        {"name": "c", "default": "x", "format": "number"},
        {"name": "c", "regex": "("},
    ]

    shape = await put(
        manager,
        "clusterprofiles",
        "edge",
        doc("ClusterProfile", "edge", {"version": "1.0.0", "layers": layers}),
    )
    cycle = await put(
        manager,
        "clusterprofiles",
        "edge",
        doc("ClusterProfile", "edge", profile_spec(variables=variables)),
    )
    plain = [{**layers[1], "values": "", "artifacts": [], "name": "web"}]
    expanded = await put(
        manager,
        "clusterprofiles",
        "edge",
        doc(
            "ClusterProfile",
            "edge",
            profile_spec(layers=plain, values="kubelet:\n  nonsense: 1\nextra: 1\n"),
        ),
    )

    assert set(problems_of(shape)) >= {
        "spec.layers",
        "spec.layers[1].name",
        "spec.layers[1].artifacts[0]",
        "spec.layers[1].values",
    }
    both = [i for i in shape.json()["problems"] if i["path"] == "spec.layers[1].values"]
    assert len(both) == 2
    found = problems_of(cycle)
    assert "circle" in found["spec.variables"]
    assert set(found) == {
        "spec.variables",
        "spec.variables[2].default",
        "spec.variables[3].name",
        "spec.variables[3].regex",
    }
    assert set(problems_of(expanded)) == {
        "spec.layers[0].values.extra",
        "spec.layers[0].values.kubelet.nonsense",
        "spec.layers[2].manifests",
    }


async def test_problems_of_a_chart_name_their_fields(manager: Manager) -> None:
    await manager.artifact("harbour-1-0-0-any", "chart", "1.0.0", "any")
    await manager.artifact("web-1-amd64", "images", "1", "amd64")
    await manager.release()
    good = {
        "name": "web",
        "type": "addon",
        "chart": "harbour-1-0-0",
        "artifacts": ["harbour-1-0-0", "web-1"],
        "values": "greeting: ${{ secret.web.greeting }}\nsizes: {memory: ${{ host.site }}}\n",
    }
    bad: dict[str, dict[str, Any]] = {
        "chart not among the artifacts": {"artifacts": ["web-1"], "chart": "harbour-1-0-0"},
        "images as a chart": {"artifacts": ["web-1"], "chart": "web-1"},
        "chart that nothing uses": {"chart": "", "manifests": "a"},
        "chart and manifests": {"manifests": "apiVersion: v1\nkind: Namespace\n"},
        "chart and provider": {"type": "network", "provider": "routed"},
        "values that are a list": {"values": "- 1"},
        "values that are no YAML": {"values": "a: ["},
        "name too long": {"name": "w" * 54},
        "namespace that is none": {"namespace": "Shop Floor"},
        "a release as content": {"artifacts": ["harbour-1-0-0", "kubernetes-1-36-3-amd64"]},
    }
    wanted = {
        "chart not among the artifacts": {"chart"},
        "images as a chart": {"chart"},
        "chart that nothing uses": {"artifacts[0]", "manifests"},
        "chart and manifests": {"manifests"},
        "chart and provider": {"provider"},
        "values that are a list": {"values"},
        "values that are no YAML": {"values"},
        "name too long": {"name"},
        "namespace that is none": {"namespace"},
        "a release as content": {"artifacts[1]"},
    }

    for case, changes in bad.items():
        spec = profile_spec(version="1.0.1", layers=[{**good, **changes}])
        answer = await put(manager, "clusterprofiles", "edge", doc("ClusterProfile", "edge", spec))
        found = {
            item.removeprefix("spec.layers[2].")
            for item in problems_of(answer)
            if item.startswith("spec.layers[2]")
        }
        assert found == wanted[case], (case, problems_of(answer))
    spec = profile_spec(layers=[good])
    answer = await put(manager, "clusterprofiles", "edge", doc("ClusterProfile", "edge", spec))
    assert answer.status_code == 201, answer.text


async def test_a_chart_reaches_every_architecture_by_its_pinned_digest(manager: Manager) -> None:
    digest = await manager.artifact("harbour-1-0-0-any", "chart", "1.0.0", "any")
    await manager.release()
    layer = {
        "name": "web",
        "type": "addon",
        "chart": "harbour-1-0-0",
        "artifacts": ["harbour-1-0-0"],
    }
    await manager.profile(layers=[layer])
    device = await manager.ready_host("till-1")
    await manager.cluster("harbour", "till-1")
    await manager.reconciler.settle()

    fetched = await device.fetch(digest)
    members = manager.centre.blobs.members(digest)
    package = next(x for x in members if manager.centre.blobs.read_small(x).startswith(b"layer"))
    whole = await device.fetch(package)
    rest = await device.fetch(package, start=5)

    assert sha256(fetched.content) == digest
    assert rest.status_code == 206
    assert whole.content[5:] == rest.content


async def test_yaml_that_grows_without_end_is_refused(manager: Manager) -> None:
    bomb = "a: &a [x]\nb: &b [*a, *a]\n"

    answer = await put(
        manager, "clusterprofiles", "edge", doc("ClusterProfile", "edge", profile_spec(values=bomb))
    )

    assert "aliases" in problems_of(answer)["spec.layers[0].values"]


async def test_recorded_version_never_changes(manager: Manager) -> None:
    await manager.profile(description="first")

    same = await put(
        manager,
        "clusterprofiles",
        "edge",
        doc("ClusterProfile", "edge", profile_spec(description="words are no content")),
    )
    other = await put(
        manager,
        "clusterprofiles",
        "edge",
        doc("ClusterProfile", "edge", profile_spec(kubernetes="1.36.4")),
    )
    await manager.profile(version="1.0.1", kubernetes="1.36.4")
    found = (await manager.admin.get(path_of("clusterprofiles", "edge"))).json()

    assert same.status_code == 200
    assert set(problems_of(other)) == {"spec.version"}
    assert [item["version"] for item in found["status"]["revisions"]] == ["1.0.0", "1.0.1"]


async def test_cluster_problems_name_their_fields(manager: Manager) -> None:
    await manager.profile(
        variables=[
            {"name": "address", "format": "ipv4", "required": True},
            {"name": "size", "default": "1", "format": "number"},
        ]
    )
    await manager.device("waiting").enrol()
    spec = cluster_spec("waiting", variables={"size": "big", "colour": "red"})
    several = cluster_spec("waiting")
    several["pools"][0]["hosts"] = ["waiting", "other"]
    missing = cluster_spec("nowhere", version="9.9.9")

    first = problems_of(await put(manager, "clusters", "c", doc("Cluster", "c", spec)))
    second = problems_of(await put(manager, "clusters", "c", doc("Cluster", "c", several)))
    third = problems_of(await put(manager, "clusters", "c", doc("Cluster", "c", missing)))

    assert set(first) == {
        "spec.pools[0].hosts[0]",
        "spec.variables.address",
        "spec.variables.size",
        "spec.variables.colour",
    }
    assert "come later" in second["spec.pools"]
    assert set(third) == {"spec.pools[0].hosts[0]", "spec.profiles[0].version"}


async def test_addon_profile_alone_is_no_stack(manager: Manager) -> None:
    addon = {"name": "web", "type": "addon", "manifests": "{apiVersion: v1, kind: Namespace}"}
    await manager.apply(
        "ClusterProfile",
        "clusterprofiles",
        "edge",
        {"version": "1.0.0", "type": "addon", "layers": [addon]},
    )
    await manager.ready_host("shop-1")

    answer = await put(manager, "clusters", "c", doc("Cluster", "c", cluster_spec("shop-1")))

    assert "full or infra" in problems_of(answer)["spec.profiles"]


async def test_a_host_belongs_to_one_cluster_even_in_a_race(manager: Manager) -> None:
    await manager.profile()
    await manager.ready_host("shop-1")
    codes: list[int] = []

    async def take(name: str) -> None:
        answer = await put(manager, "clusters", name, doc("Cluster", name, cluster_spec("shop-1")))
        codes.append(answer.status_code)

    async with anyio.create_task_group() as tg:
        for index in range(8):
            tg.start_soon(take, f"c{index}")

    assert sorted(codes) == [201] + [422] * 7


async def test_kubernetes_goes_neither_down_nor_over_a_minor(manager: Manager) -> None:
    for version, kubernetes in (("1.0.0", "1.35.2"), ("0.9.0", "1.34.9"), ("3.0.0", "1.37.0")):
        await manager.profile(version=version, kubernetes=kubernetes)
    await manager.release("1.35.2")
    device = await manager.ready_host("shop-1")
    await manager.cluster("shop", "shop-1")
    await manager.reconciler.settle()
    await device.sync()
    await device.report(kubernetes=running("shop", version="1.35.2"))

    down = await put(
        manager, "clusters", "shop", doc("Cluster", "shop", cluster_spec("shop-1", version="0.9.0"))
    )
    skip = await put(
        manager, "clusters", "shop", doc("Cluster", "shop", cluster_spec("shop-1", version="3.0.0"))
    )

    assert "never goes down" in problems_of(down)["spec.profiles[0].version"]
    assert "cannot be skipped" in problems_of(skip)["spec.profiles[0].version"]
    assert skip.json()["problems"][0]["hint"] == "upgrade to 1.36 first"


async def test_apply_over_another_change_is_refused_with_the_difference(manager: Manager) -> None:
    first = await manager.apply("Site", "sites", "north", {"address": "A"})
    await manager.apply("Site", "sites", "north", {"address": "B"})
    mine = {**doc("Site", "north", {"address": "C"})}
    revision = first["metadata"]["revision"]

    answer = await put(manager, "sites", "north", mine, f"?revision={revision}")
    back = await put(manager, "sites", "north", {**first, "spec": {"address": "C"}})

    assert answer.status_code == 409
    assert answer.json()["changes"] == [{"path": "spec.address", "before": "C", "after": "B"}]
    assert back.status_code == 409, "the revision inside the document counts too"


async def test_what_programs_wrote_since_is_nobody_s_conflict(manager: Manager) -> None:
    first = await manager.apply("Site", "sites", "north", {"address": "A"})
    store = manager.centre.store
    for turn in range(3):
        site = await store.get("Site", "default", "north")
        seen = Condition(type="Ready", status="True", reason="Ready", message=str(turn))
        worked = msgspec.structs.replace(site, status=EmptyStatus(conditions=(seen,)))
        await store.commit(WriteSet(puts=(Put(worked, site.metadata.revision),)))

    mine = {**first, "spec": {"address": "C"}}
    answer = await put(manager, "sites", "north", mine)
    again = await put(manager, "sites", "north", {**first, "spec": {"address": "D"}})

    assert answer.status_code == 200, answer.text
    assert answer.json()["status"]["conditions"][0]["message"] == "2", "the status stays"
    assert again.status_code == 409, "but what a person wrote since is one"


async def test_a_revision_of_a_deleted_namesake_conflicts(manager: Manager) -> None:
    first = await manager.apply("Site", "sites", "north", {"address": "A"})
    assert (await manager.admin.delete(path_of("sites", "north"))).status_code in (200, 204)
    await manager.apply("Site", "sites", "north", {"address": "A"})

    answer = await put(manager, "sites", "north", {**first, "spec": {"address": "C"}})

    assert answer.status_code == 409


async def test_create_of_what_exists_conflicts(manager: Manager) -> None:
    await manager.apply("Site", "sites", "north", {})

    answer = await manager.admin.post(path_of("sites"), json=doc("Site", "north", {}))

    assert answer.status_code == 409


async def test_dry_run_shows_change_and_reaction_and_writes_nothing(manager: Manager) -> None:
    await manager.profile()
    await manager.profile(version="1.1.0", values="kubelet:\n  maxPods: 50\n")
    await manager.ready_host("shop-1")
    body = doc("Cluster", "shop", cluster_spec("shop-1"))
    new = await put(manager, "clusters", "shop", body, "?dryRun=true")
    await manager.cluster("shop", "shop-1")
    before = await manager.centre.store.revision()

    answer = await put(
        manager,
        "clusters",
        "shop",
        doc("Cluster", "shop", cluster_spec("shop-1", version="1.1.0")),
        "?dryRun=true",
    )

    assert new.json()["reactions"][0]["kind"] == "new release"
    found = answer.json()
    assert found["changes"] == [
        {"path": "spec.profiles[0].version", "before": "1.0.0", "after": "1.1.0"}
    ]
    assert [(r["host"], r["path"], r["kind"]) for r in found["reactions"]] == [
        ("shop-1", "kubelet.maxPods", "service restart")
    ]
    assert await manager.centre.store.revision() == before


async def test_patch_changes_one_field(manager: Manager) -> None:
    await manager.apply("Site", "sites", "north", {"address": "A", "timeZone": "Europe/Berlin"})

    answer = await manager.admin.patch(
        path_of("sites", "north"),
        json={"spec": {"address": "B"}, "metadata": {"labels": {"a": "b"}}},
    )

    assert answer.json()["spec"]["address"] == "B"
    assert answer.json()["spec"]["timeZone"] == "Europe/Berlin"
    assert answer.json()["metadata"]["labels"] == {"a": "b"}
    assert answer.json()["metadata"]["generation"] == 2


async def test_list_selects_searches_and_pages(manager: Manager) -> None:
    for index in range(5):
        body = doc("Site", f"s{index}", {})
        body["metadata"]["labels"] = {"odd": str(index % 2)}
        await put(manager, "sites", f"s{index}", body)

    odd = (await manager.admin.get(path_of("sites") + "?labelSelector=odd=1")).json()
    first = (await manager.admin.get(path_of("sites") + "?limit=2")).json()
    second = (await manager.admin.get(path_of("sites") + f"?limit=2&after={first['after']}")).json()
    wrong = await manager.admin.get(path_of("sites") + "?fieldSelector=spec.nope=1")

    assert [item["metadata"]["name"] for item in odd["items"]] == ["s1", "s3"]
    names = [item["metadata"]["name"] for item in (*first["items"], *second["items"])]
    assert names == ["s0", "s1", "s2", "s3"]
    assert wrong.status_code == 400


async def test_site_in_use_stays(manager: Manager) -> None:
    await manager.apply("Site", "sites", "north", {})
    secret = await manager.token(site="north")
    await manager.device("a").enrol(token=secret)

    answer = await manager.admin.delete(path_of("sites", "north"))

    assert answer.status_code == 422
    assert "1 hosts still use it" in answer.json()["detail"]


async def test_watch_streams_changes_from_a_revision_on(manager: Manager) -> None:
    from skerry.manager.api.watching import WatchAnswer
    from skerry.manager.services import objects
    from skerry.manager.services.centre import INTERNAL
    from skerry.model.kinds import KINDS

    since = await manager.centre.store.revision()
    await manager.apply("Site", "sites", "north", {})
    await manager.admin.delete(path_of("sites", "north"))
    lines: list[bytes] = []
    enough = anyio.Event()

    async def send(message: Any) -> None:
        lines.extend(filter(None, message.get("body", b"").split(b"\n")))
        if len(lines) >= 2:
            enough.set()

    async def receive() -> Any:
        await enough.wait()
        return {"type": "http.disconnect"}

    async def allowed() -> None:
        """Nothing was taken away."""

    changes = objects.watch(manager.centre, INTERNAL, KINDS["Site"], "default", since=since)
    with anyio.fail_after(10):
        await WatchAnswer(changes, manager.clock, recheck=allowed)({}, receive, send)

    found = [msgspec.json.decode(line) for line in lines]
    assert [item["type"] for item in found] == ["CHANGED", "DELETED"]
    assert found[0]["object"]["metadata"]["name"] == "north"


async def test_every_change_has_its_audit_record(manager: Manager) -> None:
    await manager.apply("Site", "sites", "north", {"address": "A"})
    await manager.apply("Site", "sites", "north", {"address": "B"})
    await manager.admin.delete(path_of("sites", "north"))

    found = (await manager.admin.get("/v1/audit")).json()["items"]

    mine = [(i["verb"], i["actor"], i["change"]) for i in found if i["name"] == "north"]
    assert mine[0][:2] == ("create", "user:admin")
    assert mine[1] == ("update", "user:admin", "spec.address: A -> B")
    assert mine[2][:2] == ("delete", "user:admin")
    chain = [(i["previousHash"], i["hash"]) for i in found]
    assert all(chain[n][1] == chain[n + 1][0] for n in range(len(chain) - 1))


async def test_host_is_not_made_by_apply(manager: Manager) -> None:
    answer = await put(manager, "hosts", "x", doc("Host", "x", {"approval": "approved"}))

    assert "registering" in problems_of(answer)["kind"]
