"""`python -m tests.hostile [WORDS ...]`: runs the hostile inputs whose names hold all the words; prints a table."""

import argparse
import collections
import sys
import tempfile
from pathlib import Path

from tests.hostile import cameras, options, pictures, recorded, splats, weights
from tests.hostile.harness import Case, Outcome, import_everything, run

FAMILIES = (options, splats, cameras, weights, pictures, recorded)


def all_cases() -> list[Case]:
    """Every case of every family."""
    return [case for family in FAMILIES for case in family.cases()]


def main() -> int:
    """Print the faults, a table of families, and give 1 where there are any."""
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    parser.add_argument("words", nargs="*", help="run only cases whose name holds all of them")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="run every Nth case only")
    parser.add_argument("--quick", action="store_true", help="run a tenth of the cases that end at once")
    parser.add_argument("--verbose", action="store_true", help="print what every command said")
    arguments = parser.parse_args()
    import_everything()
    chosen = [case for case in all_cases() if all(word in case.id for word in arguments.words)][:: arguments.every]
    if arguments.quick:
        chosen = [case for case in chosen if case.quick][::10]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(chosen):
            outcome = run(case, Path(folder) / f"{number:04d}")
            outcomes.append(outcome)
            if outcome.faults or arguments.verbose:
                _print(outcome)
    _table(outcomes)
    return int(any(outcome.faults for outcome in outcomes))


def _print(outcome: Outcome) -> None:
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    said = " | ".join(lines[-3:])[-400:]
    faults = ", ".join(outcome.faults) or "ok"
    print(f"{faults:<24} {outcome.case.id} [{outcome.status}, {outcome.seconds:.1f} s] {said}", flush=True)


def _table(outcomes: list[Outcome]) -> None:
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        row = found[outcome.case.family]
        row["cases"] += 1
        row["faults"] += bool(outcome.faults)
        for fault in outcome.faults:
            row["status" if fault.startswith("status") else fault.split()[0]] += 1
    columns = ("cases", "faults", "traceback", "hang", "memory", "status", "silent", "error")
    print("| family |" + "".join(f" {column} |" for column in columns))
    print("| --- |" + " ---: |" * len(columns))
    for family, row in (*found.items(), ("all", sum(found.values(), collections.Counter()))):
        print(f"| {family} |" + "".join(f" {row[column]} |" for column in columns))
    slowest = max(outcomes, key=lambda outcome: outcome.seconds, default=None)
    if slowest is not None:
        largest = max(outcome.bytes for outcome in outcomes)
        print(f"slowest: {slowest.seconds:.1f} s ({slowest.case.id}); most memory: {largest / 2**20:.0f} MiB")


if __name__ == "__main__":
    sys.exit(main())
