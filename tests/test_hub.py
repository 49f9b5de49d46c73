"Models by name: weights that run nothing, refusals that name what differs, and real weights held to measured accuracies."
import csv
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from whitebox.attribution import GradCAM
from whitebox.data import Square
from whitebox.data.sources import places
from whitebox.errors import BadShape, BadValue, MissingData, StoreConflict, UnknownName, UnsupportedModel
from whitebox.image import box, resize
from whitebox.models import described, load_weights, save_weights, tiny_digits
from whitebox.models.hub import architecture, classes_of, efficientnet_lite0, hub
from whitebox.probe import Probe

RESULTS = Path(__file__).resolve().parent.parent/"results"/"hub_proofs.csv"
COMMAND = 'make test-slow ARGS="tests/test_hub.py"'
REAL = {"squeezenet1_1": "weights/squeezenet1_1.npz", "efficientnet_lite0": "weights/efficientnet_lite0.pth"}

def net(classes=3): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def needed(file):
    "Where a file of $WHITEBOX_DATA lies, or a skip"
    there = next((p/file for p in places() if (p/file).exists()), None)
    return there or pytest.skip(f"no {file} in $WHITEBOX_DATA")

# ---- files

class Runs:
    def __reduce__(self): return print, ("this ran",)

def written(folder, kind):
    "A file of weights of `net()` in one of the formats"
    torch.manual_seed(0)
    state, path = net().state_dict(), folder/f"weights.{kind}"
    if kind == "safetensors": save_file(state, path)
    elif kind == "npz": np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else: torch.save(state, path)
    return path, state

@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt", "pth"])
def test_every_format_gives_the_same_weights(tmp_path, kind):
    path, state = written(tmp_path, kind)
    loaded = load_weights(net(), path).state_dict()
    assert all(loaded[k].equal(v) for k, v in state.items())

@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt", "pth"])
def test_a_file_cut_short_or_flipped_is_refused_or_read_as_what_it_says(tmp_path, kind):
    "No damage leads to another error than ours"
    path, _ = written(tmp_path, kind)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 1, 10, len(whole)//2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises((StoreConflict, BadShape)): load_weights(net(), path)
    for place in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1:])
        try: load_weights(net(), path)
        except (StoreConflict, BadShape): pass

@pytest.mark.parametrize("name", ["whole.pt", "state.pth", "raw.pkl", "objects.npz"])
def test_nothing_is_run(tmp_path, name, capsys):
    "U01, U02: pickled models, code among tensors, plain pickles, objects in arrays"
    path = tmp_path/name
    if name == "whole.pt": torch.save(net(), path)
    elif name == "state.pth": torch.save({"0.weight": torch.zeros(1), "x": Runs()}, path)
    elif name == "raw.pkl": path.write_bytes(pickle.dumps(Runs()))
    else: np.savez(path, a=np.array([Runs()], dtype=object))
    capsys.readouterr()
    with pytest.raises(StoreConflict, match="cannot be read as tensors.*is refused"): load_weights(net(), path)
    assert "this ran" not in capsys.readouterr().out

def test_an_archive_that_swells_is_not_opened(tmp_path):
    "U04"
    for name in ("bomb.npz", "bomb.pt"):
        with zipfile.ZipFile(tmp_path/name, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("archive/data/0", bytes(1 << 24))
        with pytest.raises(StoreConflict, match="would expand to 16,777,216 bytes"): load_weights(net(), tmp_path/name)

@pytest.mark.parametrize("made, given, mend", [
    (lambda s: {k.replace("4.", "head."): v for k, v in s.items()}, r"4\.weight is missing", "rename its tensors"),
    (lambda s: {"module." + k: v for k, v in s.items()}, r"of 4 tensors 8 differ\. 0\.weight is missing \(the nearest is module\.0\.weight\)", "Build the network"),
    (lambda s: {**s, "4.bias": torch.zeros(5)}, r"4\.bias is \(5,\), where \(3,\) is needed", "Build the network"),
    (lambda s: {**s, "5.bias": torch.zeros(5)}, r"5\.bias has no place", "Build the network"),
])
def test_other_names_and_shapes_are_named(tmp_path, made, given, mend):
    torch.save(made(net().state_dict()), tmp_path/"w.pt")
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BadShape, match=rf"of another architecture.*{given}.*{mend}"): load_weights(model, tmp_path/"w.pt")
    assert all(model.state_dict()[k].equal(v) for k, v in before.items())      # not half filled

