"""Virtual environments beside .venv, each created from its own lock when it is first needed.

They hold software of others, which must not decide the versions that the service is tested with.

    python -m tests.environments NAME    create or update one
"""

import sys
from pathlib import Path

import run

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {
    "bench": run.BENCH / "requirements.lock",
    "bench-arq": run.BENCH / "requirements-arq.lock",
    "interop": run.INTEROP_LOCK,
}


def find_environment(name: str) -> Path | None:
    """Return the Python of an environment that was created from its present lock, else None."""
    python, marker = _paths(name)
    if not python.exists() or not marker.exists():
        return None
    return python if marker.read_text() == run.digest_of(LOCKS[name]) else None


def ensure_environment(name: str) -> Path:
    """Create or update an environment from its lock; return its Python. Raises run.SetupError."""
    if found := find_environment(name):
        return found
    python, marker = _paths(name)
    venv = marker.parent
    run.print_status(f"setting up {venv.name} ...")
    with run.only_one_at_a_time():
        uv = run.find_uv() or run.install_uv()
    env = run.uv_env()
    run.run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv, env=env)
    lock = ("--require-hashes", "-r", LOCKS[name])
    run.run(uv, "pip", "install", "--quiet", "--python", python, *lock, env=env)
    marker.write_text(run.digest_of(LOCKS[name]))
    return python


def _paths(name: str) -> tuple[Path, Path]:
    venv = ROOT / f".venv-{name}"
    return venv / "bin" / "python", venv / "set-up"


if __name__ == "__main__":
    ensure_environment(sys.argv[1])
