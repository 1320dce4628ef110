"""Print the script that makes a shell complete the names of commands and options.

Run     eval "$(onesentence completion bash)"        # in ~/.bashrc
        eval "$(onesentence completion zsh)"         # in ~/.zshrc
        onesentence completion fish | source         # in ~/.config/fish/config.fish
"""

import click
from click.shell_completion import get_completion_class

from onesentence.commands import documented

PROGRAM = "onesentence"


@documented(__doc__)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    from onesentence.cli import cli

    variable = f"_{PROGRAM.upper()}_COMPLETE"
    completion = get_completion_class(shell)
    if completion is None:  # click knows every shell of the option
        raise ValueError(f"{shell}: click has no completion for it")
    click.echo(completion(cli, {}, PROGRAM, variable).source())
