"""What methods under backward rules cost, in plain gradients of the same images: `python benchmarks/rules.py`.

ResNet-18 with random weights, 64 pixels, float32; processor time, quartiles of the ratio within alternated rounds."""
import argparse, csv
from pathlib import Path

import torch, torchvision
from bench import RESULTS, bench, command, machine, ratio, said
from whitebox.attribution import (LRP, AlphaBeta, DeconvNet, DeepLIFT, Epsilon, EpsilonPlusFlat, Gamma, Gradient, GuidedBackprop, ZPlus)

GATES = {GuidedBackprop(): 1.3, DeconvNet(): 1.3, DeepLIFT(): 2.5, LRP(Epsilon()): 3., LRP(EpsilonPlusFlat()): 10., LRP(ZPlus()): 10.,
         LRP(Gamma()): 10., LRP(AlphaBeta()): 10.}

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=4), parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS/"rules_speed.csv")
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(a.images, 3, 64, 64)
    y, facts = torch.arange(a.images), machine() | dict(command=command())
    print(said(facts))
    times = bench({m: lambda m=m: m(net, x, y) for m in (Gradient(), *GATES)}, a.rounds)
    rows = []
    for m, gate in GATES.items():
        low, middle, high = ratio(times[m], times[Gradient()])
        rows.append(dict(method=m.label, gradients=f"{middle:.2f}", low=f"{low:.2f}", high=f"{high:.2f}", gate=gate, holds=middle <= gate,
                         images=a.images, rounds=a.rounds, **facts))
        print(f"{m.label:40} {middle:6.2f} plain gradients ({low:.2f} to {high:.2f}), gate {gate:g}")
    with a.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written to {a.out}")

if __name__ == "__main__": main()
