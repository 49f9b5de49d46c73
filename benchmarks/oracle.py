"""How far maps are from those of other packages and of slow references of our own: `python benchmarks/oracle.py`.

The figures are those of tests/test_oracle*.py, in float64 on small networks. A row holds the worst of its comparisons, and the bound of
that one. Nothing is written where a package is not as settings.ini pins it, or a test fails or is skipped."""
import argparse, csv, sys
from collections import defaultdict
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest, torch
from bench import RESULTS, command, machine

ROOT = RESULTS.parent

class Notes:
    "What tests record as `oracle`, by method, peer, version and measure; the tests that are skipped"
    def __init__(self): self.found, self.skipped = defaultdict(list), []
    def pytest_collectreport(self, report):
        if report.skipped: self.skipped.append(report.nodeid)
    def pytest_runtest_logreport(self, report):
        self.pytest_collectreport(report)
        for name, value in report.user_properties if report.when == "call" else []:
            if name == "oracle": self.found[tuple(value[:4])].append((*value[4:], report.location[2].partition("[")[0]))

def unmet():
    "Pinned packages that are not installed in that version"
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    for pin in parser["DEFAULT"]["oracle_requirements"].split():
        name, _, wanted = pin.partition("==")
        try: found = version(name)
        except PackageNotFoundError: found = None
        if found != wanted: yield pin

def row(method, peer, made, measure, noted):
    "The worst of some comparisons"
    worst, bound, _ = (min if "correlation" in measure else max)(noted)
    return dict(method=method, peer=peer, version=made, measure=measure, comparisons=len(noted), worst=f"{worst:.3g}", bound=bound,
                tests=" ".join(sorted({test for *_, test in noted})))

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS/"oracle.csv")
    a = parser.parse_args()
    if pins := list(unmet()): sys.exit(f"Not installed: {', '.join(pins)}. Install them, as pip install -e '.[dev,oracle]' does.")
    torch.set_num_threads(1)
    notes, facts = Notes(), machine() | dict(command=command())
    asked = [*map(str, sorted((ROOT/"tests").glob("test_oracle*.py"))), "-m", "not slow", "-p", "no:cacheprovider", "-q", "--disable-warnings"]
    if pytest.main(asked, plugins=[notes]): sys.exit("A comparison failed: nothing is written.")
    if notes.skipped: sys.exit(f"Skipped: {', '.join(notes.skipped)}. Nothing is written.")
    rows = [row(*key, noted) | facts for key, noted in sorted(notes.found.items())]
    for r in rows: print("{method:26} {peer:13} {version:8} {comparisons:4} × {measure:19} {worst:>8}, bound {bound:g}".format(**r))
    with a.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {a.out}")

if __name__ == "__main__": main()
