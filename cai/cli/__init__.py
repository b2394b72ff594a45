"""The command line: `cai solve`, `cai train`, `cai evaluate`, `cai plot`, `cai models`.

Nothing heavy is imported before a command needs it, so that `cai --help` answers at once. Bad input ends in one line on
standard error and exit code 2, an interrupt in exit code 130.
"""

from cai.cli.app import app, main

__all__ = ["app", "main"]
