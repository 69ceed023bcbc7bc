"""The virtual environments of the peers, created from locks when first needed."""

import sys
from pathlib import Path

from tests.bench.paths import ROOT

sys.path.append(str(ROOT))

import run

LOCKS = {
    "bench": run.BENCH / "requirements.lock",
    "bench-arq": run.BENCH / "requirements-arq.lock",
}


def ensure_environment(name: str) -> Path:
    """Create or update an environment from its lock; return its Python. Raises run.SetupError."""
    venv, lock = ROOT / f".venv-{name}", LOCKS[name]
    python, marker = venv / "bin" / "python", venv / "set-up"
    lock_digest = run.digest_of(lock)
    if marker.exists() and marker.read_text() == lock_digest and python.exists():
        return python
    run.print_status(f"setting up {venv.name} ...")
    with run.only_one_at_a_time():
        uv = run.find_uv() or run.install_uv()
    env = run.uv_env()
    run.run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv, env=env)
    install = ("pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)
    run.run(uv, *install, env=env)
    marker.write_text(lock_digest)
    return python
