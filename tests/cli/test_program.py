"""The program in a process of its own: help, version, failures, interrupts, terminals, pipes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

import cai

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and pseudo-terminals are POSIX")


def test_help_names_commands_and_options(cai_program: Callable[..., Result]) -> None:
    top = cai_program("--help")
    assert top.exit_code == 0
    assert "solve" in top.stdout and "models" in top.stdout and "FrozenLake-v1" in top.stdout
    solve = cai_program("solve", "-h")
    assert solve.exit_code == 0
    for name in ("method", "horizon", "infinite", "temperature", "discount", "prior", "option", "seed", "out"):
        assert f"--{name}" in solve.stdout


def test_no_command_is_help(cai_program: Callable[..., Result]) -> None:
    assert cai_program().stdout == cai_program("--help").stdout
    assert cai_program().exit_code == 0


def test_version(own_process: Callable[..., subprocess.CompletedProcess]) -> None:
    done = own_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cai {cai.__version__}\n", "")


def test_console_script_and_module_are_the_same_program() -> None:
    from importlib.metadata import entry_points

    import cai.__main__
    from cai.cli import main

    assert cai.__main__.main is main
    scripts = [script for script in entry_points(group="console_scripts") if script.name == "cai"]
    assert all(script.value == "cai.cli:main" for script in scripts)


def test_success_and_failure(own_process: Callable[..., subprocess.CompletedProcess]) -> None:
    good = own_process("solve", "frozen_lake")
    assert (good.returncode, good.stderr) == (0, "")
    assert "FrozenLake" not in good.stdout and "log evidence" in good.stdout
    bad = own_process("solve", "FrozenLak-v1")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1 and "Traceback" not in bad.stderr


def test_terminals_without_unicode_get_ascii(monkeypatch: pytest.MonkeyPatch, own_process: Callable) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = own_process("solve", "frozen_lake")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii() and "policy, t = 0" in done.stdout


@POSIX
def test_interrupt(tmp_path: Path, model_file: Callable[..., Path]) -> None:
    started = tmp_path / "started"
    path = model_file(f"import time; open({str(started)!r}, 'w').close(); time.sleep(100)")
    command = [sys.executable, "-m", "cai", "solve", str(path), "--out", str(tmp_path / "new")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, stdout, stderr) == (130, "", "cai: interrupted\n")
    assert not (tmp_path / "new").exists()


@POSIX
@pytest.mark.parametrize("on_terminal", [True, False])
def test_progress_shows_on_a_terminal_only(model_file: Callable[..., Path], on_terminal: bool) -> None:
    path = model_file("import time; time.sleep(2.5)")
    command = [sys.executable, "-m", "cai", "solve", str(path), "--option", "horizon=2"]
    ours, theirs = os.openpty() if on_terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    shown = _read_all(ours)
    assert process.wait(timeout=60) == 0
    assert (b"building" in shown) == on_terminal
    assert on_terminal or shown == b""


def _read_all(handle: int) -> bytes:
    """Reads until the other side closes; a terminal then raises EIO, a pipe ends."""
    parts = []
    while select.select([handle], [], [], 60)[0]:
        try:
            part = os.read(handle, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(handle)
    return b"".join(parts)
