"""`completion`: what a shell needs to complete command lines."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    eval "$(skerry completion bash)"     # in ~/.bashrc
    eval "$(skerry completion zsh)"      # in ~/.zshrc
    skerry completion fish | source      # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root().command
    click.echo(made(root, {}, "skerry", "_SKERRY_COMPLETE").source())
