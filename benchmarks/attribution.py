"""Attribution beside captum on the same work, and over the bare passes it consists of: `python benchmarks/attribution.py`.

Both sides get the same images, classes, steps and rows per pass; processor time, medians of alternated rounds.

* layout "same": the network's weights are channels-last for both.
* layout "default": the network as each user has it. A network of this library is born channels-last, the other side's is contiguous;
  a ResNet is contiguous for both. In all cases this library hands the network channels-last images.

`ratio` is captum's time over ours. `overhead` is our time over (passes × one bare pass): forward and autograd.grad at the same rows and
layout, class given. A gate is compared only where the quartiles of its ratio lie within 15 % of each other."""
import argparse, copy, csv, warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import captum
import torch
import torchvision
from bench import RESULTS, bench, command, machine, ratio, said
from captum.attr import IntegratedGradients as CaptumIntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Saliency
from whitebox.attribution import GradCAM, Gradient, IntegratedGradients, SmoothGrad
from whitebox.models import SimpleCNN

OVERHEAD = 1.10
GATES = {"Gradient": .85, "IntegratedGradients": .95, "SmoothGrad": .95, "GradCAM": .85}   # least ratio at the same layout

@dataclass(frozen=True)
class Case:
    "A network, the layer of its Grad-CAM, and the shape of its images."
    name: str
    build: object
    layer: str
    shape: tuple

def resnet():
    return torchvision.models.resnet18(weights=None).eval()

def simple():
    return SimpleCNN().build((1, 28, 28), 10).eval()

CASES = Case("SimpleCNN 1×28×28", simple, "features.10", (1, 28, 28)), Case("ResNet-18 3×64×64", resnet, "layer4", (3, 64, 64))

def networks(case, layout):
    "Ours and theirs: equal weights, laid out as the layout says"
    torch.manual_seed(0)
    ours = case.build()
    theirs = copy.deepcopy(ours)
    if layout == "same": return ours.to(memory_format=torch.channels_last), theirs.to(memory_format=torch.channels_last)
    return ours, theirs.to(memory_format=torch.contiguous_format)

def methods(case, n, chunk):
    "{name: (ours, theirs)}, theirs as a function (network, images, classes) -> maps; n steps or samples"
    def saliency(net, x, y): return Saliency(net).attribute(x, y, abs=False)
    def integrated(net, x, y):
        return CaptumIntegratedGradients(net).attribute(x, target=y, n_steps=n, method="riemann_middle", internal_batch_size=chunk)
    def smooth(net, x, y):
        at_once = min(n, max(1, chunk // len(x)))
        return NoiseTunnel(Saliency(net)).attribute(x, nt_samples=n, nt_samples_batch_size=at_once, stdevs=.15, target=y, abs=False)
    def cam(net, x, y):
        maps = LayerGradCam(net, dict(net.named_modules())[case.layer]).attribute(x, y, relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
    return {"Gradient": (Gradient(), saliency), "IntegratedGradients": (IntegratedGradients(steps=n), integrated),
            "SmoothGrad": (SmoothGrad(samples=n), smooth), "GradCAM": (GradCAM(layer=case.layer), cam)}

def bare(net, x, y):
    "A call that does one forward pass and one gradient at the images, nothing else"
    x = x.clone(memory_format=torch.channels_last)
    def call():
        z = x.detach().requires_grad_()
        return torch.autograd.grad(net(z).gather(1, y[:, None]).sum(), z)[0]
    return call

def rows_at(method, images, chunk):
    "Rows in one pass of a method"
    return min(images * method.draws, max(images, chunk // images * images))

def measured(case, layout, a):
    "A row for each method of a case at a layout"
    ours, theirs = networks(case, layout)
    x = torch.rand(a.images, *case.shape, generator=torch.Generator().manual_seed(1))
    y = torch.arange(a.images) % 10
    if layout == "same": x = x.clone(memory_format=torch.channels_last)
    pairs, calls = methods(case, a.steps, a.chunk), {}
    sizes = sorted({rows_at(m, a.images, a.chunk) for m, _ in pairs.values()})
    for size in sizes: calls["bare", size] = bare(ours, x.repeat(size // a.images, 1, 1, 1), y.repeat(size // a.images))
    for name, (mine, other) in pairs.items():
        calls[name, "ours"] = lambda mine=mine: mine(ours, x, y, chunk=a.chunk)
        calls[name, "captum"] = lambda other=other: other(theirs, x, y)
    times = bench(calls, a.rounds)
    return [row_of(case, layout, name, mine, times, a) for name, (mine, _) in pairs.items()]

def row_of(case, layout, name, method, times, a):
    "What was measured of one method"
    ours, theirs, size = times[name, "ours"], times[name, "captum"], rows_at(method, a.images, a.chunk)
    passes = method.passes * a.images / size
    low, middle, high = ratio(theirs, ours)
    lower, over, upper = (v / passes for v in ratio(ours, times["bare", size]))
    gate = GATES[name] if layout == "same" else None
    return dict(network=case.name, layout=layout, method=method.label, images=a.images, rows=size, rounds=a.rounds,
                whitebox_ms=1e3 * median(ours.cpu), captum_ms=1e3 * median(theirs.cpu), ratio=middle, ratio_low=low, ratio_high=high,
                gate=gate, holds=verdict(middle - gate, low, middle, high, a.rounds) if gate else None, overhead=over, overhead_low=lower,
                overhead_high=upper, overhead_gate=OVERHEAD, overhead_holds=verdict(OVERHEAD - over, lower, over, upper, a.rounds))

def verdict(margin, low, middle, high, rounds):
    "Whether a gate holds, where the figure is steady enough to say"
    return "too few rounds" if rounds < 5 else "too noisy" if high - low >= .15 * middle else "yes" if margin >= 0 else "no"

def shown(value): return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16), parser.add_argument("--steps", type=int, default=16, help="of path and noise")
    parser.add_argument("--chunk", type=int, default=64, help="rows in one pass"), parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1), parser.add_argument("--only", help="a network whose name begins so")
    parser.add_argument("--out", type=Path, default=RESULTS/"attribution_speed.csv")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")   # captum's, at each call
    facts = machine() | dict(captum=captum.__version__, command=command())
    print(said(facts))
    cases = [c for c in CASES if c.name.lower().startswith((a.only or "").lower())]
    rows = [row | facts for case in cases for layout in ("same", "default") for row in measured(case, layout, a)]
    a.out.parent.mkdir(exist_ok=True)
    with a.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: shown(v) for k, v in row.items()} for row in rows)
    columns = "network", "layout", "method", "whitebox_ms", "captum_ms", "ratio", "gate", "holds", "overhead", "overhead_holds"
    lines = [columns, *([shown(row[c]) for c in columns] for row in rows)]
    wide = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines: print("  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip())
    print(f"\nwritten to {a.out}")

if __name__ == "__main__": main()
