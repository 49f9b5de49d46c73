"Laws of every fill the library knows: what stands in is an image of the same kind, made of that image alone."
import pytest
import torch
import whitebox.attribution, whitebox.evaluation
from whitebox.fill import Fill, gaussian_blur
from whitebox.ranking import Elements, Patches, Pixels, Superpixels, keep, rank, remove
from whitebox.value import default_of, parse, vocabulary
from dataclasses import MISSING, fields

def makers():
    "Every concrete fill of the library that has a default for each field."
    kinds = [cls for cls in vocabulary().values() if issubclass(cls, Fill) and cls is not Fill and cls.__module__.split(".")[0] == "whitebox"]
    return [cls() for cls in kinds if all(default_of(f) is not MISSING for f in fields(cls))]

FILLS = sorted(makers(), key=repr)
x = gaussian_blur(torch.rand(5, 3, 24, 32, generator=torch.Generator().manual_seed(0)), 2.)
every = pytest.mark.parametrize("fill", FILLS, ids=lambda f: f.label)

def test_the_five_are_among_them():
    assert {"Black", "Constant", "ChannelMean", "Blur", "Noise"} <= {type(f).__name__ for f in FILLS}

@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_gives_an_image_of_the_same_kind(fill, dtype):
    z = x.to(dtype)
    made = fill(z)
    assert (made.shape, made.dtype, made.device) == (z.shape, dtype, z.device)
    assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1
    assert fill(z[:0]).shape == z[:0].shape

@every
def test_it_depends_on_its_image_alone(fill):
    torch.testing.assert_close(torch.cat([fill(z[None]) for z in x]), fill(x), rtol=1e-6, atol=1e-7)
    turn = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(fill(x[turn]), fill(x)[turn], rtol=1e-6, atol=1e-7)

@every
def test_it_is_the_same_twice_and_touches_nothing(fill):
    before, state = x.clone(), torch.get_rng_state()
    assert fill(x).equal(fill(x)) and x.equal(before) and torch.get_rng_state().equal(state)

@every
def test_it_is_its_text(fill): assert parse(repr(fill)) == fill == parse(fill.label)

@every
@pytest.mark.parametrize("region", [Pixels(), Elements(), Patches(5), Superpixels(12)], ids=lambda r: r.label)
@pytest.mark.parametrize("act", [remove, keep])
def test_what_is_not_destroyed_stays_bit_for_bit(fill, region, act):
    order = rank(x if region == Elements() else x.sum(1, keepdim=True), region, x=x)
    left = act(x, order, .3, fill, region)
    assert ((left == x) | (left == fill(x))).all() and not left.equal(x)
    assert act(x, order, 0., fill, region).equal(x) and act(x, order, 1., fill, region).equal(torch.where(torch.ones_like(x) > 0, fill(x), x))