@pytest.mark.parametrize("held, said", [({}, "a dict with "), ({"epoch": 3}, "a dict with epoch"), ([torch.zeros(2)], "a list"), (torch.zeros(2), "a Tensor")])
def test_files_of_something_else(tmp_path, held, said):
    torch.save(held, tmp_path/"w.pt")
    with pytest.raises(StoreConflict, match=f"holds {said}.*state_dict"): load_weights(net(), tmp_path/"w.pt")

def test_weights_are_looked_for_where_data_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("WHITEBOX_DATA", str(tmp_path))
    save_weights(net(), tmp_path/"mine.safetensors")
    load_weights(net(), "mine.safetensors")
    with pytest.raises(MissingData, match="no file yours.pt. Give the path"): load_weights(net(), "yours.pt")

def test_class_names_travel_and_cannot_write_on_a_terminal(tmp_path):
    save_weights(described(tiny_digits(), ["\x1b[31mred", "<b>", *"23456789"], Square(28, channels=1)), tmp_path/"w.safetensors")
    assert hub("tiny_digits", tmp_path/"w.safetensors").names == ("[31mred", "<b>", *"23456789")

def test_an_old_file_without_counters_of_batches_is_read(tmp_path):
    torch.save({k: v for k, v in efficientnet_lite0(3).state_dict().items() if "num_batches" not in k}, tmp_path/"w.pt")
    assert hub("efficientnet_lite0", tmp_path/"w.pt")(torch.rand(1, 3, 64, 64)).shape == (1, 3)

# ---- names

def test_unknown_names():
    for name, near in [("resnet81", "resnet18"), ("squeezenet", "squeezenet1_1"), ("efficientnet_lite", "efficientnet_lite0")]:
        with pytest.raises(UnknownName, match=f"no model '{name}'. Did you mean .*{near}.*package.module.function"): hub(name)

def test_a_function_of_yours(tmp_path, monkeypatch):
    (tmp_path/"my_nets.py").write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).train()\n"
                                       "def needs(size): return nn.Linear(size, size)\ndef broken(): raise ValueError('too wide')\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    model = hub("my_nets.make")
    assert model(torch.rand(1, 3, 2, 2)).shape == (1, 2) and not model.training and (model.names, model.view) == ((), None)
    save_weights(model, tmp_path/"w.safetensors")
    assert hub("my_nets.make", tmp_path/"w.safetensors")[1].weight.equal(model[1].weight)
    for name, error, why in [("my_nets.needs", UnsupportedModel, "missing 1 required.*called without arguments"),
                             ("my_nets.broken", UnsupportedModel, "ValueError: too wide"), ("my_nets.number", UnsupportedModel, "not callable"),
                             ("my_nets.nothing", UnknownName, "cannot be imported.*package.module.function"),
                             ("no_such.make", UnknownName, "No module named 'no_such'"), ("builtins.dict", BadValue, "returned a dict")]:
        with pytest.raises(error, match=why): hub(name)

def test_a_name_in_a_value_imports_nothing():
    "U12: only who calls `hub` can name a function"
    from whitebox.value import parse
    sys.modules.pop("antigravity", None)
    with pytest.raises(UnknownName): parse("antigravity.geohash()")
    assert "antigravity" not in sys.modules

@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet", "squeezenet1_1"])
def test_torchvision_networks_are_built_for_the_classes_of_their_weights(name, tmp_path):
    build, mean, std, view = architecture(name)
    state = build(4).state_dict()
    assert classes_of(build(1000), state) == classes_of(build(1000), {"model." + k: v for k, v in state.items()}) == 4
    torch.save(state | {"aux1.conv.weight": torch.zeros(1)}, tmp_path/"w.pt")       # heads for training are left out
    model = hub(name, tmp_path/"w.pt")
    x = torch.rand(1, 3, view.side, view.side)
    with torch.no_grad(): expected = build(4).eval().requires_grad_(False)
    expected.load_state_dict(state)
    z = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(model(x), expected(z))

@pytest.mark.slow
def test_every_torchvision_network_takes_images_of_its_view():
    from torchvision import models
    for name in models.list_models(module=models):
        build, mean, std, view = architecture(name)
        with torch.device("cpu" if name.startswith("regnet") else "meta"): net = build(1000).eval().to("meta")   # a regnet counts with tensors
        logits = net(torch.empty(1, 3, view.side, view.side, device="meta"))
        assert logits.shape == (1, 1000), name

def test_untrained_networks_are_the_same_each_time():
    before = torch.get_rng_state()
    a, b = hub("squeezenet1_1"), hub("squeezenet1_1")
    assert torch.get_rng_state().equal(before) and all(p.equal(q) for p, q in zip(a.parameters(), b.parameters()))

# ---- maps: resized, and in a box

