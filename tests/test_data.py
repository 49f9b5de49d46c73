"Data: the same bytes everywhere, refusals that say what to do, planted answers against brute force."
import hashlib, itertools, os, pickle, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from whitebox.data import CIFAR10, MNIST, Digits, FashionMNIST, Folder, GaussianWorld, Images, Shapes, Split, Subset, TwoObjects, from_tensors, source
from whitebox.data.images import balanced, shares
from whitebox.data.planted import DISTRACTORS, GLYPHS, RING, as_values, corners, far, gaussian_posterior, mnist_statistics, stamp
from whitebox.data.sources import CIFAR_FILES, SUFFIXES, idx_files
from whitebox.errors import BadShape, BadValue, MissingData, StoreConflict, UnknownName
from whitebox.value import parse

ROOT = Path(__file__).resolve().parent.parent
WORLDS = [Digits(), Digits(size=28), Subset(Digits(), train=50), Shapes(n=64), Shapes(n=64, redundancy=.5), TwoObjects(n=64, rho=.5), GaussianWorld(n=128)]

@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "A machine on which no data set is to be found"
    monkeypatch.delenv("WHITEBOX_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path/"home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path/"home"))
    return tmp_path/"root"

# ---- the same bytes

def test_the_same_source_gives_the_same_bytes_in_another_process():
    call = ("import sys; from whitebox.value import parse; import whitebox.data\n"
            "for text in sys.argv[1:]: print(parse(text).load().digest)")
    env = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", call, *map(repr, WORLDS)], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [w.load().digest for w in WORLDS]

@pytest.mark.parametrize("world, digest", [(Digits(), "34faf1c321583693"), (Shapes(n=64), "559ce5aaa7785c0f"), (TwoObjects(n=64), "a8850c840405b15a")], ids=lambda v: getattr(v, "label", ""))
def test_bytes_do_not_change_without_a_new_revision(world, digest):
    assert world.load().digest[:16] == digest and type(world).revision == 1

def test_drawing_touches_no_global_generator():
    torch.manual_seed(0); np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for world in WORLDS: world.load()
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()

@pytest.mark.parametrize("world", WORLDS, ids=lambda w: w.label)
def test_sources_are_values(world):
    assert parse(world.label) == parse(repr(world)) == pickle.loads(pickle.dumps(world)) == world
    assert world.load().name == world.label

def test_the_digest_sees_every_part():
    base = from_tensors(torch.arange(40).view(40, 1, 1, 1).to(torch.uint8), torch.arange(40) % 2)
    t = base.test
    other = [Split(t.x ^ 1, t.y), Split(t.x, 1 - t.y), Split(t.x, t.y, {"m": t.x[:, 0] > 9}), Split(t.x, t.y, {"m": t.x[:, 0] > 8}),
             Split(t.x.view(1, 1, 1, -1).expand(1, 1, 1, 8), t.y[:1])]
    digests = {base.digest, *(Images(base.train, base.valid, s, base.names).digest for s in other[:4])}
    assert len(digests) == 5
    with pytest.raises(BadShape): Images(base.train, base.valid, other[4], base.names)

# ---- splits

@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_balanced_takes_as_evenly_as_it_can(labels, data):
    y = torch.tensor(labels)
    n = data.draw(st.integers(1, len(y)))
    rows = balanced(y, n, data.draw(st.integers(0, 9)))
    took, there = y[rows].bincount(minlength=4), y.bincount(minlength=4)
    assert len(set(rows.tolist())) == n and (rows.diff() > 0).all()
    assert all(took[k] == there[k] or took[k] >= took.max() - 1 for k in range(4))

@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_shares_part_every_class(labels, seed):
    y = torch.tensor(labels)
    parts = shares(y, (.7, .8), seed)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(y)))
    for k in set(labels): assert abs((y[parts[0]] == k).sum() - .7 * labels.count(k)) <= 1

# ---- refusals

X, Y = torch.zeros(20, 1, 8, 8), torch.arange(20) % 2

