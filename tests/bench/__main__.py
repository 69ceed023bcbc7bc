"""Which benchmark is asked for? `python3 run.py bench [cost | quota | calls | read] ...`."""

import runpy
import sys

_NAMES = ("cost", "quota", "calls", "read")


def main() -> None:
    """Run the one that is named, which is `cost` unless it is said."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else _NAMES[0]
    if name not in _NAMES:
        sys.exit(f"there is no benchmark {name!r} (there are: {', '.join(_NAMES)})")
    runpy.run_module(f"tests.bench.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