@pytest.mark.parametrize("size", [(32, 48), (5, 64), (7, 3)])
def test_a_map_of_oblong_images_is_resized_to_them(size):
    "R57"
    maps = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    for how in ("bilinear", "lanczos"):
        assert resize(maps, size, how).shape == (2, 1, *size)
        torch.testing.assert_close(resize(maps, size, how), resize(maps.mT, size[::-1], how).mT)
        torch.testing.assert_close(resize(torch.full_like(maps, .3), size, how), torch.full((2, 1, *size), .3))

@pytest.mark.parametrize("sharp", [2, 4, 8])
def test_the_box_of_a_blob(sharp):
    "R123: a smooth blob that falls to a fifth at the border of a known box, noise far below it, a smaller blob elsewhere"
    top, left, bottom, right = 20, 30, 60, 90
    rows, columns = torch.meshgrid(torch.arange(100) + .5, torch.arange(120) + .5, indexing="ij")
    def blob(t, l, b, r): return .2 ** torch.maximum(((rows - (t + b) / 2) / ((b - t) / 2)).abs(), ((columns - (l + r) / 2) / ((r - l) / 2)).abs()) ** sharp
    maps = torch.maximum(blob(top, left, bottom, right), blob(80, 100, 90, 110)) + .01 * torch.rand(100, 120, generator=torch.Generator().manual_seed(0))
    t, l, b, r = box(maps[None, None])[0].tolist()
    inter = (min(b, bottom) - max(t, top)) * (min(r, right) - max(l, left))
    assert inter / ((b - t) * (r - l) + (bottom - top) * (right - left) - inter) > .9

# ---- real weights

@pytest.mark.data
@pytest.mark.parametrize("name, file, said, p", [
    ("squeezenet1_1", "coffee.png", "espresso", .97), ("squeezenet1_1", "chelsea.png", "Egyptian cat", .35), ("squeezenet1_1", "camera.png", "tripod", .31),
    ("efficientnet_lite0", "coffee.png", "espresso", .96), ("efficientnet_lite0", "chelsea.png", "Egyptian cat", .38), ("efficientnet_lite0", "camera.png", "tripod", .94)])
def test_photographs_are_named(name, file, said, p):
    model, picture = hub(name, needed(REAL[name])), needed(f"photos/{file}")
    with Probe(model) as probe: found = probe(model.view(picture)[None].float() / 255).softmax(1)[0]
    assert model.names[found.argmax()] == said and abs(found.max().item() - p) < .03

@pytest.mark.data
def test_squeezenet_answers_through_one_channel_a_class():
    model = hub("squeezenet1_1", needed(REAL["squeezenet1_1"]))
    x = model.view(needed("photos/chelsea.png"))[None].float() / 255
    with Probe(model) as p: assert p.last_grid(x) == "model.classifier.2" and p(x).min() >= 0
    usual, last = (GradCAM(layer=layer)(model, x, upsample=False).flatten() for layer in ("model.features.12", None))
    assert torch.corrcoef(torch.stack([usual, last]))[0, 1] > .99

def photographs():
    "360 photographs of ImageNet at 224×224, and their labels"
    from PIL import Image
    folder = needed("imagenet_val360")
    said = json.loads((folder/"annotations.json").read_text())
    pictures = [np.asarray(Image.open(folder/f"{n}.jpg").convert("RGB"))[1:225, 1:225] for n in sorted(said)]
    return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2), torch.tensor([said[n]["label"] for n in sorted(said)])

@pytest.mark.data
@pytest.mark.slow
def test_real_weights_have_their_measured_accuracy():
    "Top-1 on 360 photographs, and the likelihood on every second one, which padding and normalisation move more than the accuracy"
    x, y = photographs()
    found = {}
    for name, file in REAL.items():
        with Probe(hub(name, needed(file))) as p: logits = torch.cat([p(some.float() / 255) for some in x.split(20)])
        top5 = (logits.topk(5).indices == y[:, None]).any(1).double().mean().item()
        half = nn.functional.cross_entropy(logits[::2], y[::2]).item()
        found[name] = (logits.argmax(1) == y).double().mean().item(), top5, half, logits[::2].softmax(1).amax(1).double().mean().item()
    with open(RESULTS, "w", newline="") as f:
        f.write(f"# {COMMAND}\n")
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["network", "images", "top1", "top5", "nll_of_every_second", "probability_of_every_second"])
        for name, row in found.items(): out.writerow([name, len(y), *(f"{v:.3f}" for v in row)])
    assert abs(found["squeezenet1_1"][0] - .672) < .01 and abs(found["efficientnet_lite0"][0] - .758) < .01
    assert abs(found["efficientnet_lite0"][2] - 1.038) < .01
