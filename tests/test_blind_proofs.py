"Where the best answer behind every mask is known: a reader that never saw the masks must find it, and remove-and-retrain must not."
import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn
from whitebox.attribution.controls import Blurred, Centre, Random, Sobel
from whitebox.attribution.gradient import Gradient
from whitebox.attribution.integrated_gradients import IntegratedGradients
from whitebox.data.planted import GaussianWorld
from whitebox.evaluation.blind_roar import donors, own_mask_cost, read, train_reader
from whitebox.evaluation.retraining import gone, holes, mask_pictures, right
from whitebox.fill import Constant
from whitebox.models.simple_cnn import Classifier, Network
from whitebox.models.training import Recipe, moments, train
from whitebox.ranking import count, rank
from whitebox.value import generator

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).resolve().parent.parent / "results" / "blind_proofs.csv"
COMMAND = "make test-slow ARGS=tests/test_blind_proofs.py"
SEEDS, SHARES, SHARE = (0, 1, 2), (.1, .3, .5, .8), .3
RECIPE = Recipe(epochs=8, batch=128, lr=3e-3)
PAPER = Constant(.4)    # value 0 of the world: where nothing is drawn
NULLS = "random", "blurred noise", "centre"
MAPS = (*NULLS, "Sobel", "ink", "distance from mean image", "gradient, absolute", "IG, absolute", "IG, signed", "IG, 75% kept",
        "IG, 50% kept", "IG, 25% kept", "IG, inverse")

@dataclass(frozen=True)
class MLP(Network):
    "Two hidden layers."
    width: int = 256
    def build(self, shape, classes):
        c, h, w = shape
        layers = nn.Flatten(), nn.Linear(c * h * w, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU()
        return Classifier(c, nn.Sequential(*layers), nn.Linear(self.width, classes))

class World:
    "6,000 training and 2,000 test images of one seed, a network that is explained, a reader, and all rankings."
    def __init__(self, seed):
        self.world, self.recipe = GaussianWorld(n=6000, seed=seed), replace(RECIPE, seed=seed)
        images = self.world.load()
        self.x, self.y = [images.train.float(), images.test.float()[:2000]], [images.train.y, images.test.y[:2000]]
        self.fill, self.seed, self.stats = Constant(images.mean), seed, moments(images.train.x)
        self.base = self.trained(self.x[0], replace(self.recipe, seed=seed + 100))
        self.reader = train_reader(MLP(), self.x[0], self.y[0], 10, self.recipe, self.fill)
        self.orders = [self.ranked(x) for x in self.x]

    def trained(self, x, recipe, stats=None): return train(MLP(), x, self.y[0], 10, recipe, stats or self.stats)

    def ranked(self, x):
        "The rankings of images by every map, by name."
        random, path = Random(self.seed), IntegratedGradients(16, PAPER)(self.base, x)
        maps = {"random": random(self.base, x), "blurred noise": Blurred(Random(self.seed + 100), 2.)(self.base, x),
                "centre": Centre()(self.base, x), "Sobel": Sobel()(self.base, x), "ink": x,
                "distance from mean image": (x - self.x[0].mean(0)).abs(), "gradient, absolute": Gradient()(self.base, x).abs(),
                "IG, absolute": path.abs(), "IG, signed": path}
        orders = {name: rank(m) for name, m in maps.items()}
        ig = orders["IG, absolute"]
        return orders | {f"IG, {q}% kept": spoilt(ig, q / 100, self.seed) for q in (75, 50, 25)} | {"IG, inverse": ig.flip(1)}

    def accuracies(self, name, share):
        "What each evaluator says of a map at a share, and the truth."
        k, (x, y), order = count(share, 196), (self.x[1], self.y[1]), self.orders[1][name]
        hidden = gone(order, k).view(-1, 1, 14, 14)
        own = read(self.reader, x, y, hidden, self.fill)
        borrowed = torch.stack([read(self.reader, x, y, hidden[d], self.fill) for d in donors(len(x), 5, self.seed)])
        found = dict(exact=self.world.exact(x, hidden).argmax(1) == y, blind=own, borrowed=borrowed,
                     deletion=right(self.base, holes(x, order, k, self.fill), y)) | (self.retrained(name, k) if share == SHARE else {})
        cost = own_mask_cost(own[None, None], borrowed[None, None])
        return {what: v.double().mean().item() for what, v in (found | {"cost": cost}).items()}

    def retrained(self, name, k):
        "Networks trained anew on the images with holes, and on the holes alone."
        both = [(x, o[name]) for x, o in zip(self.x, self.orders)]
        degraded, masks = [holes(x, o, k, self.fill) for x, o in both], [mask_pictures(x, gone(o, k)) for x, o in both]
        return {what: right(self.trained(a, self.recipe, stats), b, self.y[1])
                for what, (a, b), stats in [("retrained", degraded, None), ("mask", masks, moments(masks[0]))]}

def spoilt(order, q, seed):
    "A ranking in which each pixel keeps its place with probability q and else gets one by lot."
    g = generator("spoilt", q, seed, len(order))
    lot = torch.rand(order.shape, generator=g).argsort(1)
    return torch.where(torch.rand(order.shape, generator=g) < q, order.argsort(1), lot).double().add(
        torch.rand(order.shape, generator=g) * .5).argsort(1)

@cache
def clean(seed):
    "Exact, and of the network that is explained."
    w = world(seed)
    return [(w.world.exact(w.x[1]).argmax(1) == w.y[1]).double().mean().item(), right(w.base, w.x[1], w.y[1]).double().mean().item()]

world, found = cache(World), cache(lambda seed, name, share: world(seed).accuracies(name, share))

def column(what, seed, share=SHARE): return torch.tensor([found(seed, name, share)[what] for name in MAPS], dtype=torch.float64)
def tau(what, seed, share=SHARE): return kendalltau(column(what, seed, share), column("exact", seed, share)).statistic
def bias(what, seed): return (column(what, seed) - column("exact", seed)).mean().item()

@pytest.fixture(scope="module", autouse=True)
def measured():
    "Every figure, written down with the command that makes it."
    columns = "exact", "blind", "borrowed", "cost", "deletion", "retrained", "mask"
    with open(RESULTS, "w", newline="") as f:
        f.write(f"# {COMMAND}\n")
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["seed", "map", "fraction", *columns])
        for s in SEEDS:
            out.writerow([s, "nothing removed", 0., f"{clean(s)[0]:.4f}", *[""] * 3, f"{clean(s)[1]:.4f}", "", ""])
            for share in SHARES:
                for name in MAPS: out.writerow([s, name, share, *(f"{v:.4f}" if (v := found(s, name, share).get(c)) is not None else "" for c in columns)])

@pytest.mark.parametrize("seed", SEEDS)
def test_x2_the_network_comes_near_the_exact_answer(seed):
    exact, network = clean(seed)
    assert abs(exact - .95) <= .01 and network >= .90

@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", SHARES)
def test_x3_masks_that_ignore_the_image_cost_nothing_on_it(seed, share):
    assert all(abs(found(seed, name, share)["cost"]) <= .03 for name in NULLS)

@pytest.mark.parametrize("seed", SEEDS)
def test_x4_the_blind_reader_orders_maps_as_the_exact_answer_does(seed): assert tau("blind", seed) >= .80

@pytest.mark.parametrize("seed", SEEDS)
def test_x4_remove_and_retrain_does_not(seed): assert tau("retrained", seed) <= .5

@pytest.mark.parametrize("seed", SEEDS)
def test_x4_deletion_without_retraining_overstates_the_loss(seed): assert bias("deletion", seed) <= -.10
