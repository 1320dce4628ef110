"""How a stage is run: what every stage does before and after its own work."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from onesentence.core import checkpoints, errors, processes, recorded, stopping


def name() -> str:
    """The stage that runs, such as "train" or "generate@tuned", from the command line."""
    return "@".join([Path(sys.argv[0]).stem, *sys.argv[1:2]])


def run(main: Callable[[], None], description: str | None = None, launchable: bool = False) -> None:
    """Call a stage's `main`, with its errors and its end as one sentence.

    description: see `errors.run`. A signal ends the stage (`stopping`), as does the end of the program that
    started it. Under DVC, the stage fails if its inputs changed while it ran (`recorded`).

    launchable: whether the stage can run in several processes (`processes`). This one then starts them, if
    the user asks for them.
    """

    def work() -> None:
        main()
        recorded.require_unchanged()

    def whole() -> None:
        if recorded.under_dvc() or processes.count() > 1:
            # Not if a user runs the module: a pipe, such as `python -m stages.train | head`, ends first.
            stopping.follow_parent()
        if processes.count() > 1:
            recorded.begin()
            processes.run(work)
            return
        checkpoints.sweep(os.environ.get(recorded.STAGE, name()).rpartition(":")[2])
        recorded.begin()
        if launchable and processes.to_launch():
            processes.launch(f"stages.{Path(sys.argv[0]).stem}", sys.argv[1:])
        else:
            work()

    stopping.install()
    if processes.count() == 1:
        errors.run(whole, description)
    else:
        processes.leave_after(lambda: errors.run(whole, description))
