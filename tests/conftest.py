"""Signals as a terminal gives them: under nohup, or in a script's background, some are ignored, and children too."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
