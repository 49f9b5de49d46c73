"""The quick tour in a fresh process: its seconds, its memory, its accuracy, and its seconds when all is stored: `python benchmarks/tour.py`.

What follows `--` is handed to `whitebox tour`."""
import argparse, csv, json, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import mean

from bench import RESULTS, command, machine, said

def walk(out, options):
    "Seconds on the clock of one tour"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from whitebox.cli import main; raise SystemExit(main())", "tour", "--out", str(out), *options], check=True)
    return time.perf_counter() - began

def children():
    "Processor seconds and largest memory in MB of the processes waited for; None where the system does not say"
    try: import resource
    except ImportError: return None, None
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)

def accuracies(table):
    "Test accuracies of the networks trained on whole images, one for each replicate"
    with table.open(newline="", encoding="utf-8") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "accuracy" and row["mode"] == "clean" and row["replicate"]]

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS/"tour.json"), parser.add_argument("options", nargs="*", help="of whitebox tour, after --")
    a = parser.parse_args()
    facts = machine()
    print(said(facts), flush=True)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)/"tour"
        wall = walk(folder, a.options)
        cpu, memory = children()
        right, again = accuracies(folder/"scores.csv"), walk(folder, a.options)
    found = dict(wall=round(wall, 1), again=round(again, 1), cpu_seconds=cpu and round(cpu, 1), peak_mb=memory and round(memory),
                 accuracy=round(mean(right), 5), replicates=len(right), **facts, command=command())
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{wall:.0f} s, again {again:.0f} s, at most {memory or float('nan'):.0f} MB, accuracy {mean(right):.1%}\nwritten to {a.out}")

if __name__ == "__main__": main()