@pytest.mark.parametrize("x, y, error, says", [
    (X[:, 0], Y, BadShape, r"\(20, 8, 8\).*x\[:, None\]"), (X[0, 0], Y, BadShape, "Put the channels second"),
    (X.permute(0, 2, 3, 1), Y, BadShape, r"permute\(0, 3, 1, 2\)"), (X.expand(-1, 2, -1, -1), Y, BadShape, "C 1 or 3"),
    (X, Y[:-1], BadShape, "for 20 images"), (X + 2, Y, BadValue, "2 to 2"), (X - 1, Y, BadValue, "-1 to -1"),
    (X.int(), Y, BadValue, "torch.int32"), (X / 0, Y, BadValue, "1280 values that are not finite"), (X[:0], Y[:0], BadValue, "no images"),
    (X, Y.float(), BadValue, "one whole number"), (X, torch.eye(20), BadValue, "argmax"), (X, Y - 1, BadValue, "label"), (X, Y * 2, BadValue, "no training image of 1"),
], ids=range(14))
def test_tensors_that_are_no_data_set(x, y, error, says):
    with pytest.raises(error, match=says): from_tensors(x, y)

def test_labels_beyond_the_names_and_names_without_an_image():
    with pytest.raises(BadValue, match=r"label 1; 1 names give 0\.\.0"): from_tensors(X, Y, names=["a"])
    with pytest.raises(BadValue, match="no training image of c"): from_tensors(X, Y, names=["a", "b", "c"])
    with pytest.raises(BadValue, match="test holds label 5"): from_tensors(X, Y, test=(X[:2], Y[:2] + 5))

@pytest.mark.parametrize("published", [MNIST(), FashionMNIST(), CIFAR10()], ids=repr)
def test_missing_data_name_the_places_and_the_way_out(published, nowhere, monkeypatch):
    monkeypatch.setenv("WHITEBOX_DATA", str(nowhere/"named"))
    with pytest.raises(MissingData) as caught: published.load(nowhere)
    for part in (str(nowhere), str(nowhere/"named"), str(Path(".cache")/"whitebox"), "load(root=…)", "$WHITEBOX_DATA", f"{published!r}.load(download=True)"):
        assert part in str(caught.value)
    assert not nowhere.exists()

@pytest.mark.parametrize("published", [MNIST(), FashionMNIST(), CIFAR10()], ids=repr)
def test_a_download_that_fails_says_so(published, nowhere, monkeypatch):
    import torchvision
    def offline(*args, **named): raise OSError("no network")
    monkeypatch.setattr(torchvision.datasets, type(published).__name__, offline)
    with pytest.raises(MissingData, match=r"could not be fetched.*no network.*by hand"): published.load(nowhere, download=True)

def write_idx(folder, name="MNIST"):
    for file in idx_files(name):
        n, shape = (30, (30, 2, 2)) if "train" in file else (10, (10, 2, 2))
        array = np.arange(n * 4).reshape(shape) if "images" in file else np.arange(n) % 10
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        (folder/file).write_bytes(bytes([0, 0, 8, array.ndim]) + b"".join(k.to_bytes(4, "big") for k in array.shape) + array.astype("u1").tobytes())

@pytest.mark.parametrize("place", ["root", "variable", "home"])
def test_the_three_places_are_looked_at(place, nowhere, monkeypatch, tmp_path):
    at = {"root": nowhere, "variable": tmp_path/"variable", "home": tmp_path/"home"/".cache"/"whitebox"}
    write_idx(at[place])
    monkeypatch.setenv("WHITEBOX_DATA", str(at["variable"]))
    assert len(MNIST().load(nowhere).train) == 27

@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b"", lambda b: b"\1" + b[1:]], ids=["cut", "empty", "header"])
def test_damaged_files_are_a_conflict_not_a_crash(damage, nowhere):
    write_idx(nowhere)
    file = nowhere/idx_files("MNIST")[0]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreConflict, match="cannot be read.*fetch it again"): MNIST().load(nowhere)

def write_cifar(folder, **more):
    for i, file in enumerate(CIFAR_FILES):
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        batch = {"data": np.full((20, 3072), i, "u1"), "labels": [k % 10 for k in range(20)], **more}
        (folder/file).write_bytes(pickle.dumps(batch, 4))

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir, (self.mark,)

def test_a_pickle_that_would_run_code_does_not(nowhere, tmp_path):
    write_cifar(nowhere, filenames=Evil(str(tmp_path/"mark")))
    with pytest.raises(StoreConflict, match=r"mkdir; only arrays are read"): CIFAR10().load(nowhere)
    assert not (tmp_path/"mark").exists()

