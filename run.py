#!/usr/bin/env python3
"""How do I run this on a machine that has nothing but Python (3.11 or newer) and pip?

    python3 run.py demo               see it work: everything in one process, no account needed
    python3 run.py test [...]         the tests; `--coverage` measures them, the rest is pytest's
    python3 run.py faults [...]       the proof under faults: kills for half an hour, then a table
    python3 run.py soak [...]         an hour of traffic and kills in the composition; needs Docker
    python3 run.py check              format, lint, types, architecture
    python3 run.py bench [NAME]       what it costs, measured here (tests/bench/README.md)
    python3 run.py lock [--upgrade]   write the locks anew
    python3 run.py <anything else>    the service's own commands: run, serve, work, doctor, ...

The first call makes an environment in .venv beside this file and installs exactly what the lock
says; it touches nothing else on the machine. Later calls see that all is there and start at once.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOL = ROOT / ".tool"
OLDEST = (3, 11)

RUNTIME_LOCK = ROOT / "requirements.lock"  # with the embedded server
IMAGE_LOCK = ROOT / "deploy" / "requirements.lock"  # without; beside it one with the extra otel
TESTS_LOCK = ROOT / "tests" / "requirements.lock"  # with all that tests and checks need
BENCH = ROOT / "tests" / "bench"  # and its own locks: of what it compares with

# pip's word for a setting, and uv's, that reads none of pip's. Extra indexes are left out: one that
# holds a few wheels of a version would narrow the locks to those.
PIP_TO_UV = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


def main(words: Sequence[str]) -> int:
    """Do what the first word says; give the exit status."""
    if sys.version_info < OLDEST or os.name != "posix":
        found = f"this is {sys.platform} with Python {sys.version.split()[0]}"
        return fail(f"deployment-enricher needs Linux or macOS with Python 3.11 or newer; {found}")
    commands = {"test": run_tests, "check": run_checks, "lock": write_locks}
    commands |= {name: partial(run_proof, f"tests.{name}") for name in ("faults", "bench", "soak")}
    command = commands.get(words[0]) if words else None
    try:
        return command(words[1:]) if command else run_service(words)
    except KeyboardInterrupt:
        return 130
    except SetupError as error:
        return fail(str(error))


class SetupError(Exception):
    """The environment could not be made; the text says what to do about it."""


def run_service(words: Sequence[str]) -> int:
    """Become the service, so that signals arrive where they belong."""
    set_up(RUNTIME_LOCK)
    os.execv(PYTHON, [str(PYTHON), "-m", "service", *words])


def run_tests(words: Sequence[str]) -> int:
    """Run pytest, and with `--coverage` say what it reached."""
    set_up(TESTS_LOCK)
    if "--coverage" not in words:
        return run_module("pytest", *words)
    run_module("coverage", "erase")
    pytest_words = (word for word in words if word != "--coverage")
    status = run_module("coverage", "run", "-m", "pytest", *pytest_words)
    run_module("coverage", "combine", "--quiet")
    return status or run_module("coverage", "report")


def run_proof(module: str, words: Sequence[str]) -> int:
    """Kill everything and count what was lost or twice; or measure what it costs."""
    set_up(TESTS_LOCK)
    return run_module(module, *words)


def run_checks(words: Sequence[str]) -> int:
    """Run every check, also those after one that fails."""
    set_up(TESTS_LOCK)
    statuses = [
        run_module("ruff", "format", "--check", *words),
        run_module("ruff", "check", *words),
        run_module("mypy"),
        subprocess.run([VENV / "bin" / "lint-imports"], cwd=ROOT, check=False).returncode,
    ]
    return max(statuses)


def write_locks(words: Sequence[str]) -> int:
    """Resolve all that tests need, then cut the other locks from the same versions."""
    with only_one_at_a_time():
        uv = find_uv() or install_uv()
    ours, same = ("pyproject.toml", *words), ("--constraint", str(TESTS_LOCK))
    compile_lock(uv, TESTS_LOCK, "--extra", "embedded", "--group", "dev", *ours)
    compile_lock(uv, RUNTIME_LOCK, "--extra", "embedded", *same, *ours)
    compile_lock(uv, IMAGE_LOCK, *same, *ours)
    compile_lock(uv, IMAGE_LOCK.with_stem("requirements-otel"), "--extra", "otel", *same, *ours)
    compile_lock(uv, BENCH / "requirements.lock", "--group", "bench", *same, *words)
    compile_lock(uv, BENCH / "requirements-arq.lock", "--group", "bench-arq", *words)
    return 0


def compile_lock(uv: Path, lock: Path, *words: str) -> None:
    """Write one lock: hashes for every platform, and no address of any index."""
    form = "--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet"
    run(uv, "pip", "compile", *form.split(), "-o", lock, *words, env=uv_env())
    say(f"wrote {lock.relative_to(ROOT)}")


def set_up(lock: Path) -> None:
    """Make .venv hold what the lock says; costs nothing when it does already."""
    stamp = VENV / f"set-up-{lock.parent.name if lock.parent != ROOT else 'service'}"
    if is_current(stamp, lock):
        return
    with only_one_at_a_time():
        if is_current(stamp, lock):
            return
        since = time.monotonic()
        say("setting up .venv; this takes half a minute, once ...")
        stamp.unlink(missing_ok=True)
        try:
            set_up_by_uv(find_uv() or install_uv(), lock)
        except SetupError as error:
            say(f"{error}; trying with pip alone, which takes longer ...")
            set_up_by_pip(lock)
        stamp.write_text(digest_of(lock))
        say(f"ready after {time.monotonic() - since:.0f} s")


def set_up_by_uv(uv: Path, lock: Path) -> None:
    """Make the environment the fast way."""
    env = uv_env()
    if not is_sound():
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV, env=env)
    install = (uv, "pip", "install", "--quiet", "--python", PYTHON)
    run(*install, "--require-hashes", "-r", lock, env=env)
    run(*install, "--no-deps", "-e", ROOT, env=env)


def set_up_by_pip(lock: Path) -> None:
    """Make the environment with what Python itself brings; no ensurepip is needed for this."""
    if importlib.util.find_spec("pip") is None:
        raise SetupError("there is no pip: install it (Debian, Ubuntu: apt install python3-pip)")
    if not is_sound():
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV)
    install = (sys.executable, "-m", "pip", "--python", PYTHON, "install", "-qq")
    run(*install, "--require-hashes", "-r", lock)
    run(*install, "--no-deps", "-e", ROOT)


def is_current(stamp: Path, lock: Path) -> bool:
    """Say whether the environment was made from this very lock, and its Python is still there."""
    with contextlib.suppress(OSError):
        return PYTHON.exists() and stamp.read_text() == digest_of(lock)
    return False


def digest_of(lock: Path) -> str:
    """Sum up all that an environment is made from: the lock, the project, where it is, Python."""
    files = (lock.read_bytes(), (ROOT / "pyproject.toml").read_bytes())
    made_from = (*files, os.fsencode(ROOT), os.fsencode(PYTHON.resolve()))
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()


def is_sound() -> bool:
    """Say whether .venv has a Python that runs and is new enough, whoever made it."""
    program = f"import encodings, sys; sys.exit(sys.version_info < {OLDEST})"
    with contextlib.suppress(OSError):
        return not subprocess.run(
            [PYTHON, "-c", program], capture_output=True, check=False
        ).returncode
    return False


def find_uv() -> Path | None:
    """Find uv: the one that we installed, else the user's own."""
    ours = TOOL / "uv" / "bin" / "uv"
    found = shutil.which(ours) or shutil.which("uv")
    return Path(found) if found else None


