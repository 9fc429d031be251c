"""The command line: one command a file. Only this folder (and the view) prints; exit codes are in ``main``."""

from drills.engine.commands.main import main

__all__ = ["main"]