def test_rebuilt_cifar_files_are_told_from_original_ones(nowhere, monkeypatch):
    import torchvision
    write_cifar(nowhere)
    assert "6 of 6 files" in CIFAR10().load(nowhere).note
    md5 = [(Path(f).name, hashlib.md5((nowhere/f).read_bytes()).hexdigest()) for f in CIFAR_FILES]
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", md5[:5])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", md5[5:])
    assert CIFAR10().load(nowhere).note == ""

# ---- a folder of pictures

@pytest.fixture
def pictures(tmp_path):
    "Two classes of four coloured pictures, in every mode that is read"
    for name, shade in [("a", 40), ("b", 200)]:
        (tmp_path/name).mkdir()
        for i, mode in enumerate(["RGB", "L", "P", "CMYK"]):
            file = tmp_path/name/f"{i}.{'jpg' if mode == 'CMYK' else 'png'}"
            image = Image.new("RGB", (20, 12), (shade,) * 3)
            (image.quantize() if mode == "P" else image.convert(mode)).save(file)
    return tmp_path

@pytest.mark.parametrize("channels", [1, 3])
def test_folder_reads_every_mode(pictures, channels):
    images = Folder(str(pictures), size=8, channels=channels).load()
    assert images.shape == (channels, 8, 8) and images.names == ("a", "b")
    for split in images.splits.values(): assert (split.x.int() - torch.tensor([40, 200])[split.y].view(-1, 1, 1, 1)).abs().le(3).all()

@pytest.mark.parametrize("cut", [0, 40, 60])
def test_a_truncated_picture_is_named(pictures, cut):
    file = pictures/"b"/"0.png"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(BadValue, match=r"0\.png cannot be read as an image.*take it out"): Folder(str(pictures)).load()

def test_deep_and_huge_pictures_are_refused(pictures, monkeypatch):
    Image.fromarray(np.full((8, 8), 40000, "u2")).save(pictures/"a"/"9.png")
    with pytest.raises(BadValue, match="9.png has more than 8 bits"): Folder(str(pictures)).load()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(BadValue, match="cannot be read as an image"): Folder(str(pictures)).load()

def test_a_picture_is_turned_as_the_camera_noted(pictures):
    tall = np.zeros((8, 8, 3), "u1"); tall[:4] = 255
    exif = Image.Exif(); exif[0x0112] = 3                         # upside down
    for name in ("a", "b"):
        for i in range(4): Image.fromarray(tall).save(pictures/name/f"{i}.png", exif=exif)
        (pictures/name/"3.jpg").unlink()
    x = Folder(str(pictures), size=8, channels=1).load().train.x
    assert (x[:, :, :4] == 0).all() and (x[:, :, 4:] == 255).all()

def test_folders_that_hold_no_classes(tmp_path):
    with pytest.raises(MissingData, match="one sub-folder for each class"): Folder(str(tmp_path/"none")).load()
    with pytest.raises(BadValue, match="holds 0 classes"): Folder(str(tmp_path)).load()
    assert all(s == s.lower() for s in SUFFIXES)

# ---- by name

@pytest.mark.parametrize("text, value", [("digits", Digits()), ("FASHION", FashionMNIST()), ("cifar", CIFAR10()), ("twoobjects", TwoObjects()),
                                         ("shapes", Shapes()), ("Shapes(size=28)", Shapes(size=28)), ("Subset(MNIST, test=9)", Subset(MNIST(), test=9))])
def test_source_reads_names_and_texts(text, value): assert source(text) == value

@pytest.mark.parametrize("text, error", [("minst", UnknownName), ("", BadValue), ("Black()", BadValue), ("Shapes(sise=3)", BadValue), ("Folder", UnknownName)])
def test_source_refuses_what_is_none(text, error):
    import whitebox.fill
    with pytest.raises(error): source(text)

# ---- planted worlds: the exact answer against every scene drawn out

def stamps(size, spots, patch): return stamp(size, spots, np.broadcast_to(patch, (len(spots), 3, 3)))

def scenes_of_shapes(world):
    "(class, weight of each, scenes) until every scene is drawn"
    spots = corners(world.size).numpy()
    room = far(*[corners(world.size)] * 2).numpy() > 0
    for c, glyph in enumerate(GLYPHS):
        kinds = [((1 - world.redundancy) / 2, d) for d in DISTRACTORS] + [(world.redundancy, glyph)]
        for z, (share, kind) in itertools.product(range(len(spots)), kinds):
            first = np.flatnonzero(room[z])
            base = stamp(world.size, spots[[z]], glyph[None]) + stamps(world.size, spots[first], kind)
            if world.distractors == 1: yield c, share / len(first), base
            else:
                for w, d in itertools.product(first, DISTRACTORS):
                    last = np.flatnonzero(room[z] & room[w])
                    yield c, share / len(first) / len(last) / 2, base[first == w] + stamps(world.size, spots[last], d)

