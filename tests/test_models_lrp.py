"""LRP on the classifiers of torchvision, and on two trained networks: everything is met, and the score is kept.

The bars are the figures of an earlier implementation, on another draw of the weights, at stabilisers of 1e-12 (ε) and 1e-6. What is
missing of a score is what the stabiliser took, layer by layer; it depends on that draw (small scores suffer most) and shrinks with the
stabiliser. So the bars are asked for at 1e-14 and 1e-9, and that 1e-6 leaves no more than a thousand times as much. In float64."""
import time

import pytest
import torch

torchvision = pytest.importorskip("torchvision")

from networks import network, rows
from whitebox.attribution.gradient import Gradient
from whitebox.attribution.input_x_gradient import InputXGradient
from whitebox.attribution.lrp import (AlphaBeta, Epsilon, EpsilonGammaBox, EpsilonPlus, Gamma, LRP, ZBox, ZPlus, conservation)
from whitebox.attribution.rules import coverage

BARS = dict(  # |residual| / |score| for ε, EpsilonPlus, EpsilonGammaBox
    resnet18=(4e-12, 5e-7, 9e-7), squeezenet1_1=(7e-12, 3e-6, 4e-6), shufflenet_v2_x1_0=(1e-11, 9e-6, 5e-6), mobilenet_v3_small=(8e-12, 7e-6, 7e-6),
    resnet50=(4e-12, 6e-7, 1e-6), vgg11_bn=(3e-12, 1e-6, 1e-6), densenet121=(3e-12, 8e-7, 1e-6), googlenet=(2e-12, 5e-7, 1e-6),
    inception_v3=(4e-12, 7e-7, 1e-6), mobilenet_v2=(3e-11, 6e-6, 1e-5), efficientnet_b0=(6e-12, 7e-5, 7e-6), convnext_tiny=(1e-11, 3e-4, 7e-6),
    regnet_y_400mf=(1e-11, 2e-6, 5e-6), vit_b_16=(3e-12, 3e-6, 3e-6), swin_t=(1e-11, 1e-5, 1e-5), maxvit_t=(1e-11, 4e-3, 1e-5))
TRAINED = {"SqueezeNet 1.1": (2e-13, 8e-8, 8e-8), "EfficientNet-Lite0": (7e-13, 1e-6, 2e-6)}
METHODS = (LRP(Epsilon(1e-14)), LRP(EpsilonPlus(Epsilon(1e-9), ZPlus(epsilon=1e-9))),
           LRP(EpsilonGammaBox(Epsilon(1e-9), Gamma(epsilon=1e-9), ZBox(epsilon=1e-9))))
PIECEWISE = {"resnet18", "resnet50", "densenet121", "googlenet", "shufflenet_v2_x1_0", "squeezenet1_1"}
MET = dict(resnet18=dict(conv2d=20, batch_norm=20, relu=17, linear=1), squeezenet1_1=dict(conv2d=26, relu=26),
           mobilenet_v3_small=dict(conv2d=52, batch_norm=34, hardswish=19, hardsigmoid=9, relu=14, linear=2, mul=9),
           densenet121=dict(conv2d=120, batch_norm=121, relu=121, linear=1), googlenet=dict(conv2d=57, batch_norm=57, relu=57, linear=1))

def lacks(method, net, x):
    "What is missing of the first image's score"
    kept = conservation(method, net, x[:1])
    return (kept.residual / kept.score).abs().item()

@pytest.mark.parametrize("name", rows(BARS))
def test_the_score_is_kept(name, record_property):
    net, x = network(name)
    found = [lacks(method, net, x) for method in METHODS]
    record_property("dial", f"LRP {name}: ε {found[0]:.0e}, EpsilonPlus {found[1]:.0e}, EpsilonGammaBox {found[2]:.0e}")
    assert all(f <= bar for f, bar in zip(found, BARS[name]))
    assert lacks(LRP(EpsilonPlus()), net, x) <= 2e3 * found[1] + 1e-12 and lacks(LRP(EpsilonPlus()), net, x) < 1e-3
    if name in MET: assert coverage(LRP(), net, x) == MET[name]
    if name in PIECEWISE:
        ours, plain = LRP(Epsilon(1e-14))(net, x), InputXGradient()(net, x)
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-8 * plain.abs().max().item())

@pytest.mark.slow
def test_filling_an_empty_side_keeps_what_would_be_lost():
    net, x = network("shufflenet_v2_x1_0")
    assert lacks(LRP(EpsilonPlus(conv=ZPlus(fill_empty=False))), net, x) > .05 > 1e-4 > lacks(LRP(EpsilonPlus()), net, x)

@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_attention_by_its_gradient_keeps_the_score_only_nearly(name):
    net, x = network(name)
    assert 1e-4 < lacks(LRP(Epsilon(1e-14), attention="attn"), net, x) < .5

@pytest.mark.parametrize("name", rows(TRAINED))
def test_trained_networks(name):
    "On a photograph"
    net, x = network(name)
    for method, bar in zip(METHODS, TRAINED[name]): assert lacks(method, net, x) <= bar
    assert lacks(LRP(EpsilonPlus()), net, x) < 2e-6

def seconds(method, net, x, times=7):
    method(net, x, 0)
    began = []
    for _ in range(times):
        start = time.process_time()
        method(net, x, 0)
        began.append(time.process_time() - start)
    return sorted(began)[times // 2]

@pytest.mark.slow
@pytest.mark.parametrize("rule, most", [(Epsilon(), 3), (ZPlus(), 10), (Gamma(), 10), (AlphaBeta(), 10)], ids=["ε", "z⁺", "γ", "αβ"])
def test_cost_in_plain_gradients(rule, most, record_property):
    "ResNet-18, one image of 64 pixels, float32, processor time"
    torch.manual_seed(0)
    net, x = torchvision.models.resnet18(weights=None).eval(), torch.rand(1, 3, 64, 64)
    ratio = min(seconds(LRP(rule), net, x) / seconds(Gradient(), net, x) for _ in range(3))
    record_property("dial", f"LRP {rule.label}: {ratio:.1f} plain gradients")
    assert ratio <= most
