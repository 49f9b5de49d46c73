"""Attribution beside other packages on the same work, and over the bare passes it consists of: `python benchmarks/attribution.py`.

Both sides get the same images, classes, samples and rows per pass; processor time, medians of alternated rounds. Memory is the most that
a call held at once, of what torch's allocator gave it.

* layout "same": the network's weights are channels-last for both.
* layout "default": the network as each user has it. A network of this library is born channels-last, the other side's is contiguous;
  a ResNet is contiguous for both. In all cases this library hands the network channels-last images.

`ratio` is the other side's time over ours. `overhead` is our time over (passes × one bare pass) for methods made of plain passes: forward,
and autograd.grad where there are gradients, at the same rows and layout, class given. A gate is compared only where the quartiles of its
ratio lie within 15 % of each other. What is sampled has few samples here: the ratio is of time, not of error (see equal_error.py)."""
import argparse, copy, csv, math, os, warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

os.environ |= dict(TQDM_DISABLE="1", KINETO_LOG_LEVEL="9")      # else ScoreCAM there draws a bar for each image, and the profiler talks

import captum.attr as captums
import pytorch_grad_cam as cams
import torch
import torchvision
import zennit.rules
from bench import RESULTS, bench, command, machine, peak, ratio, said
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from whitebox.attribution import (LIME, LRP, RISE, AlphaBeta, DeconvNet, DeepLIFT, EigenCAM, Epsilon, Gamma, GradCAM, GradCAMPlusPlus, Gradient,
                                  GuidedBackprop, HiResCAM, InputXGradient, IntegratedGradients, KernelSHAP, LayerCAM, Occlusion, ScoreCAM, SmoothGrad,
                                  VarGrad, XGradCAM)
from whitebox.attribution.rise import masks
from whitebox.fill import Black, ChannelMean
from whitebox.method import Method
from whitebox.models import SimpleCNN
from whitebox.ranking import Patches
from zennit.attribution import Gradient as ZennitGradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, Convolution, Linear

OVERHEAD = 1.10

@dataclass(frozen=True)
class Case:
    "A network, the layer of its CAMs, the shape of its images, what joins its batch norms for zennit."
    name: str
    build: object
    layer: str
    shape: tuple
    canonizer: object

def resnet():
    return torchvision.models.resnet18(weights=None, num_classes=10).eval()

def simple():
    return SimpleCNN().build((1, 28, 28), 10).eval()

CASES = (Case("SimpleCNN 1×28×28", simple, "features.10", (1, 28, 28), SequentialMergeBatchNorm),
         Case("ResNet-18 3×64×64", resnet, "layer4", (3, 64, 64), ResNetCanonizer))

def networks(case, layout):
    "Ours and theirs: equal weights, laid out as the layout says"
    torch.manual_seed(0)
    ours = case.build()
    theirs = copy.deepcopy(ours)
    if layout == "same": return ours.to(memory_format=torch.channels_last), theirs.to(memory_format=torch.channels_last)
    return ours, theirs.to(memory_format=torch.contiguous_format)

# ---- the other side: functions (network, images, classes) -> maps

def by_captum(kind, **settings):
    return lambda net, x, y: kind(net).attribute(x, target=y, **settings)

