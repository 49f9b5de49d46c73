"""What the comparisons with other packages share: images, networks, noise."""
import pytest
import torch

from whitebox.attribution.smoothgrad import noisy
from whitebox.method import draws
from whitebox.probe import Probe
from whitebox.target import aim
from whitebox.toys import zoo

CLASSES = torch.tensor([0, 1, 2, 0])


def images(n=4, h=16, w=16): return torch.rand(n, 3, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["conv", "norm", "softplus", "functional", "residual", "tokens"])
def case(request):
    "A network, four images and their classes"
    return zoo()[request.param].double(), images(), CLASSES


def noisy_copies(m, net, x, y, shake=noisy, **kind):
    "The copies that a method looks at, [S,N,C,H,W]"
    with Probe(net) as p:
        target = aim(y, len(x)).rows(x, slice(0, len(x))).fixed(p(x))
        return torch.cat(list(draws(p, lambda x, t, draw: shake(m, x, draw, **kind), x, target, m.samples)))
