"""Where do the peers live? In environments of their own, made from locks when first needed."""

import sys
from pathlib import Path

from tests.bench.places import ROOT

sys.path.append(str(ROOT))

import run

LOCKS = {
    "bench": run.BENCH / "requirements.lock",
    "bench-arq": run.BENCH / "requirements-arq.lock",
}


def set_up(name: str) -> Path:
    """Make an environment hold what its lock says; gives its Python. Raises run.SetupError."""
    home, lock = ROOT / f".venv-{name}", LOCKS[name]
    python, stamp = home / "bin" / "python", home / "set-up"
    made_from = run.digest_of(lock)
    if stamp.exists() and stamp.read_text() == made_from and python.exists():
        return python
    run.say(f"setting up {home.name} ...")
    with run.only_one_at_a_time():
        uv = run.find_uv() or run.install_uv()
    env = run.uv_env()
    run.run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, home, env=env)
    install = ("pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)
    run.run(uv, *install, env=env)
    stamp.write_text(made_from)
    return python