def noise_tunnel(kind, n, chunk):
    "Noise of the same size on the same number of copies"
    def maps(net, x, y):
        return captums.NoiseTunnel(captums.Saliency(net)).attribute(
            x, nt_type=kind, nt_samples=n, nt_samples_batch_size=min(n, max(1, chunk // len(x))), stdevs=.15, target=y, abs=False)
    return maps

def captum_cam(case):
    def maps(net, x, y):
        a = captums.LayerGradCam(net, net.get_submodule(case.layer)).attribute(x, y, relu_attributions=True)
        return captums.LayerAttribution.interpolate(a, tuple(x.shape[2:]), "bilinear")
    return maps

def grad_cam(kind, case):
    "A class of pytorch-grad-cam"
    def maps(net, x, y):
        with getattr(cams, kind)(net, [net.get_submodule(case.layer)]) as cam: return cam(x, [ClassifierOutputTarget(k) for k in y.tolist()])
    return maps

def by_zennit(rule, case):
    "One rule of zennit at every layer"
    def maps(net, x, y):
        composite = LayerMapComposite([(Activation, zennit.rules.Pass()), (Convolution, rule), (Linear, rule)], canonizers=[case.canonizer()])
        with ZennitGradient(model=net, composite=composite) as attributor: return attributor(x, torch.eye(10)[y])[1]
    return maps

def of_parts(kind, n, chunk):
    "A regression of captum on coalitions of tiles, an image at a time, as it takes them"
    def maps(net, x, y):
        return torch.cat([kind(net).attribute(x[i:i + 1], ChannelMean()(x[i:i + 1]).contiguous(), y[i:i + 1], feature_mask=TILES.units(x[:1]),
                                              n_samples=n, perturbations_per_eval=chunk) for i in range(len(x))])
    return maps

def mask_by_mask(n):
    "RISE as a loop over its masks"
    def maps(net, x, y):
        with torch.no_grad():
            return sum(net(x * M).gather(1, y[:, None])[..., None, None] * M for k in range(n) for M in masks(RISE(), [k], x)) / n / .5
    return maps

# ---- what is compared

TILES = Patches(4)

@dataclass(frozen=True)
class Duel:
    "A method and the same work elsewhere."
    method: Method
    peer: str
    theirs: object
    gate: float              # least ratio at the same layout
    made_of: str = ""        # the passes its time consists of: gradients, scores, or others

def duels(case, a):
    "All of a case"
    n, chunk, layer = a.steps, a.chunk, case.layer
    window, stride = (max(1, case.shape[1] // part) for part in (4, 8))
    def captum(method, theirs, gate, made_of=""): return Duel(method, "captum", theirs, gate, made_of)
    yield captum(Gradient(), by_captum(captums.Saliency, abs=False), .85, "gradients")
    yield captum(InputXGradient(), by_captum(captums.InputXGradient), .85, "gradients")
    yield captum(GuidedBackprop(), by_captum(captums.GuidedBackprop), .85)
    yield captum(DeconvNet(), by_captum(captums.Deconvolution), .85)
    yield captum(IntegratedGradients(steps=n), by_captum(captums.IntegratedGradients, n_steps=n, method="riemann_middle", internal_batch_size=chunk), .95, "gradients")
    yield captum(SmoothGrad(samples=n), noise_tunnel("smoothgrad", n, chunk), .95, "gradients")
    yield captum(VarGrad(samples=n), noise_tunnel("vargrad", n, chunk), .95, "gradients")
    yield captum(GradCAM(layer), captum_cam(case), .85, "gradients")
    for kind in GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM, EigenCAM:
        yield Duel(kind(layer), "grad-cam", grad_cam(kind.__name__, case), 1.5, "" if kind is EigenCAM else "gradients")
    for rule, other in (Epsilon(), zennit.rules.Epsilon()), (Gamma(), zennit.rules.Gamma()), (AlphaBeta(), zennit.rules.AlphaBeta()):
        yield Duel(LRP(rule), "zennit", by_zennit(other, case), 1.)
    yield captum(Occlusion(window, stride, ChannelMean()), occlusion(case, window, stride, chunk), .9, "scores")
    if case is CASES[1]: return                                    # the others do not know it, or cost minutes there
    yield captum(DeepLIFT(Black()), by_captum(captums.DeepLift), 1.)
    yield Duel(ScoreCAM(layer), "grad-cam", grad_cam("ScoreCAM", case), 1.2)
    yield Duel(RISE(samples=10 * n), "a loop", mask_by_mask(10 * n), 1.2, "scores")
    yield captum(KernelSHAP(20 * n, ChannelMean(), TILES), of_parts(captums.KernelShap, 20 * n, chunk), 2., "scores")
    yield captum(LIME(samples=20 * n, fill=ChannelMean(), region=TILES), of_parts(captums.Lime, 20 * n, chunk), 2., "scores")

def occlusion(case, window, stride, chunk):
    "captum's, as many windows at once as fit"
    c = case.shape[0]
    def maps(net, x, y):
        return captums.Occlusion(net).attribute(x, (c, window, window), (c, stride, stride), ChannelMean()(x), y, perturbations_per_eval=max(1, chunk // len(x)))
    return maps

# ---- measuring

def bare(net, x, y, made_of):
    "A call that does one forward pass, and one gradient at the images where asked, nothing else"
    x = x.clone(memory_format=torch.channels_last)
    def gradients():
        z = x.detach().requires_grad_()
        return torch.autograd.grad(net(z).gather(1, y[:, None]).sum(), z)[0]
    @torch.no_grad()
    def scores(): return net(x).gather(1, y[:, None])
    return {"gradients": gradients, "scores": scores}[made_of]

def rows_at(duel, images, chunk):
    "Rows in one pass of a method"
    looks = math.ceil(duel.method.passes) if duel.made_of == "scores" else getattr(duel.method, "draws", duel.method.passes)
    return min(images * looks, max(images, chunk // images * images))

def measured(case, layout, a):
    "A row for each duel of a case at a layout"
    ours, theirs = networks(case, layout)
    x = torch.rand(a.images, *case.shape, generator=torch.Generator().manual_seed(1))
    y = torch.arange(a.images) % 10
    if layout == "same": x = x.clone(memory_format=torch.channels_last)
    met = [d for d in duels(case, a) if type(d.method).__name__.lower().startswith(a.method.lower())]
    for d in met:
        calls = {"ours": lambda: d.method(ours, x, y, chunk=a.chunk), "theirs": lambda: d.theirs(theirs, x, y)}
        size = rows_at(d, a.images, a.chunk)
        print(f"{case.name}, {layout}: {d.method.label} and {d.peer}", flush=True)
        if d.made_of: calls["bare"] = bare(ours, x.repeat(size // a.images, 1, 1, 1), y.repeat(size // a.images), d.made_of)
        yield row_of(case, layout, d, size, bench(calls, a.rounds), {who: peak(calls[who]) for who in ("ours", "theirs")}, a)

def row_of(case, layout, d, size, times, held, a):
    "What was measured of one duel"
    low, middle, high = ratio(times["theirs"], times["ours"])
    gate = d.gate if layout == "same" else None
    row = dict(network=case.name, layout=layout, method=d.method.label, peer=d.peer, images=a.images, rows=size, rounds=a.rounds,
               whitebox_ms=1e3 * median(times["ours"].cpu), peer_ms=1e3 * median(times["theirs"].cpu), ratio=middle, ratio_low=low, ratio_high=high,
               gate=gate, holds=verdict(middle - gate, low, middle, high, a.rounds) if gate else None, whitebox_mb=held["ours"], peer_mb=held["theirs"])
    if not d.made_of: return row | dict.fromkeys(("overhead", "overhead_low", "overhead_high", "overhead_gate", "overhead_holds"))
    passes = d.method.passes_on(case.shape[1:]) * a.images / size
    lower, over, upper = (v / passes for v in ratio(times["ours"], times["bare"]))
    return row | dict(overhead=over, overhead_low=lower, overhead_high=upper, overhead_gate=OVERHEAD,
                      overhead_holds=verdict(OVERHEAD - over, lower, over, upper, a.rounds))

def verdict(margin, low, middle, high, rounds):
    "Whether a gate holds, where the figure is steady enough to say"
    return "too few rounds" if rounds < 5 else "too noisy" if high - low >= .15 * middle else "yes" if margin >= 0 else "no"

def shown(value): return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16), parser.add_argument("--steps", type=int, default=16, help="of path and noise")
    parser.add_argument("--chunk", type=int, default=64, help="rows in one pass"), parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1), parser.add_argument("--only", help="a network whose name begins so")
    parser.add_argument("--method", default="", help="methods whose name begins so")
    parser.add_argument("--out", type=Path, default=RESULTS/"attribution_speed.csv")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")   # captum's, at each call
    facts = machine() | {name: version(name) for name in ("captum", "grad-cam", "zennit")} | dict(command=command())
    print(said(facts))
    cases = [c for c in CASES if c.name.lower().startswith((a.only or "").lower())]
    rows = [row | facts for case in cases for layout in ("same", "default") for row in measured(case, layout, a)]
    a.out.parent.mkdir(exist_ok=True)
    with a.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: shown(v) for k, v in row.items()} for row in rows)
    columns = "network layout method peer whitebox_ms peer_ms ratio gate holds whitebox_mb peer_mb overhead overhead_holds".split()
    lines = [columns, *([shown(row[c]) for c in columns] for row in rows)]
    wide = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines: print("  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip())
    print(f"\nwritten to {a.out}")

if __name__ == "__main__": main()
