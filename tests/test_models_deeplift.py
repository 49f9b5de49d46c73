"DeepLIFT adds up on eighteen networks: |Σ map − Δs| ≤ 1e-9 |Δs| in float64; and what it costs."
import statistics
import time
import warnings

import pytest
import torch

from networks import REAL, SIDES, network, rows
from whitebox.attribution import DeepLIFT, Gradient
from whitebox.fill import Black, Noise


@pytest.mark.parametrize("name", rows([*SIDES, *REAL]))
def test_maps_add_up(name):
    net, x = network(name)
    k = net(x).argmax(1)
    for b in Noise(), Black():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = DeepLIFT(b)(net, x, k).sum((1, 2, 3))
        with torch.no_grad(): change = (net(x) - net(b(x)))[range(len(x)), k]
        assert ((found - change).abs() <= 1e-9 * change.abs()).all(), f"{b.label}: {found} for {change}"


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
