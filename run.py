#!/usr/bin/env python3
"""Run, test and check the project on a machine with only Python (3.11 or newer) and pip.

    python3 run.py demo               see it work: everything in one process, no account needed
    python3 run.py test [...]         tests; `--coverage` measures them, the rest is pytest's
    python3 run.py faults [...]       kill every process at random, then count lost and duplicated
    python3 run.py soak [...]         one hour of traffic and kills under Compose; needs Docker
    python3 run.py check              check format, lint, types and layers
    python3 run.py bench [NAME]       measure what it costs here (tests/bench/README.md)
    python3 run.py lock [--upgrade]   resolve the dependencies and write the locks
    python3 run.py <anything else>    the commands of the service: run, serve, work, doctor, ...

The first call creates .venv beside this file and installs exactly what the lock says. It changes
nothing else on the machine. Later calls find the environment complete and start at once.
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

SLOWEST_TESTS = ("--durations=15", "--durations-min=1")  # named at the end, so that growth is seen

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOL = ROOT / ".tool"
OLDEST = (3, 11)

RUNTIME_LOCK = ROOT / "requirements.lock"  # with the embedded server
IMAGE_LOCK = ROOT / "deploy" / "requirements.lock"  # without; beside it one with the extra otel
TESTS_LOCK = ROOT / "tests" / "requirements.lock"  # with all that tests and checks need
BENCH = ROOT / "tests" / "bench"  # and its own locks: of what it compares with
INTEROP_LOCK = ROOT / "tests" / "interop" / "requirements.lock"  # of software of others, as tested

# uv does not read pip's settings: pip's name and uv's variable for each. Extra indexes are left
# out, because an index with a few wheels of a version would narrow the locks to those.
PIP_TO_UV = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first word names; return the exit status."""
    if sys.version_info < OLDEST or os.name != "posix":
        found = f"this is {sys.platform} with Python {sys.version.split()[0]}"
        return fail(f"deployment-enricher needs Linux or macOS with Python 3.11 or newer; {found}")
    commands = {"test": run_tests, "check": run_checks, "lock": write_locks}
    commands |= {name: partial(run_proof, f"tests.{name}") for name in ("faults", "bench", "soak")}
    command = commands.get(arguments[0]) if arguments else None
    try:
        return command(arguments[1:]) if command else run_service(arguments)
    except KeyboardInterrupt:
        return 130
    except SetupError as error:
        return fail(str(error))


class SetupError(Exception):
    """The environment could not be created; the message says what to do."""


