"""The oldest system that is tested: Debian 12. An older one is refused by name, before anything."""

from __future__ import annotations

import pytest
from tests.lab.bench import CLUSTER, Bench, apply, host_of, push, register, until

from skerry.lab import onboarding
from skerry.lib.proc import CommandFailed

pytestmark = [pytest.mark.lab, pytest.mark.anyio, pytest.mark.timeout(900)]

SUITE = "bookworm"
_FAKE_LIBC = "printf '#!/bin/sh\\necho glibc 2.31\\n' > /usr/local/bin/getconf"


async def test_an_older_c_library_is_refused_by_name_and_nothing_is_changed(bench: Bench) -> None:
    async with bench.manager() as running:
        token = await onboarding.new_token(running.api, "old", {"autoApprove": True})
        await bench.sh(f"{_FAKE_LIBC}; chmod +x /usr/local/bin/getconf")

        with pytest.raises(CommandFailed) as caught:
            await onboarding.install_agent(bench.host, str(token["install"]))

        assert "this system has glibc 2.31; the agent needs glibc" in caught.value.result.stderr
        assert await bench.sh("ls -d /opt/skerry /var/lib/skerry/* 2>/dev/null", check=False) == ""
        await bench.sh("rm /usr/local/bin/getconf")


async def test_debian_12_registers_and_says_what_it_is(bench: Bench) -> None:
    async with bench.manager() as running:
        await register(bench, running.api)

        host = await host_of(running.api)

        assert host["status"]["inventory"]["osName"] == "debian"
        assert host["status"]["inventory"]["osVersion"] == "12"


@pytest.mark.long
async def test_debian_12_becomes_a_cluster_and_lets_go_of_it(bench: Bench) -> None:
    async with bench.manager() as running:
        await push(running, "1.36.3")
        await apply(
            running.api,
            bench.profile("1.0.0", "1.36.3", {}),
            bench.cluster("1.0.0", "old, but well"),
        )
        await onboarding.wait_for_cluster(running.api, CLUSTER, limit_s=300)

        await until("the page", lambda: bench.says("old, but well"), limit_s=60)
        await bench.sh("skerry-agent remove --yes", timeout_s=300)

        assert await bench.sh("ls -d /opt/skerry /var/lib/skerry/* 2>/dev/null", check=False) == ""
