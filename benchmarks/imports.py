"""What `import whitebox` costs on top of `import torch`, in fresh processes: `python benchmarks/imports.py`."""
import argparse, json, subprocess, sys
from pathlib import Path
from statistics import median

from bench import RESULTS, command, machine, said

LIMIT = .3   # seconds on top of torch
DOORS = "whitebox.attribution, whitebox.data, whitebox.evaluation, whitebox.models"
PROBE = """
import time
times = [time.perf_counter()]
import torch; times.append(time.perf_counter())
import whitebox; times.append(time.perf_counter())
import {doors}; times.append(time.perf_counter())
print(*(b - a for a, b in zip(times, times[1:])))
"""

def once():
    "Seconds of torch, of whitebox after it, and of the doors after that, in a fresh process"
    done = subprocess.run([sys.executable, "-c", PROBE.format(doors=DOORS)], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=9), parser.add_argument("--out", type=Path, default=RESULTS/"imports.json")
    a = parser.parse_args()
    facts = machine()
    print(said(facts))
    once()
    torch, whitebox, doors = map(median, zip(*(once() for _ in range(a.processes))))
    found = dict(torch_seconds=round(torch, 3), whitebox_on_top=round(whitebox, 3), doors_on_top=round(doors, 3), limit=LIMIT,
                 holds=whitebox <= LIMIT, doors=DOORS, processes=a.processes, **facts, command=command())
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"import torch {torch:.2f} s, import whitebox {whitebox:.2f} s on top (limit {LIMIT}), its four doors another {doors:.2f} s\n"
          f"written to {a.out}")

if __name__ == "__main__": main()
