"""The entry point of `skerry` and the tree of its commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from skerry import __version__
from skerry.cli.exitcodes import ExitCode, exit_code
from skerry.cli.failures import report
from skerry.cli.lazy import LazyGroup, Sections

_AT = "skerry.cli.commands"

SECTIONS: Sections = {
    "Look": {
        "get": (f"{_AT}.reading:get", "Show objects as a table, JSON or YAML."),
        "describe": (f"{_AT}.reading:describe", "Show everything about one object."),
        "why": (f"{_AT}.reading:why", "Say why a host is not as it should be."),
        "events": (f"{_AT}.history:events", "Show what happened."),
        "audit": (f"{_AT}.history:audit", "Show, export and verify who did what."),
    },
    "Change": {
        "apply": (f"{_AT}.changing:apply", "Create or change objects from files."),
        "edit": (f"{_AT}.changing:edit", "Change one object in your editor."),
        "delete": (f"{_AT}.changing:delete", "Delete objects."),
        "retry": (f"{_AT}.retrying:retry", "Let hosts try again what failed on them."),
        "profile": (f"{_AT}.profiles:profile", "Compare versions of cluster profiles."),
        "cluster": (f"{_AT}.clusters:cluster", "Make clusters."),
    },
    "Hosts": {
        "token": (f"{_AT}.registration:token", "Make and revoke registration tokens."),
        "claim": (f"{_AT}.registration:claim", "Expect hosts before they register."),
        "approve": (f"{_AT}.registration:approve", "Let waiting hosts in."),
        "deny": (f"{_AT}.registration:deny", "Refuse waiting hosts."),
        "revoke": (f"{_AT}.registration:revoke", "Shut out a host, or end a token."),
    },
    "Sign-in": {
        "login": (f"{_AT}.access:login", "Sign in to a manager."),
        "logout": (f"{_AT}.access:logout", "End the session."),
        "whoami": (f"{_AT}.access:whoami", "Show who is signed in and what they may do."),
        "password": (f"{_AT}.access:password", "Change a password."),
        "key": (f"{_AT}.access:key", "Make API keys for programs."),
        "context": (f"{_AT}.access:context", "List and choose managers."),
    },
    "Run": {
        "serve": (f"{_AT}.serving:serve", "Run the manager."),
        "backup": (f"{_AT}.serving:backup", "Save and restore the manager's store."),
        "release": (f"{_AT}.releases:release", "Build, sign and push what hosts run."),
        "image": (f"{_AT}.images:image", "Build OS images for hosts."),
        "keys": (f"{_AT}.images:keys", "Make the keys that sign OS images."),
        "lab": (f"{_AT}.labs:lab", "Run real hosts on this computer."),
        "simulate": (f"{_AT}.simulating:simulate", "Run a simulated fleet."),
        "bundle": (f"{_AT}.bundles:bundle", "Carry a host's state to a site without a line."),
        "completion": (f"{_AT}.completing:completion", "Print shell completion."),
    },
}


class Root(LazyGroup):
    """The tree's root. Failures end here, as text and exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        code: ExitCode
        try:
            result = super().main(
                args,
                prog_name=prog_name or "skerry",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
            code = exit_code(result) if isinstance(result, int) else ExitCode.OK
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (head, less) has seen enough; Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = ExitCode.OK
        except BaseException as exc:
            if isinstance(exc, SystemExit):
                raise
            code = report(exc)
        sys.exit(int(code))


@click.group(
    cls=Root,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="skerry", message="%(prog)s %(version)s")
@click.option("--context", metavar="NAME", help="Manager to talk to (default: the current one).")
@click.pass_context
def cli(ctx: click.Context, context: str | None) -> None:
    """Kubernetes at many small sites, managed from one place."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if context is not None:
        ctx.meta["skerry.context"] = context


def main() -> None:
    """Run the command line of this process."""
    cli()
