"""The command `python3 run.py bench [cost | quota | calls | read] ...`."""

import runpy
import sys

_BENCHMARKS = ("cost", "quota", "calls", "read")


def main() -> None:
    """Run the named benchmark; the default is `cost`."""
    benchmark = (
        sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else _BENCHMARKS[0]
    )
    if benchmark not in _BENCHMARKS:
        sys.exit(f"unknown benchmark {benchmark!r}; choose one of {', '.join(_BENCHMARKS)}")
    runpy.run_module(f"tests.bench.{benchmark}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
