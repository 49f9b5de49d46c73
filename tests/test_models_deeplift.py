"""DeepLIFT adds up on eighteen networks: |Σ map − Δs| ≤ 1e-9 |Δs| in float64; and what it costs.

Sixteen of torchvision with random weights (convolutions drawn by fan-in, statistics of batch norm from three passes, random affine
terms), and two with ImageNet weights. The four smallest run always, the rest under `make test-slow`."""
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from whitebox.attribution import DeepLIFT, Gradient
from whitebox.fill import Black, Noise
from whitebox.image import resize
from whitebox.models import hub

SMALL = "resnet18 squeezenet1_1 mobilenet_v3_small shufflenet_v2_x1_0".split()
LARGE = """resnet50 vgg11_bn densenet121 googlenet inception_v3 mobilenet_v2 efficientnet_b0 convnext_tiny regnet_y_400mf vit_b_16 swin_t
    maxvit_t""".split()
SIZES = dict(inception_v3=107, maxvit_t=224)     # others at 64
OPTIONS = dict(googlenet=dict(init_weights=False), inception_v3=dict(init_weights=False, aux_logits=False), vit_b_16=dict(image_size=64))


def awake(net, size):
    "Weights and statistics as training might leave them, so that no branch is silent."
    for m in net.modules():
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)): m.weight.data.uniform_(.5, 1.5); m.bias.data.normal_(0, .2)
    for name, p in net.named_parameters():
        if "layer_scale" in name: p.data.uniform_(.1, .5)
        if name == "class_token" or name.startswith("heads"): p.data.normal_(0, .2)
    with torch.no_grad():
        for _ in range(3): net.train()(torch.rand(4, 3, size, size).double())
    return net.eval()


def network(name):
    "A network of torchvision from seed 0, and one image for it."
    size = SIZES.get(name, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = awake(getattr(torchvision.models, name)(num_classes=10, **OPTIONS.get(name, {})).double(), size)
    return net, torch.rand(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def adds_up(net, x):
    k = net(x).argmax(1)
    for b in Noise(), Black():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = DeepLIFT(b)(net, x, k).sum().item()
        with torch.no_grad(): change = (net(x) - net(b(x)))[0, k].item()
        assert abs(found - change) <= 1e-9 * abs(change), f"{b.label}: {found} for {change}"


@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name): adds_up(*network(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks(name): adds_up(*network(name))


# ---- networks with ImageNet weights

def weights(name):
    file = Path(os.environ.get("WHITEBOX_DATA", "")) / "weights" / name
    if not file.is_file(): pytest.skip(f"needs {name} below $WHITEBOX_DATA/weights")
    return file


def photograph():
    from skimage.data import astronaut
    return resize(torch.from_numpy(astronaut()).permute(2, 0, 1)[None].double() / 255, (224, 224))


@pytest.mark.slow
@pytest.mark.data
def test_squeezenet_with_weights():
    net = torchvision.models.squeezenet1_1()
    stored = np.load(weights("squeezenet1_1.npz"), allow_pickle=False)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in stored.items() if k != "source"})
    adds_up(hub.normalised(net, (.485, .456, .406), (.229, .224, .225)).double().eval(), photograph())


@pytest.mark.slow
@pytest.mark.data
def test_efficientnet_lite0_with_weights():
    if not hasattr(hub, "efficientnet_lite0"): pytest.skip("whitebox.models.hub has no efficientnet_lite0")
    net = hub.load_weights(hub.efficientnet_lite0(), weights("efficientnet_lite0.pth"))
    adds_up(hub.normalised(net, (127 / 255,) * 3, (128 / 255,) * 3).double().eval(), photograph())


# ---- cost

@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_cost_in_gradients(n, record_property):
    "At most two and a half plain gradients on a ResNet-18 at 64 pixels."
    net, x, k = network("resnet18")[0].float(), torch.rand(n, 3, 64, 64), torch.zeros(n, dtype=torch.long)
    methods, seconds = (Gradient(), DeepLIFT()), ([], [])
    for _ in range(9):
        for m, spent in zip(methods, seconds):
            began = time.process_time()
            m(net, x, k)
            spent.append(time.process_time() - began)
    plain, ours = (statistics.median(spent[1:]) for spent in seconds)
    record_property("dial", f"DeepLIFT on {n} images: {ours / plain:.2f} plain gradients")
    assert ours <= 2.5 * plain
