"""What goes wrong before there is anything to measure: a clear message, the next step, nothing left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.drills.harness import MICRO, ROOT, Blackstart, run

pytestmark = pytest.mark.drill


def test_a_port_in_use_is_said_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, left = run("run", str(MICRO), "--out", str(tmp_path), "--gateway-port", str(port))
    assert code == 3, out
    assert f"127.0.0.1:{port}" in out
    assert "Next: " in out
    assert "Traceback" not in out
    assert left == []


def test_without_locust_nothing_is_measured_and_nothing_stays(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    code = "import sys; sys.modules['locust'] = None; import blackstart; blackstart.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(MICRO), "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "BLACKSTART_TEST_RUN": mark},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "locust is not installed" in done.stderr
    assert "Next: " in done.stderr
    assert "Traceback" not in done.stderr
    assert Blackstart(mark, None).left_behind() == []  # type: ignore[arg-type]  # only its mark is asked for


def test_an_unwritable_place_for_runs_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    code, out, left = run("run", str(MICRO), "--out", str(file / "runs"))
    assert code in (3, 4), out
    assert "Next: " in out
    assert "Traceback" not in out
    assert left == []
