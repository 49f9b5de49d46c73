"""Error against passes of the sampling methods, beside captum and the published forms: `python benchmarks/equal_error.py --work DIR`.

The price of a sampling method is the passes it needs for an error. Two half-width networks, on MNIST and CIFAR-10, are trained; each explains
test images it is right and sure about (p > .8). Every estimator runs at several budgets of passes, with draws of its own for each image and
repetition. Its error is the squared distance to a long run over the squared norm of that: to its own long run, or to ours where all estimate the
same. `factor` is a rival's error over ours at one budget, a geometric mean over the images with its 95 % interval; where errors fall as one over
the passes, it is the passes saved. An image for which ours is exact, all its coalitions taken, counts under `exact` and in no mean. `time_factor` is the rival's processor time for a pass over ours. Passes are counted at the network.

Parts are 4×4 tiles on MNIST, from black, so that most equal the baseline; and on CIFAR-10, from the mean colour, so that none does.

DIR keeps weights, long runs and errors; the same command goes on where it was stopped. To add a contest, write its estimators, functions
(question, n, seed) -> the map of one image from n passes, and a row of CONTESTS."""
import argparse, csv, json, math, tempfile, time, warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev

import captum
import captum.attr as captums
import numpy as np
import shap
import torch
from bench import RESULTS, command, machine, said
from scipy.stats import t
from whitebox.attribution import (LIME, RISE, ExpectedGradients, FromImages, IntegratedGradients, KernelSHAP, PackageLIME, PublishedExpectedGradients,
                                  PublishedKernelSHAP, PublishedRISE, PublishedShapleySampling, PublishedSmoothGrad, ShapleySampling, SmoothGrad)
from whitebox.attribution.lime import how_many, shown as composed, spread
from whitebox.data import CIFAR10, MNIST, Subset
from whitebox.data.images import Images
from whitebox.fill import Black, ChannelMean, Fill
from whitebox.models import Recipe, SimpleCNN, fit, predict
from whitebox.ranking import Patches
from whitebox.show import PALETTE, panels, still
from whitebox.target import Class, Probability
from whitebox.value import Value, stable_seed

@dataclass(frozen=True)
class Question:
    "What is explained, and what from."
    net: torch.nn.Module
    x: torch.Tensor      # one image [1,C,H,W]
    y: int               # its class
    baseline: Fill       # of a part that is hidden
    pool: Images         # whose training images are baselines of gradients
    def units(self): return Patches(4).units(self.x)

# ---- estimators

def ours(method):
    "One of this library's; `method` makes it of passes, seed and question"
    return lambda q, n, seed: method(n, seed, q)(q.net, q.x, q.y)

def steps(n): return 8 if n < 128 else 16

