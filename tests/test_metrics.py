"Laws that run over all metrics: the known world, what is refused, and properties of removal curves for any map."
import importlib, pkgutil, warnings
from dataclasses import dataclass, replace

import pytest, torch
from hypothesis import given, strategies as st

import whitebox.evaluation
from whitebox.attribution.controls import Random, Sobel
from whitebox.attribution.gradient import Gradient
from whitebox.attribution.input_x_gradient import InputXGradient
from whitebox.errors import BadShape, BadValue, WhiteBoxError
from whitebox.evaluation.check_metric import check_metric
from whitebox.evaluation.removal import AOPC, IROF, Correct, Deletion, Insertion, LeRF, MoRF, PixelFlipping, Removal
from whitebox.evaluation.score import COLUMNS, Metric
from whitebox.evaluation.selectivity import Selectivity
from whitebox.fill import Black, Blur, ChannelMean, Noise
from whitebox.method import Method
from whitebox.probe import Probe
from whitebox.ranking import Elements, Patches, Pixels, Superpixels
from whitebox.target import Class, Contrast, LogProbability, Predicted, Probability
from whitebox.toys import Formula, zoo
from whitebox.value import parse

for module in pkgutil.iter_modules(whitebox.evaluation.__path__): importlib.import_module(f"whitebox.evaluation.{module.name}")

def members(cls):
    "Every concrete metric of the library that is made without arguments"
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("whitebox.") and sub is not Removal:
            try: yield sub()
            except WhiteBoxError: pass
        yield from members(sub)

ALL = sorted(set(members(Metric)), key=repr)
VARIANTS = [Deletion(steps=28, fill=Black()), Insertion(fill=Black(), steps=10), AOPC(first="least"), AOPC(region=Pixels(), fill=Black()),
            Deletion(region=Superpixels(30), steps=20), MoRF(region=Elements()), LeRF(fill=Noise(), region=Patches(4)),
            MoRF(score=LogProbability(), fractions=(0, .05, .3, 1)), Deletion(score=Correct(), steps=30), Selectivity(region=Patches(4), steps=8)]
CURVES = [m for m in ALL if isinstance(m, Removal) and m.wants == "maps"]
named = pytest.mark.parametrize("metric", ALL + VARIANTS, ids=lambda m: m.label)

@pytest.fixture(scope="module")
def net(): return zoo()["conv"]

@pytest.fixture(scope="module")
def x(): return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))

def test_members_are_found():
    assert {type(m) for m in ALL} >= {Deletion, Insertion, MoRF, LeRF, AOPC, PixelFlipping, IROF, Selectivity}

# ---- every metric

@named
def test_the_laws_hold(metric): assert not check_metric(metric).failed

@named
def test_a_metric_is_its_text(metric):
    assert parse(repr(metric)) == metric == parse(metric.label) and hash(parse(repr(metric))) == hash(metric)

@named
def test_a_score_says_what_it_is(metric, net, x):
    score = metric(net, x, Sobel())
    assert score.values.shape == (5,) and score.values.dtype == torch.float64 and score.n == 5
    assert score.direction in ("higher", "lower") and score.metric == metric.label and score.method == "Sobel" and score.unit
    assert score.curve is None or score.curve.shape == (5, len(score.fractions))
    table = score.frame()
    assert tuple(table.columns) == COLUMNS and len(table) == 1 + len(score.fractions)
    assert table["value"].notna().all() and (table["n"] == 5).all()

@pytest.mark.parametrize("method", [Gradient(), InputXGradient(), Sobel()], ids=lambda m: m.label)
@pytest.mark.parametrize("metric", CURVES, ids=lambda m: m.label)
def test_a_method_scores_as_its_maps(metric, method, net, x):
    by_maps = replace(metric, reduction=method.reduction)(net, x, method(net, x))
    assert torch.allclose(metric(net, x, method).values, by_maps.values, atol=1e-5)

@pytest.mark.parametrize("target", [1, Class(1), torch.full((5,), 1), Probability(Class(1))], ids=str)
def test_all_ways_to_name_a_class_agree(target, net, x):
    assert torch.allclose(MoRF()(net, x, x, target).values, MoRF(score=Probability(Class(1)))(net, x, x).values, atol=1e-6)

