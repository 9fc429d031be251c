"""The host process: who starts when, who died, and that nobody outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil

from fleet.environments.kind.host import Service, died, write_services

ROOT = Path(__file__).parents[3]
SLEEP = ("/bin/sleep", "60")


def until(done: Callable[[], object], limit_s: float = 15.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False


class Door(BaseHTTPRequestHandler):
    """503 until ``opened``."""

    opened = False

    def do_GET(self) -> None:
        self.send_response(200 if Door.opened else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return None


def test_services_start_in_order_are_missed_when_they_die_and_end_together(tmp_path: Path) -> None:
    door = HTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{door.server_port}/readyz"
    services = (
        Service("lives", "", None, tmp_path / "lives.out", SLEEP),
        Service("dies", "", None, tmp_path / "dies.out", ("/bin/sleep", "0")),
        Service("waits", "", None, tmp_path / "waits.out", SLEEP, after=(url,)),
    )
    write_services(tmp_path, services)
    assert (tmp_path / "services.pickle").stat().st_mode & 0o077 == 0
    host = subprocess.Popen([sys.executable, "-m", "fleet.environments.kind.host", str(tmp_path)], cwd=ROOT)
    try:
        assert until(lambda: died(tmp_path) == ("dies",))
        assert len(psutil.Process(host.pid).children()) == 1, "the third waits for its door"
        Door.opened = True
        assert until(lambda: len(psutil.Process(host.pid).children()) == 2)
        children = psutil.Process(host.pid).children()
        os.kill(host.pid, signal.SIGTERM)
        assert host.wait(10) == 0
        assert not any(child.is_running() for child in children)
    finally:
        host.kill()
        host.wait()
        door.shutdown()
        door.server_close()
