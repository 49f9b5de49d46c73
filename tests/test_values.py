"A value is its text: whatever is nested comes back from text, label and pickle, and keys never change by accident."
import importlib
import pickle
import pkgutil
from collections import Counter
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import whitebox
from whitebox.attribution import (LRP, Activation, AlphaBeta, At, Blurred, Centre, ConstantMap, Epsilon, EpsilonAlpha2Beta1, EpsilonGammaBox,
                                  EpsilonPlus, EpsilonPlusFlat, ExpectedGradients, Flat, FromImages, Gamma, GaussLegendre, GradCAM, Gradient,
                                  InputMagnitude, InputXGradient, IntegratedGradients, Midpoint, PublishedExpectedGradients, Random, Right, Sobel,
                                  SmoothGrad, SmoothGradSquared, Trapezoid, VarGrad, WSquare, ZBox, ZPlus)
from whitebox.attribution.part1 import Part1IG, Part1SGVAR
from whitebox.data.sources import Digits
from whitebox.errors import WhiteBoxError
from whitebox.fill import Black, Blur, ChannelMean, Constant, Noise
from whitebox.ranking import Elements, Patches, Pixels, Superpixels
from whitebox.target import Class, Contrast, LogProbability, Predicted, Probability
from whitebox.value import Value, parse, reseed, vocabulary

positive = st.floats(1e-6, 1e6) | st.integers(1, 9)
level = st.floats(-1e9, 1e9) | st.sampled_from([0, -0., 1, 1e-300, .1 + .2])
seeds, several, few = st.integers(-2**40, 2**40), st.integers(2, 10**6), st.integers(1, 300)
layers = st.none() | st.text(min_size=1) | st.sampled_from(["features.8", "it's", 'a "b"\\n', "층"])
fills = (st.sampled_from([Black(), ChannelMean(), FromImages("it's", "0123456789abcdef", "test")]) | st.builds(Constant, level | st.lists(level, min_size=1, max_size=4).map(tuple))
         | st.builds(Blur, positive) | st.builds(Noise, seeds))
plain = st.just(Predicted()) | st.builds(Class, st.integers(0, 999))
targets = st.recursive(plain | st.builds(Contrast, plain, plain), lambda t: st.builds(Probability, t) | st.builds(LogProbability, t), max_leaves=3)
path_rules = st.sampled_from([Midpoint(), Right(), Trapezoid(), GaussLegendre()])
regions = st.sampled_from([Pixels(), Elements()]) | st.builds(Patches, few) | st.builds(Superpixels, few, positive)
rules = (st.builds(Epsilon, positive) | st.builds(Gamma, positive) | st.builds(ZPlus, st.booleans(), positive)
         | st.builds(AlphaBeta, fill_empty=st.booleans()) | st.builds(ZBox, st.floats(-9, 0), st.lists(st.floats(1, 9), min_size=1, max_size=3).map(tuple))
         | st.builds(WSquare, positive) | st.builds(Flat, positive))
composites = st.one_of([st.builds(c, rules, rules, st.none() | rules) for c in (EpsilonPlus, EpsilonPlusFlat, EpsilonGammaBox, EpsilonAlpha2Beta1)])
leaves = (st.sampled_from([Gradient(), InputXGradient(), Sobel(), Centre(), ConstantMap()]) | st.builds(Random, seeds)
          | st.builds(InputMagnitude, fills) | st.builds(GradCAM, layers) | st.builds(Activation, layers)
          | st.builds(LRP, rules | composites, st.booleans(), st.sampled_from(["gate", "attn"]))
          | st.builds(IntegratedGradients, few, fills, path_rules)
          | st.builds(ExpectedGradients, fills, several) | st.builds(PublishedExpectedGradients, fills, several, seeds)
          | st.builds(Part1IG, few) | st.builds(Part1SGVAR, samples=several, sigma=positive, seed=seeds))
