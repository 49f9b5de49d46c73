"Where the deciding pixels are known: remove-and-retrain must find them, and the mask alone must be caught where it tells the class."
import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
import pytest
import torch
from torch import nn
from whitebox.attribution.controls import Random, Sobel
from whitebox.data.planted import Shapes
from whitebox.evaluation.retraining import KAR, ROAR, gone, holes, mask_pictures, right, signed_count
from whitebox.fill import Constant
from whitebox.models.simple_cnn import Classifier, Network
from whitebox.models.training import Recipe, moments, train
from whitebox.ranking import rank
from whitebox.table import leaks

pytestmark = pytest.mark.slow
RESULTS = Path(__file__).resolve().parent.parent / "results" / "planted_proofs.csv"
COMMAND = "make test-slow ARGS=tests/test_planted_proofs.py"
SEEDS, SHARES, CHANCE = (0, 1, 2), ROAR().fractions, .25
RECIPE = Recipe(epochs=10, lr=.01, smoothing=0.)

@dataclass(frozen=True)
class MaxCNN(Network):
    "Two convolutions, and of each channel its highest value anywhere."
    def build(self, shape, classes):
        layers = nn.Conv2d(shape[0], 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(shape[1:])
        return Classifier(shape[0], nn.Sequential(*layers), nn.Linear(16, classes)).to(memory_format=torch.channels_last)

@cache
def world(seed): return Shapes(seed=seed).load()

@cache
def orders(seed, name):
    "The rankings of training and test images."
    splits = world(seed).train, world(seed).test
    if name == "inverse": return [o.flip(1) for o in orders(seed, "box")]
    if name in ("box", "lit"): return [rank(s.masks[name][:, None].float()) for s in splits]
    method = {"random": Random(seed), "Sobel": Sobel()}[name]
    return [rank(method(nn.Identity(), s.float())) for s in splits]

@cache
def accuracy(seed, measure, name="", share=0.):
    "On the test images, of a network trained on what is left, on the mask alone, or on everything."
    images = world(seed)
    if measure == "KAR" and name == "inverse": return accuracy(seed, "ROAR", "box", share)    # the same pixels
    if measure == "ROAR" and name == "inverse": return accuracy(seed, "KAR", "box", share)
    x, y, stats = [s.float() for s in (images.train, images.test)], (images.train.y, images.test.y), moments(images.train.x)
    if name:
        k = signed_count({"KAR": KAR()}.get(measure, ROAR()), share, 256)
        if measure == "mask": x, stats = [mask_pictures(z, gone(o, k)) for z, o in zip(x, orders(seed, name))], None
        else: x = [holes(z, o, k, Constant(images.mean)) for z, o in zip(x, orders(seed, name))]
    net = train(MaxCNN(), x[0], y[0], images.classes, replace(RECIPE, seed=seed), stats)
    return right(net, x[1], y[1]).double().mean().item()

def over_seeds(*what): return torch.tensor([accuracy(s, *what) for s in SEEDS], dtype=torch.float64)

def area(name):
    "Between keeping and removing, as a share of the room between guessing and the clean accuracy, for each seed."
    t, clean = torch.tensor([0., *SHARES], dtype=torch.float64), over_seeds("clean")
    between = torch.stack([over_seeds("KAR", name, f) - over_seeds("ROAR", name, f) for f in SHARES])
    return torch.trapezoid(torch.cat([torch.zeros(1, len(SEEDS)), between]), t, dim=0) / (t[-1] * (clean - CHANCE))

def flagged(name):
    "Whether the mask of the first share is found to tell the class."
    commonest = max(torch.bincount(world(s).test.y).max().item() / len(world(s).test) for s in SEEDS)
    return leaks(over_seeds("mask", name, .1)[:, None], commonest)

@pytest.fixture(scope="module", autouse=True)
def measured():
    "Every figure, written down with the command that makes it."
    rows = [("clean", "", 0., over_seeds("clean"))]
    rows += [(m, name, f, over_seeds(m, name, f)) for name in ("box", "inverse", "random") for m in ("ROAR", "KAR") for f in SHARES]
    rows += [("ROAR", name, .1, over_seeds("ROAR", name, .1)) for name in ("lit", "Sobel")]
    rows += [("mask", name, .1, over_seeds("mask", name, .1)) for name in ("box", "random", "lit", "Sobel")]
    rows += [("ABC", name, "", area(name)) for name in ("box", "inverse", "random")]
    with open(RESULTS, "w", newline="") as f:
        f.write(f"# {COMMAND}\n")
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["measure", "map", "fraction", *(f"seed{s}" for s in SEEDS), "mean"])
        for *what, v in rows: out.writerow([*what, *(f"{a:.4f}" for a in (*v.tolist(), v.mean().item()))])

def test_p1_the_network_learns_the_world(): assert over_seeds("clean").min() >= .97

def test_p2_removing_the_glyph_leaves_nothing(): assert abs(over_seeds("ROAR", "box", .1).mean() - CHANCE) <= .03

def test_p3_keeping_the_glyph_is_enough(): assert over_seeds("KAR", "box", .9).mean() >= over_seeds("clean").mean() - .03

@pytest.mark.parametrize("name, tells", [("box", False), ("random", False), ("lit", True), ("Sobel", True)])
def test_p4_masks_that_tell_the_class_are_flagged_and_no_others(name, tells):
    mean = over_seeds("mask", name, .1).mean()
    assert mean >= .9 if tells else abs(mean - CHANCE) <= .03
    assert flagged(name) == tells

def test_p5_random_removal_does_little(): assert over_seeds("ROAR", "random", .1).mean() >= .9

@pytest.mark.parametrize("share", [.1, .3, .5])
def test_p6_removing_all_but_the_glyph_does_nothing(share): assert over_seeds("ROAR", "inverse", share).mean() >= .95

def test_p9_the_area_between_tells_good_from_none_from_bad():
    assert area("box").mean() >= .8
    assert abs(area("random").mean()) <= .1
    assert area("inverse").mean() <= -.3
