"""The command line: `iris train | encode | segment | label | classes | evaluate | advise | atlas | push | pull`,
`iris space | app | serve | info | selftest`.

A command is one class.
"""

import os
import sys

import tyro

from app.commands.atlas import AtlasOfTasks
from app.commands.evaluate import Advise, Evaluate
from app.commands.hub import Pull, Push, Space
from app.commands.info import Info
from app.commands.label import Label
from app.commands.page import App, Serve
from app.commands.segment import Classes, Encode, Segment
from app.commands.selftest import Selftest
from app.commands.train import Train
from iris_core.case import InputError

COMMANDS = {
    "train": Train,
    "encode": Encode,
    "segment": Segment,
    "label": Label,
    "classes": Classes,
    "evaluate": Evaluate,
    "advise": Advise,
    "atlas": AtlasOfTasks,
    "push": Push,
    "pull": Pull,
    "space": Space,
    "app": App,
    "serve": Serve,
    "info": Info,
    "selftest": Selftest,
}


EXIT_CODES = """Exit codes: 0 done, or a server was stopped; 1 some queries failed, or
the self-test did, or nobody reads the output; 2 bad input; 130 interrupted."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns its exit code, see EXIT_CODES; raises SystemExit (2) for options that there are not."""
    about = f"Show one scan, segment the rest.\n\n{EXIT_CODES}"
    try:
        command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="iris", description=about, args=arguments)
        code = command.run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        print(f"iris: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"iris: {error or 'interrupted'}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