def brute_force(world, x, hidden):
    v, seen = as_values(x, -1, 2)[:, 0].numpy(), (~hidden).numpy()
    total = np.zeros((len(x), 4))
    for c, weight, scenes in scenes_of_shapes(world):
        error = ((v[:, None] - scenes) ** 2 * seen[:, None]).sum((2, 3))
        total[:, c] += weight * np.exp(-error / (2 * world.noise ** 2)).sum(1)
    return torch.from_numpy(np.log(total)).log_softmax(1)

def some(world, n, p=.5):
    split = world.draw(n, "brute force")
    hidden = torch.from_numpy(np.random.RandomState(1).rand(n, world.size, world.size) < p)
    return split.float(), hidden

@pytest.mark.parametrize("redundancy", [0., .4])
def test_shapes_answer_equals_brute_force(redundancy):
    world = Shapes(size=14, distractors=1, noise=.3, redundancy=redundancy)
    x, hidden = some(world, 4)
    assert (world.exact(x, hidden) - brute_force(world, x, hidden)).abs().max() < 1e-9

@pytest.mark.slow
def test_shapes_answer_with_two_distractors_equals_brute_force():
    world = Shapes(size=14, noise=.3, redundancy=.4)
    x, hidden = some(world, 1, .7)
    assert (world.exact(x, hidden) - brute_force(world, x, hidden)).abs().max() < 1e-9

@pytest.mark.parametrize("rho", [0., .3, 1.])
def test_two_objects_answer_equals_brute_force(rho):
    world = TwoObjects(size=14, noise=.3, rho=rho)
    x, hidden = some(world, 6, .7)
    at = corners(14, top=5).numpy()
    apart = (np.abs(at[:, None] - at).max(2) >= 5) & (np.abs(at[:, None] - (4, 0) - at).max(2) >= 5)
    v, total = as_values(x, -1, 2)[:, 0].numpy(), np.zeros((6, 4))
    for y, k, z in itertools.product(range(4), range(4), range(len(at))):
        others = np.flatnonzero(apart[z])
        scenes = (stamp(14, at[[z]], GLYPHS[[y]]) + stamp(14, at[[z]] - (4, 0), RING[None]))[0] + stamp(14, at[others], np.repeat(GLYPHS[[k]], len(others), 0))
        error = ((v[:, None] - scenes) ** 2 * (~hidden).numpy()[:, None]).sum((2, 3))
        total[:, y] += ((1 - rho) / 4 + rho * (y == k)) / len(others) * np.exp(-error / (2 * world.noise ** 2)).sum(1)
    assert (world.exact(x, hidden) - torch.from_numpy(np.log(total)).log_softmax(1)).abs().max() < 1e-9

def test_gaussian_answer_equals_the_density_of_the_visible_part():
    from scipy.stats import multivariate_normal
    rng = np.random.RandomState(3)
    means, w, sigma = rng.randn(4, 9), rng.randn(9, 3), .3
    covariance = w @ w.T + sigma ** 2 * np.eye(9)
    x = means[rng.randint(0, 4, 50)] + rng.randn(50, 3) @ w.T + sigma * rng.randn(50, 9)
    seen = rng.rand(50, 9) < .5
    seen[:, 0] = True
    slow = [[multivariate_normal(m[o], covariance[np.ix_(o, o)]).logpdf(v[o]) for m in means] for v, o in zip(x, seen)]
    fast = gaussian_posterior(torch.from_numpy(x), torch.from_numpy(seen.astype(float)), torch.from_numpy(means), torch.from_numpy(w), sigma)
    assert (fast - torch.tensor(slow).log_softmax(1)).abs().max() <= 1e-9

def right(log_posterior, y): return (log_posterior.argmax(1) == y).double().mean().item()

def test_the_gaussian_world_is_as_hard_as_measured():
    world = GaussianWorld()
    x, y, z = world.sample(2000, "hardness")
    assert abs(right(world.exact(x), y) - .95) <= .01
    nobody = torch.zeros(2000, 14, 14, dtype=torch.bool)
    assert torch.equal(world.exact(x, nobody), world.exact(x)) and torch.equal(world.exact(x, nobody[:, None]), world.exact(x))
    noise = (world.twin(y, z) - x) * 5 / world.sigma               # difference of two draws of noise
    assert abs(noise.std() - 2 ** .5) < .01 and not torch.equal(world.twin(y, z, 1), world.twin(y, z))