methods = st.recursive(leaves, lambda m: st.builds(Blurred, m, positive) | st.builds(At, m, layers)
                       | st.one_of([st.builds(w, m, samples=several, sigma=positive, seed=seeds) for w in (SmoothGrad, SmoothGradSquared, VarGrad)]))
settled = st.builds(IntegratedGradients, st.integers(1, 256), fills, path_rules, positive)   # a look of it is no value of SmoothGrad's
values = fills | targets | regions | methods | settled | st.builds(VarGrad, settled, several)

@given(values)
def test_a_value_comes_back(v):
    for back in (parse(repr(v)), parse(f"  {v.label}\n"), pickle.loads(pickle.dumps(v)), replace(v)):
        assert back == v and hash(back) == hash(v) and repr(back) == repr(v) and back.label == v.label and back.key == v.key
    assert len(v.label) <= len(repr(v)) and len(v.key) == 64

@given(values, values)
def test_two_values_are_equal_when_their_texts_are(a, b):
    assert (a == b) == (repr(a) == repr(b)) == (a.key == b.key) == (a.label == b.label)

def seeds_of(v):
    "Every seed inside a value"
    for f in fields(v):
        held = getattr(v, f.name)
        if f.name == "seed": yield held
        for inner in held if isinstance(held, tuple) else (held,):
            if isinstance(inner, Value): yield from seeds_of(inner)

@given(methods, st.integers(0, 9))
def test_reseeding_changes_seeds_and_nothing_else(m, r):
    new = reseed(m, "replicate", r)
    assert new == reseed(m, "replicate", r)
    assert (new == m) == (not list(seeds_of(m))) and all(0 <= s < 2**31 for s in seeds_of(new))
    def unseeded(v):
        own = {f.name: 0 if f.name == "seed" else unseeded(x) if isinstance(x := getattr(v, f.name), Value) else x for f in fields(v)}
        return replace(v, **own)
    assert unseeded(new) == unseeded(m)

@given(st.text())
def test_no_text_is_run(text):
    "What is not the text of a value is refused in our words"
    try: parse(text)
    except (WhiteBoxError, RecursionError, MemoryError): pass

@pytest.mark.parametrize("text", ["__import__('os')", "Gradient().attribute", "(lambda: 1)()", "[x for x in (1,)]", "os.system('ls')",
                                  "torch.Tensor", "whitebox.value.parse('1')", "Gradient() if 1 else 2", "f'{1}'"])
def test_code_is_refused(text):
    with pytest.raises(WhiteBoxError): parse(text)

def test_numbers_of_other_libraries_are_numbers():
    import numpy as np, torch
    assert Blur(np.float32(.5)) == Blur(torch.tensor(.5)) == Blur(.5) and Patches(np.int64(4)) == Patches(4)
    assert Constant([1, 2]) == Constant((1., 2.)) and Constant(-0.) == Constant(0)

def loaded():
    for module in pkgutil.walk_packages(whitebox.__path__, "whitebox."): importlib.import_module(module.name)
    todo = [Value]
    while todo:
        todo += (found := todo.pop()).__subclasses__()
        if found is not Value and found.__module__.startswith("whitebox."): yield found

def test_no_two_values_share_a_name():
    names = Counter(cls.__qualname__ for cls in set(loaded()))
    assert [name for name, n in names.items() if n > 1] == [] and set(names) <= set(vocabulary())

