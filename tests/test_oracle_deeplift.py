"""Agreement of DeepLIFT with shap 0.51.0 and captum 0.9.0, to 1e-9 of the largest value in float64, where they are defined.

Both see modules: activations are modules of their own, used once and not in place. captum is left out for max-pools, where its maps
do not add up (captum issue 1104), and for GELU, which it does not know; shap for max-pools whose windows overlap, where its do not."""
import warnings

import pytest
import torch
from cases import images
from torch import nn

from whitebox.attribution import DeepLIFT
from whitebox.fill import Black, Constant, Noise

BASELINES = [Black(), Constant(.6), Noise()]
ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Tanh]


class Skip(nn.Module):
    "A residual block; each activation is a module of its own."
    def __init__(self, width, act):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), act()

    def forward(self, x): return self.act(x + self.norm(self.conv(x)))


def network(act, pool):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act(), pool(2), Skip(8, act), nn.Conv2d(8, 12, 3), act(),
                        pool(2), nn.Flatten(), nn.Linear(12 * 9, 5)).double()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, .3); m.running_var.uniform_(.5, 1.5)
    return net.eval()


def ours(baseline, net, x, k):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DeepLIFT(baseline)(net, x, k)


def by_shap(net, x, references, k):
    "shap's maps, the mean over references, one image at a time."
    from shap import DeepExplainer
    maps = [DeepExplainer(net, r).shap_values(one[None], check_additivity=False)[..., k] for one, r in zip(x, references)]
    return torch.cat([torch.as_tensor(m) for m in maps])


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d], ids=["max", "mean"])
@pytest.mark.parametrize("act", [*ACTIVATIONS, nn.GELU])
def test_shap(act, pool, agrees):
    pytest.importorskip("shap")
    net, x = network(act, pool), images(2)
    for b in BASELINES: agrees(DeepLIFT(b), ours(b, net, x, 3), by_shap(net, x, b(x)[:, None], 3), "shap")


def test_shap_averages_maps_over_baselines(agrees):
    pytest.importorskip("shap")
    net, x = network(nn.ReLU, nn.MaxPool2d), images(2)
    mean = sum(ours(b, net, x, 1) for b in BASELINES) / len(BASELINES)
    agrees(DeepLIFT(), mean, by_shap(net, x, torch.stack([b(x) for b in BASELINES], 1), 1), "shap")


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks", "ignore:Input Tensor 0 did not")
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_captum(act, agrees):
    DeepLift = pytest.importorskip("captum.attr").DeepLift
    net, x = network(act, nn.AvgPool2d), images(2)
    for b in BASELINES: agrees(DeepLIFT(b), ours(b, net, x, 3), DeepLift(net).attribute(x, b(x).contiguous(), 3), "captum")