def test_answers_are_calibrated_where_pixels_are_hidden():
    world = GaussianWorld()
    x, y, _ = world.sample(4000, "calibration")
    held = world.exact(x, torch.from_numpy(np.random.RandomState(0).rand(4000, 14, 14) < .8)).exp().max(1).values.mean().item()
    was = right(world.exact(x, torch.from_numpy(np.random.RandomState(0).rand(4000, 14, 14) < .8)), y)
    assert abs(held - was) < .03 and was < .9

@pytest.mark.slow
def test_a_small_network_comes_near_the_best_answer():
    world = GaussianWorld()
    (x, y, _), (xt, yt, _) = world.sample(6000, "train"), world.sample(2000, "test")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(196, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    seen, test = (x * 5 - 2).float(), (xt * 5 - 2).float()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=.05)
    for _ in range(8):
        for rows in torch.randperm(6000).split(64):
            optimiser.zero_grad(); torch.nn.functional.cross_entropy(net(seen[rows]), y[rows]).backward(); optimiser.step()
    assert .9 <= right(net(test), yt) <= right(world.exact(xt), yt) + .01

@pytest.mark.parametrize("make", [lambda: Shapes(size=13), lambda: Shapes(noise=0), lambda: Shapes(n=3), lambda: TwoObjects(rho=2), lambda: Shapes(redundancy=.1, distractors=0),
                                  lambda: GaussianWorld(sigma=0), lambda: Shapes(background=1), lambda: Shapes(distractors=-1)], ids=range(8))
def test_worlds_that_cannot_be(make):
    with pytest.raises(BadValue, match=r"\. Give "): make()

def test_no_room_is_said():
    with pytest.raises(BadValue, match="no room.*Enlarge size"): Shapes(distractors=8).load()

def test_answers_want_their_own_images():
    with pytest.raises(BadShape, match=r"\(N, 1, 16, 16\)"): Shapes().exact(torch.zeros(2, 1, 28, 28))
    with pytest.raises(BadShape, match=r"True where unseen"): GaussianWorld().exact(torch.zeros(2, 1, 14, 14), torch.zeros(2, 14, 14))

# ---- real data, where they are

@pytest.mark.data
@pytest.mark.parametrize("published, mean, labels", [
    (MNIST(), (.1307,), [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]), (FashionMNIST(), (.2860,), [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
    (CIFAR10(), (.4914, .4822, .4465), [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])], ids=repr)
def test_published_sets_are_themselves(published, mean, labels):
    try: images = published.load()
    except MissingData as error: pytest.skip(f"{published} is not in $WHITEBOX_DATA: {published}.load(download=True) fetches it ({str(error)[:40]}…)")
    assert images.mean == pytest.approx(mean, abs=5e-4) and images.test.y[:10].tolist() == labels
    assert len(images.valid) == 5000 and len(images.test) == 10000 and images.digest == published.load().digest

@pytest.mark.data
def test_the_file_of_the_gaussian_world_can_be_made_again():
    import gaussian_world
    try: made = gaussian_world.statistics(MNIST().load().train)
    except MissingData: pytest.skip("MNIST is not in $WHITEBOX_DATA: MNIST().load(download=True) fetches it")
    for name, t in mnist_statistics().items(): assert (made[name] - t).abs().max() < 1e-4

def test_a_seed_gives_the_same_images_and_maps_in_every_process():
    "P12: byte for byte."
    code = """
import hashlib, torch
from whitebox.attribution import IntegratedGradients, Random
from whitebox.data import Shapes, TwoObjects
from whitebox.models import TinyCNN
from whitebox.models.training import seeded
for world in Shapes(), TwoObjects():
    images = world.load()
    with seeded(1, "net"): net = TinyCNN(4).build(images.shape, images.classes).eval()
    maps = [m(net, images.test.float()[:4]) for m in (IntegratedGradients(steps=4), Random())]
    print(images.digest, *(hashlib.sha256(m.numpy().tobytes()).hexdigest() for m in maps))
"""
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                                    env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}).stdout for seed in "12")
    assert first == second and len(first.split()) == 6
