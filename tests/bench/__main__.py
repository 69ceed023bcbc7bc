"""Which benchmark is asked for? `python3 run.py bench [cost | quota | calls | read] ...`."""

import runpy
import sys

_BENCHMARKS = ("cost", "quota", "calls", "read")


def main() -> None:
    """Run the one that is named, which is `cost` unless it is said."""
    benchmark = (
        sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else _BENCHMARKS[0]
    )
    if benchmark not in _BENCHMARKS:
        sys.exit(f"there is no benchmark {benchmark!r} (there are: {', '.join(_BENCHMARKS)})")
    runpy.run_module(f"tests.bench.{benchmark}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
