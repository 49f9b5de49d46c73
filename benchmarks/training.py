"""`whitebox train` in a fresh process: seconds of training, accuracy on the test images: `python benchmarks/training.py --root DIR`.

DIR holds the data set (else $WHITEBOX_DATA); what follows `--` is handed to `whitebox train`."""
import argparse, csv, json, subprocess, sys, tempfile
from pathlib import Path

from bench import RESULTS, command, machine, said

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root"), parser.add_argument("--out", type=Path, default=RESULTS/"training.json")
    parser.add_argument("options", nargs="*", default=["mnist", "simple_cnn"], help="of whitebox train, after --")
    a = parser.parse_args()
    facts = machine()
    print(said(facts), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        call = ["train", *a.options, "--out", folder, *(["--root", a.root] if a.root else [])]
        subprocess.run([sys.executable, "-c", "from whitebox.cli import main; raise SystemExit(main())", *call], check=True)
        log = json.loads((Path(folder)/"log.json").read_text())["log"]
        with open(Path(folder)/"accuracy.csv", newline="", encoding="utf-8") as file: total = list(csv.DictReader(file))[-1]
    found = dict(trained=" ".join(a.options), epochs=len(log), seconds=round(sum(row["seconds"] for row in log), 1),
                 test_images=int(total["images"]), accuracy=float(total["accuracy"]), **facts, command="python benchmarks/training.py")
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{found['seconds']:.0f} s of training, {found['accuracy']:.2%} of {found['test_images']} test images\nwritten to {a.out}")

if __name__ == "__main__": main()