def smoothgrad(form): return ours(lambda n, seed, q: form(IntegratedGradients(steps(n)), samples=n // steps(n), seed=seed))

def noise_tunnel(q, n, seed):
    "A whole path for every noisy copy"
    torch.manual_seed(seed)
    return captums.NoiseTunnel(captums.IntegratedGradients(q.net)).attribute(
        q.x, nt_samples=n // steps(n), stdevs=.15 * float(q.x.max() - q.x.min()), target=q.y, n_steps=steps(n), method="riemann_middle", internal_batch_size=64)

def rise(form, keep): return lambda q, n, seed: form(samples=n, keep=keep, seed=seed)(q.net, q.x, Probability(Class(q.y)))

def kernel_shap(form): return ours(lambda n, seed, q: form(n - 2, q.baseline, Patches(4), seed))

def orders(form):
    "As many orders as the passes allow"
    def method(n, seed, q):
        m = form(1, q.baseline, Patches(4), seed)
        K = how_many(m.hiding(q.x)[0])
        return replace(m, samples=max(1, (n - 2) // (m.together * (K - 1))))
    return ours(method)

def lime(form): return ours(lambda n, seed, q: form(samples=n, ridge=1e-4, fill=q.baseline, region=Patches(4), seed=seed))

def shared(a, units):
    "A map in which each pixel has the value of its part, as its share"
    return a[:, :1] / units.flatten().bincount()[units]

def captum_parts(kind, count, **settings):
    "A perturbation method of captum; `count` makes its samples of passes and the number of parts"
    def estimator(q, n, seed):
        torch.manual_seed(seed), np.random.seed(seed % 2 ** 32)
        units = q.units()
        a = kind(q.net).attribute(q.x, q.baseline(q.x).contiguous(), q.y, feature_mask=units, n_samples=count(n, how_many(units[0])), perturbations_per_eval=64)
        return shared(a, units)
    return estimator

def kernel_explainer(q, n, seed):
    "shap, its regression left as it is"
    units, x0 = q.units()[0], q.baseline(q.x)
    K = how_many(units)
    def f(z):
        with torch.no_grad(): return torch.cat([q.net(composed(q.x, x0, units, b))[:, q.y] for b in torch.from_numpy(z > .5).split(64)]).numpy()
    np.random.seed(seed % 2 ** 32)
    found = shap.KernelExplainer(f, np.zeros((1, K))).shap_values(np.ones((1, K)), nsamples=n - 2, l1_reg=0, silent=True)
    return spread(torch.from_numpy(found[0]).to(q.x), units)[None]

def expected(form): return ours(lambda n, seed, q: form(FromImages.of(q.pool), n, seed))

def in_turn(n, seed, q): return ExpectedGradients(FromImages.of(q.pool, seed=seed % 2 ** 32), n)

def gradient_shap(q, n, seed):
    torch.manual_seed(seed), np.random.seed(seed % 2 ** 32)
    return captums.GradientShap(q.net).attribute(q.x, q.pool.train.float().to(q.x), n_samples=n, stdevs=0., target=q.y)

# ---- contests

@dataclass(frozen=True)
class Contest:
    "Estimators of a map, ours first."
    name: str
    estimators: dict         # who -> (question, passes, seed) -> map
    budgets: tuple           # passes
    gates: dict              # (network, rival, budget) -> least factor; None stands for any
    time_gates: dict = field(default_factory=dict)   # the same of time_factor
    long: int = 20_000       # passes of a long run
    own: bool = False        # each is measured against its own long run
    contrast: bool = False   # maps are taken less their mean, where a form has an offset

CONTESTS = (
    Contest("SmoothGrad of IG", {"whitebox": smoothgrad(SmoothGrad), "captum": noise_tunnel, "published": smoothgrad(PublishedSmoothGrad)},
            (32, 64, 128, 256), {(None, "captum", 128): 8}),
    Contest("RISE, p = .5", {"whitebox": rise(RISE, .5), "published": rise(PublishedRISE, .5)}, (250, 500, 1000),
            {(None, "published", None): 10}, own=True, contrast=True),
    Contest("RISE, p = .1", {"whitebox": rise(RISE, .1), "published": rise(PublishedRISE, .1)}, (250, 500, 1000),
            {(None, "published", None): 3}, own=True, contrast=True),
    Contest("KernelSHAP", {"whitebox": kernel_shap(KernelSHAP), "captum": captum_parts(captums.KernelShap, lambda n, K: n), "shap": kernel_explainer,
                           "published": kernel_shap(PublishedKernelSHAP)}, (256, 1024, 2048),
            {(None, "captum", 1024): 2, (None, "captum", 2048): 2, ("MNIST", "shap", 1024): 3.5}, {(None, "captum", 1024): 2, (None, "captum", 2048): 2}),
    Contest("Shapley by orders", {"whitebox": orders(ShapleySampling), "captum": captum_parts(captums.ShapleyValueSampling, lambda n, K: n // K),
                                  "published": orders(PublishedShapleySampling)}, (256, 1024),
            {("MNIST", "captum", None): 1.5, ("CIFAR-10", "captum", None): 1.15}),
    Contest("Expected gradients", {"whitebox": ours(in_turn), "captum": gradient_shap, "published": expected(PublishedExpectedGradients)},
            (16, 64, 256), {(None, "captum", None): 1.3}),
    Contest("LIME", {"whitebox": lime(LIME), "package": lime(PackageLIME)}, (256, 1024, 2048), {(None, "package", 1024): 1.2, (None, "package", 2048): 1.2}))

def gate(gates, network, who, n):
    "The least factor asked for, or None"
    fits = [least for (where, rival, budget), least in gates.items() if where in (None, network) and rival == who and budget in (None, n)]
    return max(fits, default=None)

# ---- networks and images

@dataclass(frozen=True)
class Case:
    "A network's data and its training, and what hides a part."
    name: str
    data: Value
    recipe: Recipe
    baseline: Fill

CASES = (Case("MNIST", Subset(MNIST(), train=20_000), Recipe(epochs=1), Black()),
         Case("CIFAR-10", CIFAR10(), Recipe(epochs=4), ChannelMean()))

def prepared(case, a, folder):
    "The network's accuracy, and a question for each image"
    images = case.data.load(a.root)
    net = fit(SimpleCNN(width=16), images, case.recipe, folder/"weights").model
    p = predict(net, images.test.x).softmax(1)
    right = p.argmax(1) == images.test.y
    rows = (right & (p.amax(1) > .8)).nonzero().flatten()[:a.images]
    pool = Subset(getattr(case.data, "of", case.data), train=500).load(a.root)
    return right.double().mean().item(), [Question(net, images.test.x[i:i + 1].float() / 255, int(images.test.y[i]), case.baseline, pool) for i in rows.tolist()]

# ---- measuring

def measured(f, q, *given):
    "The map, the rows the network was given, processor seconds"
    rows, began = [], time.process_time()
    hook = q.net.register_forward_pre_hook(lambda m, args: rows.append(len(args[0])))
    try: a = f(q, *given).detach()
    finally: hook.remove()
    return a, sum(rows), time.process_time() - began

def long_run(file, f, *given):
    "A map that is made once and kept"
    if not file.exists():
        part = file.with_suffix(".part")
        with part.open("wb") as out: np.save(out, f(*given).detach().numpy())
        part.rename(file)
    return torch.from_numpy(np.load(file))

def error(contest, a, truth):
    "Squared distance over squared norm"
    if contest.contrast: a, truth = a - a.mean(), truth - truth.mean()
    return ((a - truth).square().sum() / truth.square().sum()).item()

def lines(file):
    "The errors found so far; a line cut short is not one"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try: yield json.loads(line)
        except json.JSONDecodeError: pass

def fill_in(contest, case, questions, a, folder):
    "Append each error that is not there yet"
    file = folder/"errors.jsonl"
    done = {(r["contest"], r["who"], r["budget"], r["image"], r["repetition"]) for r in lines(file)}
    for i, q in enumerate(questions):
        truths = {}
        for who, f in contest.estimators.items():
            model = who if contest.own else next(iter(contest.estimators))
            for n in contest.budgets:
                for r in range(a.repetitions):
                    if (contest.name, who, n, i, r) in done: continue
                    if model not in truths:
                        truths[model] = long_run(folder/f"{contest.name} {model} {contest.long} {i}.npy", contest.estimators[model], q, contest.long,
                                                 stable_seed(case.name, contest.name, i, "long"))
                    got, passes, seconds = measured(f, q, n, stable_seed(case.name, contest.name, i, r))
                    row = dict(contest=contest.name, who=who, budget=n, image=i, repetition=r, error=error(contest, got, truths[model]),
                               passes=passes, seconds=seconds)
                    with file.open("a", encoding="utf-8") as out: out.write(json.dumps(row) + "\n")
        print(f"{case.name}, {contest.name}: image {i + 1} of {len(questions)}", flush=True)

# ---- what came of it

EXACT = 1e-20      # an error below this is rounding

def geometric(values):
    "Geometric mean and its 95 % interval over images: (low, mean, high); without an interval for one image"
    logs = [math.log(v) for v in values]
    if len(logs) < 2: return None, math.exp(logs[0]) if logs else None, None
    half = t.ppf(.975, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return tuple(math.exp(mean(logs) + s * half) for s in (-1, 0, 1))

def table(contest, case, accuracy, found, a):
    "A row for each estimator and budget"
    def of(who, n): return [r for r in found if (r["contest"], r["who"], r["budget"]) == (contest.name, who, n) and r["image"] < a.images
                            and r["repetition"] < a.repetitions]
    def errors(who, n): return [mean(r["error"] for r in of(who, n) if r["image"] == i) for i in sorted({r["image"] for r in of(who, n)})]
    def pace(who, n): return sum(r["seconds"] for r in of(who, n)) / sum(r["passes"] for r in of(who, n))
    first = next(iter(contest.estimators))
    for who in contest.estimators:
        for n in contest.budgets:
            unsolved = [e > EXACT for e in errors(first, n)]
            mine, theirs = ([e for e, counts in zip(errors(w, n), unsolved) if counts] for w in (first, who))
            low, middle, high = geometric(theirs)
            row = dict(network=case.name, accuracy=accuracy, contest=contest.name, estimator=who, budget=n, images=len(theirs), exact=unsolved.count(False),
                       repetitions=a.repetitions, passes=mean(r["passes"] for r in of(who, n)), error=middle, error_low=low, error_high=high,
                       milliseconds_per_pass=1e3 * pace(who, n))
            yield row | (rivalry(contest, case, who, n, [b / o for o, b in zip(mine, theirs)], pace(who, n) / pace(first, n))
                         if who != first else {})

def rivalry(contest, case, who, n, ratios, pace):
    "How a rival stands to ours"
    low, middle, high = geometric(ratios)
    least, quick = gate(contest.gates, case.name, who, n), gate(contest.time_gates, case.name, who, n)
    return dict(factor=middle, factor_low=low, factor_high=high, gate=least, holds=verdict(middle, least, ratios),
                time_factor=pace, time_gate=quick, time_holds=verdict(pace, quick, ratios))

def verdict(value, least, ratios):
    "Whether a gate holds, where there is one and there are images enough to say"
    return None if least is None else "too few images" if len(ratios) < 6 else "yes" if value >= least else "no"

COLUMNS = ("network accuracy contest estimator budget images exact repetitions passes error error_low error_high milliseconds_per_pass "
           "factor factor_low factor_high gate holds time_factor time_gate time_holds").split()
LOOKS = ("c1", "o-"), ("c2", "s--"), ("soft", "D:"), ("c3", "^-."), ("ink", "v:")

def shown(value): return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

def figure(rows):
    "Error against passes, a panel for each contest and network"
    names = list(dict.fromkeys(r["contest"] for r in rows))
    where = sorted(dict.fromkeys((r["contest"], r["network"]) for r in rows), key=lambda place: names.index(place[0]))
    axes = panels([f"{contest}, {network}" for contest, network in where], columns=2, width=360, height=240)
    for ax, place in zip(axes, where):
        here = [r for r in rows if (r["contest"], r["network"]) == place]
        for (colour, mark), who in zip(LOOKS, dict.fromkeys(r["estimator"] for r in here)):
            mine = [r for r in here if r["estimator"] == who]
            ax.plot([r["budget"] for r in mine], [r["error"] for r in mine], mark, label=who, markersize=5, color=PALETTE["light"][colour])
        budgets = [r["budget"] for r in mine]
        ax.set(xscale="log", yscale="log", xlabel="passes for an image", ylabel="error")
        ax.set_xticks(budgets, budgets)
        ax.minorticks_off()
        ax.legend(frameon=False)
    return still(axes[0].figure)

def quickened(cases, contests, a):
    "Little of everything"
    a.images, a.repetitions = min(a.images, 2), 1
    return ([replace(c, data=Subset(getattr(c.data, "of", c.data), train=6000, valid=500), recipe=Recipe(epochs=2)) for c in cases],
            [replace(c, budgets=c.budgets[:2], long=1024) for c in contests])

def results(cases, contests, a, folder):
    "The rows of the table; what is missing in the folder is measured first"
    for case in cases:
        there = folder/case.name
        there.mkdir(parents=True, exist_ok=True)
        right, questions = prepared(case, a, there)
        print(f"{case.name}: {right:.1%} of the test images are right; {len(questions)} of those that are sure", flush=True)
        for contest in contests:
            fill_in(contest, case, questions, a, there)
            yield from (dict.fromkeys(COLUMNS) | row for row in table(contest, case, right, list(lines(there/"errors.jsonl")), a))

def save(rows, facts, out):
    "The table as CSV, and the figure beside it"
    out.parent.mkdir(exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *facts], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: shown(v) for k, v in (row | facts).items()} for row in rows)
    out.with_suffix(".png").write_bytes(figure(rows))

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, help="folder that keeps weights, long runs and errors; without it nothing is kept")
    parser.add_argument("--root", help="folder of the data sets; else $WHITEBOX_DATA"), parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3), parser.add_argument("--only", default="", help="contests whose name begins so")
    parser.add_argument("--network", default="", help="MNIST or CIFAR-10"), parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short trainings and long runs, two budgets, at most two images: to see that it works")
    parser.add_argument("--out", type=Path, default=RESULTS/"equal_error.csv", help="the table; the figure stands beside it as .png")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    warnings.filterwarnings("ignore", message="Input Tensor 0 did not already require gradients")   # captum's, at each call
    facts = machine() | dict(captum=captum.__version__, shap=shap.__version__, command=command())
    print(said(facts), flush=True)
    cases = [c for c in CASES if c.name.lower().startswith(a.network.lower())]
    contests = [c for c in CONTESTS if c.name.lower().startswith(a.only.lower())]
    if a.quick: cases, contests = quickened(cases, contests, a)
    with tempfile.TemporaryDirectory() as nowhere:
        rows = list(results(cases, contests, a, (a.work or Path(nowhere))/("quick" if a.quick else "full")))
    save(rows, facts, a.out)
    columns = "network", "contest", "estimator", "budget", "passes", "error", "factor", "factor_low", "factor_high", "gate", "holds", "time_factor"
    printed = [columns, *([shown(row[c]) for c in columns] for row in rows)]
    wide = [max(len(line[i]) for line in printed) for i in range(len(columns))]
    for line in printed: print("  ".join(cell.ljust(w) for cell, w in zip(line, wide)).rstrip())
    print(f"\nwritten to {a.out} and {a.out.with_suffix('.png')}")

if __name__ == "__main__": main()