# ---- what is refused or said (M01-M05), both halves

def message(error, call):
    with pytest.raises(error) as caught: call()
    said, mend = str(caught.value).split(". ", 1)
    assert said and mend
    return str(caught.value)

TENSORS = pytest.mark.parametrize("metric", CURVES, ids=lambda m: m.label)

@TENSORS
def test_maps_of_another_size_are_refused(metric, net, x):        # M01
    text = message(BadShape, lambda: metric(net, x, x[:, :1, ::2, ::2]))
    assert "8×8" in text and "16×16" in text and "resize(maps, (16, 16))" in text

@TENSORS
def test_another_number_of_maps_is_refused(metric, net, x):       # M02
    text = message(BadShape, lambda: metric(net, x, x[:4]))
    assert "4 maps for 5 images" in text and "same order" in text

@TENSORS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(metric, value, net, x):   # M03
    maps = x.clone(); maps[3, 0, 2, 2] = value
    text = message(BadValue, lambda: metric(net, x, maps))
    assert "[3]" in text and "not finite" in text and "Mend the method" in text

@TENSORS
def test_constant_maps_are_said(metric, net, x):                  # M04
    maps = x.clone(); maps[[0, 2]] = 1.
    with pytest.warns(UserWarning, match=r"2 of 5 maps are constant; they are ranked at random\. See flags\['constant'\]"):
        score = metric(net, x, maps)
    assert score.flags["constant"] == [0, 2]

@pytest.mark.parametrize("kind", [MoRF, LeRF])
@pytest.mark.parametrize("fractions, words", [((0, 10, 20), "10, which is outside 0..1. Write 0.1 for 10 %"), ((-.1, .5), "-0.1, which is outside"),
    ((.5, .1), "from small to large"), ((0, .5, .5), "each once"), ((.5,), "two or more")])
def test_fractions_out_of_range_or_order_are_refused(kind, fractions, words):   # M05
    with pytest.raises(BadValue) as caught: kind(fractions=fractions)
    assert words in str(caught.value)

def test_a_metric_that_attributes_again_refuses_maps(net, x):
    text = message(BadValue, lambda: Selectivity()(net, x, x))
    assert "needs a method" in text and "Call it as metric(model, x, method, target)" in text

def test_what_else_is_refused(net, x):
    assert "(0, 3, 16, 16)" in message(BadValue, lambda: MoRF()(net, x[:0], x[:0]))
    assert "2 channels" in message(BadShape, lambda: MoRF()(net, x, x[:, :2]))
    assert "Tensor" in message(BadValue, lambda: MoRF()(x, net, x))
    assert "3 classes" in message(BadValue, lambda: MoRF()(net, x, x, 3))
    assert "MoRF(score=Contrast" in message(BadValue, lambda: MoRF()(net, x, x, Contrast()))
    assert "Superpixels" in message(BadValue, lambda: Selectivity(region=Superpixels()))
    with pytest.raises(BadValue, match="'auto', 'sum' or 'abs'"): Deletion(reduction="max")

def test_outputs_that_are_probabilities_are_said(net, x):
    with pytest.warns(UserWarning, match="probabilities; a softmax of them is nearly flat"): MoRF()(torch.nn.Sequential(net, torch.nn.Softmax(1)), x, x)

# ---- curves, for any map

@dataclass(frozen=True)
class Shown(Method):
    "A map that is given, for images of its size."
    values: tuple[float, ...] = ()
    signed, complete, moves, needs = True, True, False, ()
    def attribute(self, p, x, target): return torch.tensor(self.values).to(x).view(1, *x.shape[1:]).expand_as(x)

def additive(weights): return Formula(lambda x: x @ weights.to(x))

maps_of = st.lists(st.integers(-3, 3), min_size=12, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64).view(1, 1, 3, 4))
images_of = st.lists(st.floats(0, 1), min_size=12, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64).view(1, 1, 3, 4))
weights_of = st.lists(st.floats(0, 5), min_size=12, max_size=12).map(lambda v: torch.tensor(v, dtype=torch.float64))

