"""`make fuzz`: every target in a process of its own for some seconds. Exit code 1 when one finds something."""

from __future__ import annotations

import argparse
import subprocess
import sys

TARGETS = ("fuzz_smtp", "fuzz_pop3", "fuzz_journal")


def main() -> int:
    """Run all targets."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    seconds = parser.parse_args().seconds
    failed = []
    for target in TARGETS:
        print(f"{target}: {seconds} s", flush=True)
        command = [sys.executable, "-m", f"tests.fuzz.{target}", f"-max_total_time={seconds}", "-print_final_stats=1"]
        if subprocess.run(command, check=False).returncode:
            failed.append(target)
    print(f"{len(TARGETS) - len(failed)} passed, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