# A key here may change only with a raised `revision`, and with a line in the changelog: whoever stored results under the old one loses them.
KEYS = {
    'Black()': 'a4a5e9dc639a6e35ddfae7d85fdf745a',
    'Constant(value=0.5)': '400adbed4ee2ecea0717094411b69bcd',
    'Constant(value=(0.49, 0.48, 0.45,))': '5d2735e1a6327ddf03a1c87b4f26be2d',
    'ChannelMean()': '26147536e0fac4786c85ebcd5459551d',
    'Blur(sigma=3.0)': 'f577cde50810cb4967d146ba1073e0bd',
    'Noise(seed=3)': '947d88a2a52dda87d3be9422068fd566',
    'Predicted()': '224f14d4857e15aa3481f2c89c40836d',
    'Class(k=3)': '8a5dc2544cc48b51c31208b764fc0020',
    'Probability(of=Predicted())': '71ac494d86dd4ec974fce1d8702b306b',
    'LogProbability(of=Class(k=1))': '7094c9e293b31eb17d8b4cbdfe3ccae2',
    'Contrast(a=Predicted(), b=Class(k=0))': '23e2260bcc45b2e589db1e0de193fcc8',
    'Pixels()': '2a70bce90575081cc6746cc16f8301fc',
    'Elements()': '4ccab0bc060d418505fdea874e0a2f59',
    'Patches(size=8)': 'ed2fb7db8e60867c95dcaf47071617b8',
    'Superpixels(segments=50, compactness=10.0)': 'e2b05982fe6fc900e6328bb0a83d9e9e',
    'Digits(size=8)': 'f2979b2bd99b088e9f8dd8fee0250a00',
    'Gradient()': '132f3197afe2a37ecfb504eb73a0db4f',
    'InputXGradient()': 'b1bfa5ba5ee8a7cab3b70a313ab635c6',
    'IntegratedGradients(steps=32, baseline=Black(), rule=Midpoint(), tol=None)': '9c19f4f642a4444643ef982e0f3e4fdb',
    'IntegratedGradients(steps=32, baseline=Blur(sigma=2.0), rule=Midpoint(), tol=None)': '6c283f85cc91ab869268066c7f537cd8',
    'GradCAM(layer=None)': 'b2c594810b15ef413ac7aaf681b57081',
    "GradCAM(layer='features.8')": '7c805357eed0812121fdf9e5c44b3093',
    'Activation(layer=None)': '7149add1361932e7a8583b1522028dbf',
    'At(of=InputXGradient(), layer=None)': '87befaf8df55cab614031a337c253d5d',
    'SmoothGrad(of=Gradient(), samples=50, sigma=0.15, seed=0)': '04fc003d8b80ebe8d8dc010c480dfe58',
    'SmoothGrad(of=IntegratedGradients(steps=8, baseline=Black(), rule=Midpoint(), tol=None), samples=4, sigma=0.15, seed=0)': '3f05f40fdb1bea22e28225ec79084f06',
    'SmoothGradSquared(of=Gradient(), samples=50, sigma=0.15, seed=0)': '167fb772e46cea011c3d1dcb2dbe9d80',
    'VarGrad(of=Gradient(), samples=50, sigma=0.15, seed=0)': 'd1c17c0efcae58e70958624e737f50d9',
    'Random(seed=0)': '2f905f382bebc1669a4310a80a762ec1',
    'Blurred(of=Sobel(), sigma=2.0)': '68390e60ec9e8339b9a2c4ddd6776bb2',
    'IntegratedGradients(steps=32, baseline=Black(), rule=Trapezoid(), tol=0.01)': '0b23e9fef838dd2245b8a38a9771f6b3',
    "FromImages(name='Digits(size=28)', digest='04de49d25e24c6c5', split='train', seed=0)": '9e7c2d3aae0bf0115101fb6482dad7aa',
    'ExpectedGradients(baseline=Noise(seed=0), samples=200)': '0c814408ef48d0a27a1b281da41538e0',
    'PublishedExpectedGradients(baseline=Noise(seed=0), samples=200, seed=0)': '1c9f19fc8fb089a30649fe81ad81f615',
    'Part1IG(steps=10)': '8902f5d73ed33bf93f04e8980d809204',
    'Part1SG(of=Part1VBP(), samples=50, sigma=2.0, seed=0)': '746d699de4eee2dd6dd60ec0eb683235',
}

@pytest.mark.parametrize("text", KEYS)
def test_keys_are_frozen(text):
    assert parse(text).key[:32] == KEYS[text]

def test_the_frozen_texts_are_whole():
    assert len(KEYS) == 36 and all(repr(parse(text)) == text for text in KEYS)