def run_service(arguments: Sequence[str]) -> int:
    """Replace this process with the service, so that signals reach it directly."""
    set_up(RUNTIME_LOCK)
    os.execv(PYTHON, [str(PYTHON), "-m", "service", *arguments])


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest, and with `--coverage` report the coverage."""
    set_up(TESTS_LOCK)
    arguments = (*SLOWEST_TESTS, *arguments)
    if "--coverage" not in arguments:
        return run_module("pytest", *arguments)
    run_module("coverage", "erase")
    pytest_words = (word for word in arguments if word != "--coverage")
    status = run_module("coverage", "run", "-m", "pytest", *pytest_words)
    run_module("coverage", "combine", "--quiet")
    return status or run_module("coverage", "report")


def run_proof(module: str, arguments: Sequence[str]) -> int:
    """Run a proof or a benchmark: a module of tests/ that is a program."""
    set_up(TESTS_LOCK)
    return run_module(module, *arguments)


def run_checks(arguments: Sequence[str]) -> int:
    """Run every check, also after one that fails."""
    set_up(TESTS_LOCK)
    statuses = [
        run_module("ruff", "format", "--check", *arguments),
        run_module("ruff", "check", *arguments),
        run_module("mypy"),
        subprocess.run([VENV / "bin" / "lint-imports"], cwd=ROOT, check=False).returncode,
    ]
    return max(statuses)


def write_locks(arguments: Sequence[str]) -> int:
    """Resolve what the tests need, then write the other locks with the same versions."""
    with only_one_at_a_time():
        uv = find_uv() or install_uv()
    project, same = ("pyproject.toml", *arguments), ("--constraint", str(TESTS_LOCK))
    compile_lock(uv, TESTS_LOCK, "--extra", "embedded", "--group", "dev", *project)
    compile_lock(uv, RUNTIME_LOCK, "--extra", "embedded", *same, *project)
    compile_lock(uv, IMAGE_LOCK, *same, *project)
    compile_lock(uv, IMAGE_LOCK.with_stem("requirements-otel"), "--extra", "otel", *same, *project)
    compile_lock(uv, INTEROP_LOCK, "--group", "interop", *same, *arguments)
    compile_lock(uv, BENCH / "requirements.lock", "--group", "bench", *same, *arguments)
    compile_lock(uv, BENCH / "requirements-arq.lock", "--group", "bench-arq", *arguments)
    return 0


def compile_lock(uv: Path, lock: Path, *options: str) -> None:
    """Write one lock: hashes for every platform, and no URL of an index."""
    form = "--universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet"
    run(uv, "pip", "compile", *form.split(), "-o", lock, *options, env=uv_env())
    print_status(f"wrote {lock.relative_to(ROOT)}")


def set_up(lock: Path) -> None:
    """Install into .venv what the lock says, unless it is there already."""
    stamp = VENV / f"set-up-{lock.parent.name if lock.parent != ROOT else 'service'}"
    if is_current(stamp, lock):
        return
    with only_one_at_a_time():
        if is_current(stamp, lock):
            return
        since = time.monotonic()
        print_status("setting up .venv; this takes half a minute, once ...")
        stamp.unlink(missing_ok=True)
        try:
            set_up_by_uv(find_uv() or install_uv(), lock)
        except SetupError as error:
            print_status(f"{error}; trying with pip alone, which takes longer ...")
            set_up_by_pip(lock)
        stamp.write_text(digest_of(lock))
        print_status(f"ready after {time.monotonic() - since:.0f} s")


def set_up_by_uv(uv: Path, lock: Path) -> None:
    """Create the environment with uv, which is fast."""
    env = uv_env()
    if not is_sound():
        run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV, env=env)
    install = (uv, "pip", "install", "--quiet", "--python", PYTHON)
    run(*install, "--require-hashes", "-r", lock, env=env)
    run(*install, "--no-deps", "-e", ROOT, env=env)


def set_up_by_pip(lock: Path) -> None:
    """Create the environment with pip and venv alone; ensurepip is not needed."""
    if importlib.util.find_spec("pip") is None:
        raise SetupError("there is no pip: install it (Debian, Ubuntu: apt install python3-pip)")
    if not is_sound():
        run(sys.executable, "-m", "venv", "--clear", "--without-pip", VENV)
    install = (sys.executable, "-m", "pip", "--python", PYTHON, "install", "-qq")
    run(*install, "--require-hashes", "-r", lock)
    run(*install, "--no-deps", "-e", ROOT)


def is_current(stamp: Path, lock: Path) -> bool:
    """Return whether the environment was made from this lock and its Python still exists."""
    with contextlib.suppress(OSError):
        return PYTHON.exists() and stamp.read_text() == digest_of(lock)
    return False


def digest_of(lock: Path) -> str:
    """Return a digest of what an environment depends on: lock, project, folder and Python."""
    files = (lock.read_bytes(), (ROOT / "pyproject.toml").read_bytes())
    made_from = (*files, os.fsencode(ROOT), os.fsencode(PYTHON.resolve()))
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()


def is_sound() -> bool:
    """Return whether .venv has a Python that runs and is new enough."""
    program = f"import encodings, sys; sys.exit(sys.version_info < {OLDEST})"
    with contextlib.suppress(OSError):
        return not subprocess.run(
            [PYTHON, "-c", program], capture_output=True, check=False
        ).returncode
    return False


def find_uv() -> Path | None:
    """Return the path of uv: the one installed here, else the user's own."""
    installed = TOOL / "uv" / "bin" / "uv"
    found = shutil.which(installed) or shutil.which("uv")
    return Path(found) if found else None


def install_uv() -> Path:
    """Install uv into .tool. `--target` works where pip may not install (PEP 668)."""
    fresh, home = TOOL / "uv.new", TOOL / "uv"
    shutil.rmtree(fresh, ignore_errors=True)
    run(sys.executable, "-m", "pip", "install", "-qq", "--target", fresh, "uv")
    shutil.rmtree(home, ignore_errors=True)
    fresh.rename(home)  # complete or not at all
    return home / "bin" / "uv"


def uv_env() -> dict[str, str]:
    """Return the environment of uv with the package index that pip is configured to use."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    pairs = [line.partition("=")[::2] for line in listed.splitlines()]
    pip_settings = {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in pairs}
    index = {uv: pip_settings[pip] for pip, uv in PIP_TO_UV.items() if pip in pip_settings}
    return {**index, **os.environ}


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Wait for another run.py that sets up the same checkout, then hold the lock."""
    TOOL.mkdir(exist_ok=True)
    with (TOOL / "lock").open("w") as lock:
        os.lockf(lock.fileno(), os.F_LOCK, 0)
        yield


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run one step of the set-up; its stderr explains a failure. Raises SetupError."""
    try:
        subprocess.run(command, cwd=ROOT, env=env, stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"`{' '.join(map(str, command[:4]))} ...` failed") from error


def run_module(*command: str) -> int:
    """Run a module of the environment in the checkout; return its exit status."""
    return subprocess.run([PYTHON, "-m", *command], cwd=ROOT, check=False).returncode


def print_status(text: str) -> None:
    """Print a message to stderr."""
    print(f"run.py: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> int:
    """Print an error; return the exit status for it."""
    print_status(text)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