def install_uv() -> Path:
    """Install uv beside us. `--target` works where pip may not install (PEP 668)."""
    fresh, home = TOOL / "uv.new", TOOL / "uv"
    shutil.rmtree(fresh, ignore_errors=True)
    run(sys.executable, "-m", "pip", "install", "-qq", "--target", fresh, "uv")
    shutil.rmtree(home, ignore_errors=True)
    fresh.rename(home)  # whole or not at all
    return home / "bin" / "uv"


def uv_env() -> dict[str, str]:
    """Hand the index that pip was told to use on to uv, unless uv was told itself."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = [line.partition("=")[::2] for line in listed.splitlines()]
    told = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in pairs}
    return {**{uv: told[pip] for pip, uv in PIP_TO_UV.items() if pip in told}, **os.environ}


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Wait for another run.py that sets up the same checkout."""
    TOOL.mkdir(exist_ok=True)
    with (TOOL / "lock").open("w") as lock:
        os.lockf(lock.fileno(), os.F_LOCK, 0)
        yield


def run(*words: str | Path, env: dict[str, str] | None = None) -> None:
    """Run one step of the set-up; its own words on stderr explain a failure."""
    try:
        subprocess.run(words, cwd=ROOT, env=env, stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"`{' '.join(map(str, words[:4]))} ...` failed") from error


def run_module(*words: str) -> int:
    """Run a module of the environment in the checkout; give its exit status."""
    return subprocess.run([PYTHON, "-m", *words], cwd=ROOT, check=False).returncode


def say(text: str) -> None:
    """Tell a person what takes so long."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    """Say what went wrong; give the exit status for it."""
    say(text)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