def quietly(metric, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(*args)

@given(maps_of, images_of, weights_of, st.integers(1, 30))
def test_taking_evidence_away_never_adds_any(maps, image, weights, steps):
    curve = quietly(Deletion(fill=Black(), score=Predicted(), steps=steps), additive(weights), image, maps).curve[0]
    assert (curve.diff() <= 1e-9).all() and len(curve) == 1 + min(steps, 12)

@given(maps_of, images_of, st.integers(1, 30), st.sampled_from([Black(), ChannelMean(), Blur(1.), Noise()]))
def test_curves_begin_and_end_where_they_must(maps, image, steps, fill):
    model = additive(torch.arange(12.))
    with Probe(model) as p: whole, empty = p(image)[0, 0], p(fill(image))[0, 0]
    for metric in (Deletion(fill=fill, score=Predicted(), steps=steps), Insertion(fill=fill, score=Predicted(), steps=steps),
                   LeRF(fill=fill, score=Predicted()), Selectivity(fill=fill, score=Predicted(), steps=12)):
        found = quietly(metric, model, image, Shown(tuple(maps.flatten().tolist())))
        at = dict(zip(found.fractions, found.curve[0]))
        assert abs(at[0.] - whole) < 1e-9 and abs(at[1.] - empty) < 1e-9
        assert found.curve.min() - 1e-9 <= found.values[0] <= found.curve.max() + 1e-9

@given(maps_of, images_of, st.integers(1, 30), st.sampled_from([Black(), ChannelMean(), Blur(1.)]), st.sampled_from([Pixels(), Patches(2)]))
def test_insertion_is_lerf_read_backwards(maps, image, steps, fill, region):
    insertion = quietly(Insertion(fill=fill, steps=steps, region=region, score=Predicted()), additive(torch.arange(12.)), image, maps)
    fractions = tuple(sorted(insertion.fractions))
    lerf = quietly(LeRF(fill=fill, region=region, score=Predicted(), fractions=fractions), additive(torch.arange(12.)), image, maps)
    assert torch.allclose(lerf.values, insertion.values, atol=1e-12) and torch.allclose(lerf.curve.flip(1), insertion.curve, atol=1e-12)

@given(maps_of, images_of, weights_of)
def test_deletion_and_insertion_of_an_additive_score_sum_to_it(maps, image, weights):
    d, i = (quietly(m(fill=Black(), score=Predicted()), additive(weights), image, maps).mean for m in (Deletion, Insertion))
    assert abs(d + i - (image.flatten() * weights).sum().item()) < 1e-6

@given(maps_of, images_of, st.floats(.01, 100))
def test_rescaling_changes_nothing(maps, image, factor):
    factor = 2. ** round(factor)          # exact, so that equals stay equal
    a, b = (quietly(Deletion(), additive(torch.arange(12.)), image, m) for m in (maps, maps * factor))
    assert torch.allclose(a.curve, b.curve, atol=1e-12)

@pytest.mark.parametrize("units, steps", [(12, 1), (12, 5), (12, 12), (12, 40), (49, 10), (784, 224)])
def test_every_step_destroys_a_unit_and_all_of_them_the_image(units, steps):
    shares = torch.tensor(Deletion(steps=steps).shares(torch.zeros(1, 1, 1, units)), dtype=torch.float64)
    gone = (shares * units).round()
    assert gone[0] == 0 and gone[-1] == units and len(gone) == 1 + min(steps, units)
    assert gone.diff().min() >= 1 and gone.diff().max() - gone.diff().min() <= 1

def test_selectivity_never_takes_a_unit_twice():
    image = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    for steps in (1, 5, 12, 50):
        curve = Selectivity(steps=steps, score=Predicted())(additive(torch.ones(12)), image, Shown((9., *range(11)))).curve[0]
        assert curve.tolist() == [12. - k for k in range(1 + min(steps, 12))]

def test_another_random_map_scores_otherwise(net, x):
    a, b = (Deletion(steps=16)(net, x, Random(seed)).mean for seed in (0, 1))
    assert a != b
