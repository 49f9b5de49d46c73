"Pictures explained: what is done is not done again, what is damaged is found, what is bad is named, and maps come back as they were."
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import CLASSES, IMAGES, METHODS, every_method

from whitebox.attribution import GradCAM, Gradient, IntegratedGradients, Random, SmoothGrad, Sobel
from whitebox.attribution.check_method import changed, found
from whitebox.cli import main
from whitebox.data import Digits, Square
from whitebox.errors import BadShape, BadValue, MissingData, StoreConflict, UnknownName
from whitebox.explain import Maps, explain, load_maps, maps_of, save_maps
from whitebox.models import described, tiny_digits
from whitebox.models.hub import hub, write_whole
from whitebox.target import Class, Contrast, LogProbability, Predicted, Probability
from whitebox.toys import zoo

ROOT = Path(__file__).resolve().parent.parent
TENSORS = "maps", "probabilities", "predictions", "targets"

@pytest.fixture
def photos(tmp_path):
    "Four digits as picture files"
    folder = tmp_path/"photos"
    folder.mkdir()
    x, _ = Digits(size=28).load().first_of_each()
    for k in range(4): Image.fromarray((x[k, 0].numpy()*255).astype("u1")).save(folder/f"digit {k}.png")
    return folder

def files(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
def states(rows): return Counter(r["state"] for r in rows)
def sat(level): return Image.fromarray(np.full((40, 60, 3), level, "u1"))

# ---- maps and what belongs to them

@every_method
def test_maps_keep_the_model_s_answer(method):
    "R58: probabilities and predictions equal a separate forward pass; nothing is touched"
    net = zoo()["norm"]
    before = found(net, IMAGES)
    m = maps_of(method, net, IMAGES, CLASSES)
    assert changed(before, found(net, IMAGES)) == []
    with torch.no_grad(): logits = net(IMAGES)
    assert m.maps.equal(method(net, IMAGES, CLASSES)) and m.targets.equal(CLASSES[:, None])
    torch.testing.assert_close(m.probabilities, logits.softmax(1))
    assert m.predictions.equal(logits.argmax(1)) and m.method == method

def test_the_order_of_methods_changes_no_map():
    "R59"
    net = zoo()["norm"]
    one = {label: maps_of(m, net, IMAGES).maps for label, m in METHODS.items()}
    for label, m in reversed(METHODS.items()): assert maps_of(m, net, IMAGES).maps.equal(one[label])

@every_method
def test_saved_maps_come_back(method, tmp_path):
    "R60, R61: bits, values and words; the same call gives the same file"
    for target in (None, 1, CLASSES, Probability(Class(2)), Contrast(Predicted(), Class(1)), LogProbability()):
        m = maps_of(method, zoo()["conv"], IMAGES, target, {"split": "test", "of": "two words, one comma"})
        for name in "ab": save_maps(m, tmp_path/name)
        assert (tmp_path/"a").read_bytes() == (tmp_path/"b").read_bytes()
        back = load_maps(tmp_path/"a", IMAGES)
        assert (back.method, back.target, back.note) == (m.method, m.target, m.note)
        assert all(getattr(back, n).equal(getattr(m, n)) and getattr(back, n).dtype == getattr(m, n).dtype for n in TENSORS)

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_are_kept_in_the_precision_they_have(dtype, tmp_path):
    m = maps_of(Gradient(), zoo()["conv"], IMAGES)
    m = replace(m, maps=m.maps.to(dtype))
    save_maps(m, tmp_path/"m")
    assert load_maps(tmp_path/"m").maps.equal(m.maps)

def test_no_image_is_no_map(tmp_path):
    save_maps(maps_of(Gradient(), zoo()["conv"], IMAGES[:0]), tmp_path/"m")
    assert load_maps(tmp_path/"m", IMAGES[:0]).maps.shape == (0, 3, 16, 16)

def test_any_bit_that_turned_is_seen(tmp_path):
    "60 places at random, and each part of the file"
    path, rng = tmp_path/"m", np.random.default_rng(0)
    save_maps(maps_of(GradCAM(), zoo()["conv"], IMAGES, note={"a": "b"}), path)
    whole = path.read_bytes()
    for place in [0, 8, 9, whole.index(b"GradCAM"), whole.index(b"seal") + 9, len(whole) - 1, *rng.integers(0, len(whole), 60)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1:])
        with pytest.raises(StoreConflict, match="(cannot be read as maps|is not as it was written).*Explain again"): load_maps(path)
    for cut in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreConflict): load_maps(path)

def test_other_safetensors_are_no_maps(tmp_path):
    from safetensors.torch import save_file
    save_file({"maps": torch.zeros(2)}, tmp_path/"m")
    with pytest.raises(StoreConflict, match="cannot be read as maps"): load_maps(tmp_path/"m")
    with pytest.raises(MissingData, match="no file .*save_maps wrote"): load_maps(tmp_path/"none")

def test_maps_are_of_the_images_they_were_made_of(tmp_path):
    save_maps(maps_of(GradCAM(), zoo()["conv"], IMAGES), tmp_path/"m")
    for x in (IMAGES[:2], IMAGES[..., :8]):
        with pytest.raises(BadShape, match=r"holds maps \(3, 1, 16, 16\), the images are .*Give the images"): load_maps(tmp_path/"m", x)

def test_a_disk_that_is_full_leaves_what_was_there(tmp_path, monkeypatch):
    save_maps(maps_of(Gradient(), zoo()["conv"], IMAGES), tmp_path/"m")
    before = files(tmp_path)
    def full(self, data): raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreConflict, match="No space left.*Free some space"): save_maps(maps_of(Sobel(), zoo()["conv"], IMAGES), tmp_path/"m")
    assert files(tmp_path) == before

# ---- a folder

METHODS_HERE = GradCAM(), IntegratedGradients(steps=4), SmoothGrad(samples=4), Random()

def test_a_second_run_makes_nothing(photos, tmp_path):
    net = tiny_digits()
    before = found(net, IMAGES)
    rows = explain(net, photos, METHODS_HERE, tmp_path/"a")
    assert states(rows) == {"new": 16} and changed(before, found(net, IMAGES)) == []
    made, times = files(tmp_path/"a"), {p: p.stat().st_mtime_ns for p in (tmp_path/"a").iterdir()}
    assert len(made) == 4*(len(METHODS_HERE) + 1)
    again = explain(net, photos, METHODS_HERE, tmp_path/"a")
    assert states(again) == {"kept": 16} and {p: p.stat().st_mtime_ns for p in (tmp_path/"a").iterdir()} == times
    assert [{k: v for k, v in r.items() if k != "state"} for r in again] == [{k: v for k, v in r.items() if k != "state"} for r in rows]
    explain(net, photos, METHODS_HERE, tmp_path/"b")
    assert files(tmp_path/"b") == made                                              # the same bytes anywhere

def test_what_is_new_is_made_and_no_more(photos, tmp_path):
    "Another method, picture, target, view, weights, bytes of a picture: each its own key"
    def run(net=None, methods=Gradient(), target=None): return states(explain(net or tiny_digits(), photos, methods, tmp_path/"a", target))
    assert run() == {"new": 4}
    assert run(methods=[Gradient(), Sobel()]) == {"kept": 4, "new": 4}
    assert run(target=3) == {"new": 4} and run(target=3) == {"kept": 4} and run() == {"kept": 4}
    assert run(described(tiny_digits(), (), Square(28, .5, channels=1))) == {"new": 4}
    other = tiny_digits()
    with torch.no_grad(): other.head.bias[0] += 1
    assert run(other) == {"new": 4}
    Image.open(photos/"digit 1.png").transpose(Image.Transpose.ROTATE_90).save(photos/"digit 1.png")
    sat(9).save(photos/"new.jpg")
    assert run() == {"kept": 3, "new": 2}

def test_a_drawing_is_of_the_last_run(photos, tmp_path):
    "A drawing says which maps it shows, so an older one does not stay"
    one = photos/"digit 3.png"
    def drawing(target): return explain(tiny_digits(), one, IntegratedGradients(steps=4), tmp_path/"a.png", target) and (tmp_path/"a.png").read_bytes()
    first, other = drawing(3), drawing(5)
    assert first != other and drawing(3) == first

@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-1], lambda b: b[:100], lambda b: b[:-7] + bytes([b[-7] ^ 4]) + b[-6:], lambda b: b"x"*len(b)],
                         ids=["empty", "short", "head", "bit", "noise"])
def test_each_damaged_file_is_made_again(photos, tmp_path, spoil):
    explain(tiny_digits(), photos, METHODS_HERE[:2], tmp_path/"a")
    made = files(tmp_path/"a")
    for name, data in made.items():
        (tmp_path/"a"/name).write_bytes(spoil(data))
        rows = explain(tiny_digits(), photos, METHODS_HERE[:2], tmp_path/"a")
        assert states(rows)["damaged, made again"] == name.endswith(".safetensors") and files(tmp_path/"a") == made

RUN = """import time, sys
from whitebox.attribution import Gradient, Sobel
from whitebox.explain import explain
from whitebox.models import tiny_digits
print("begun", flush=True)
explain(tiny_digits(), sys.argv[1], [Gradient(), Sobel()], sys.argv[2], progress=lambda rows: (print("done", flush=True), time.sleep(60)))"""

@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(photos, tmp_path, stop):
    whole = explain(tiny_digits(), photos, [Gradient(), Sobel()], tmp_path/"whole") and files(tmp_path/"whole")
    run = subprocess.Popen([sys.executable, "-c", RUN, photos, tmp_path/"a"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while run.stdout.readline() != "done\n": assert run.poll() is None
    run.send_signal(stop)
    run.wait()
    left = files(tmp_path/"a")
    assert 3 <= len(left) < len(whole) and all(whole[name] == data for name, data in left.items() if not name.endswith(".part"))
    explain(tiny_digits(), photos, [Gradient(), Sobel()], tmp_path/"a")
    assert {n: d for n, d in files(tmp_path/"a").items() if not n.endswith(".part")} == whole

def test_an_error_in_the_model_comes_through(photos, tmp_path):
    net = tiny_digits()
    net.head.register_forward_hook(lambda *_: 1/0)
    with pytest.raises(ZeroDivisionError): explain(net, photos, Gradient(), tmp_path/"a")

# ---- pictures of every kind

def test_pictures_of_every_mode_are_seen_alike(tmp_path):
    "U11: grey, palette, CMYK, alpha, two levels, another extension; turned as the camera noted"
    x, _ = Digits(size=28).load().first_of_each()
    picture = Image.fromarray((x[5, 0].numpy()*255).round().astype("u1"))
    folder = tmp_path/"p"
    folder.mkdir()
    for mode in ("L", "RGB", "P", "RGBA", "LA"): picture.convert(mode).save(folder/f"{mode}.png")
    picture.convert("CMYK").save(folder/"CMYK.tif")
    picture.save(folder/"bytes.jpg", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.rotate(180).save(folder/"turned.png", exif=exif)
    rows = explain(tiny_digits(), folder, Gradient(), tmp_path/"a")
    assert len(rows) == 8 and states(rows) == {"new": 8}
    maps = [load_maps(r["maps"]).maps for r in rows]
    assert all((m - maps[0]).abs().max() <= .05*maps[0].abs().max() for m in maps)

BAD = {
    "empty.png": lambda p: p.write_bytes(b""), "text.jpg": lambda p: p.write_text("no picture"), "deep.png": lambda p: Image.fromarray(np.full((9, 9), 40000, "u2")).save(p),
    "short.jpg": lambda p: (sat(90).save(p), p.write_bytes(p.read_bytes()[:-200])), "folder.png": lambda p: p.mkdir(),
    "vast.png": lambda p: Image.new("1", (14_000, 14_000)).save(p), "noise.gif": lambda p: p.write_bytes(b"GIF89a" + bytes(range(256))),
}

def test_bad_pictures_are_named_and_the_others_explained(photos, tmp_path):
    for name, make in BAD.items(): make(photos/name)
    rows = explain(tiny_digits(), photos, Gradient(), tmp_path/"a")
    bad = {Path(r["picture"]).name: r["state"] for r in rows if "maps" not in r}
    assert set(bad) == set(BAD) and states(rows)["new"] == 4
    for name, why in bad.items(): assert name in why and any(mend in why for mend in ("Mend it or take it out", "Save it with 8", "Give an image file")), why
    assert "Pillow" not in bad["vast.png"] and "exceeds limit" in bad["vast.png"]
    assert not [f for f in files(tmp_path/"a") if Path(f).stem.split("-")[0] in {Path(n).stem for n in BAD}]

def test_no_damage_to_a_picture_leads_elsewhere(tmp_path):
    "200 pictures with bits turned or cut short: read, or refused by our own error"
    rng, x = np.random.default_rng(0), np.random.default_rng(1).integers(0, 255, (20, 20, 3)).astype("u1")
    for k in range(200):
        path = tmp_path/f"a.{('png', 'jpg', 'gif', 'bmp', 'tif', 'webp')[k % 6]}"
        Image.fromarray(x).save(path)
        data = bytearray(path.read_bytes())
        for place in rng.integers(0, len(data), 3): data[place] = rng.integers(256)
        path.write_bytes(bytes(data[:len(data) if k % 3 else rng.integers(len(data))]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try: assert Square(8)(path).shape == (3, 8, 8)
            except BadValue as error: assert "cannot be read as an image" in str(error) or "more than 8 bits" in str(error)

@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3000, 2)])
def test_pictures_of_any_shape(size, tmp_path):
    Image.new("RGB", size, (200, 10, 10)).save(tmp_path/"p.png")
    for resize in ("box", "bilinear", "bicubic", "lanczos"):
        seen = Square(8, .875, resize)(tmp_path/"p.png").view(3, -1)
        assert (seen - torch.tensor([[200], [10], [10]])).abs().max() <= 1

def test_squares_come_near_to_torchvision_s(tmp_path):
    "Resized to 256 and cropped to 224: equal inside, where both crops begin between two pixels"
    from torchvision.transforms import v2
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype("u1"))
    noise.save(tmp_path/"p.png")
    theirs = np.asarray(v2.CenterCrop(224)(v2.Resize(256)(noise))).astype(int)
    ours = Square(224, .875)(tmp_path/"p.png").permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs)[1:-1, 1:-1].max() <= 1

# ---- names

def test_pictures_of_one_name_are_kept_apart(photos, tmp_path):
    sat(5).save(photos/"digit 1.jpg"), sat(5).save(photos/"DIGIT 1.bmp")
    rows = explain(tiny_digits(), photos, Gradient(), tmp_path/"a")
    assert states(rows) == {"new": 6} and len({r["maps"].lower() for r in rows}) == len({r["drawing"].lower() for r in rows}) == 6
    with pytest.raises(BadValue, match="some have one name.*its own"): explain(tiny_digits(), [photos/"digit 2.png", tmp_path/"digit 2.png"], Gradient(), tmp_path/"b")

@pytest.mark.parametrize("name", ["spaces and (brackets).png", "층.png", "a'b\"c.png", "-dash.png", "two.dots.png", "percent%20.png"])
def test_strange_file_names(name, photos, tmp_path):
    (photos/"digit 2.png").rename(photos/name)
    row, = explain(tiny_digits(), photos/name, Gradient(), tmp_path/"a")
    assert row["state"] == "new" and load_maps(row["maps"]).note["picture"] == name and Path(row["drawing"]).exists()

def test_results_do_not_take_the_place_of_pictures(photos):
    before = files(photos)
    for out in (photos, photos/"digit 2.png"):
        with pytest.raises(BadValue, match="(Give another folder|Give a folder)"): explain(tiny_digits(), photos, Gradient(), out)
    with pytest.raises(BadValue, match="Give another folder"): explain(tiny_digits(), photos/"digit 2.png", Gradient(), photos/"digit 2.png")
    assert files(photos) == before
    explain(tiny_digits(), photos/"digit 2.png", Gradient(), photos/"map.png")      # its own name, beside the picture
    assert {n: d for n, d in files(photos).items() if n in before} == before

def test_a_model_that_does_not_know_its_names(photos, tmp_path):
    net = described(tiny_digits(), ["zero", "one"], Square(28, channels=1))
    rows = explain(net, photos, Gradient(), tmp_path/"a", "one")
    assert {r["explained"] for r in rows} == {"one"} and rows[3]["classes"][0][0] == "class 3"
    with pytest.raises(UnknownName, match="no class 'two'.*by its number"): explain(net, photos, Gradient(), tmp_path/"a", "two")

def test_a_class_that_is_not_there_is_said_of_each_picture(photos, tmp_path):
    rows = explain(tiny_digits(), photos, Gradient(), tmp_path/"a", 10)
    assert all("target is 10, but the model has 10 classes (0..9)" in r["state"] for r in rows) and not files(tmp_path/"a")

# ---- the command

def shell(capsys, *words):
    capsys.readouterr()
    try: status = main([str(w) for w in words])
    except SystemExit as stop: status = stop.code
    return status, *capsys.readouterr()

def test_exit_statuses(photos, tmp_path, capsys, monkeypatch):
    command = "explain", photos/"digit 2.png", "--model", "tiny_digits", "--out", tmp_path/"a", "--device", "cpu"
    status, out, err = shell(capsys, *command)
    assert status == 0 and "digit 2.png: 2 " in out and "IntegratedGradients" in out and "Sobel" in out and err == ""
    assert shell(capsys, *command, "--method", "Gradient", "--method", "GradCAM(layer='nowhere')")[0] == 1
    assert shell(capsys, *command[:1], photos/"none.png", *command[2:])[0] == 1
    for words, status in {("--method", "GradCMA"): 2, ("--target", "twelve"): 2, ("--target", "12"): 1, ("--view", "Black()"): 1, ("--weights", "no.pt"): 1,
                          ("--device", "tpu"): 2, ("--model",): 2, ("--target", "Predicted("): 1}.items():
        assert shell(capsys, *command, *words)[0] == status, words
    assert shell(capsys, "explain", photos)[0] == 2 and shell(capsys, *command[:3], "no.such.model")[0] == 2
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr("whitebox.explain.maps_of", stop)
    status, _, err = shell(capsys, *command, "--method", "InputXGradient")
    assert status == 130 and "run the same command to go on" in err

def test_help_shows_an_example_that_runs_but_for_its_files(capsys):
    status, out, _ = shell(capsys, "explain", "--help")
    assert status == 0 and "example:  whitebox explain cat.jpg --model squeezenet1_1" in out

def test_json_and_what_could_not_be_made(photos, tmp_path, capsys):
    (photos/"bad.png").write_bytes(b"")
    status, out, err = shell(capsys, "explain", photos, "--model", "tiny_digits", "--out", tmp_path/"a", "--method", "Gradient", "--json")
    rows = json.loads(out)
    assert status == 1 and len(rows) == 5 and err.count("bad.png") >= 1 and "1 of 5 could not be made" in err
    assert rows[-1]["classes"][0][0] == "3" and Path(rows[-1]["maps"]).exists()

def test_a_function_of_yours_in_the_folder_you_stand_in(photos, tmp_path):
    "Run as a command, with weights beside it"
    (tmp_path/"mine.py").write_text("from whitebox.models import TinyCNN, described\nfrom whitebox.data import Square\n"
                                    "def make(): return described(TinyCNN().build((1, 28, 28), 10), 'abcdefghij', Square(28, channels=1))\n")
    weights = ROOT/"whitebox"/"data"/"tinycnn_digits.safetensors"
    words = "explain", photos/"digit 3.png", "--model", "mine.make", "--weights", weights, "--out", "out", "--target", "d"
    done = subprocess.run([sys.executable, "-c", "import sys; from whitebox.cli import main; sys.exit(main(sys.argv[1:]))", *words], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "digit 3.png: d 9" in done.stdout, done.stderr

def test_the_table_of_methods_is_filtered(capsys):
    "R120: every word gives the methods it is said of, two words those of both"
    rows = json.loads(shell(capsys, "methods", "--json")[1])
    words = lambda r: {r[a] for a in ("scope", "access", "timing", "generality")} | set(r["needs"].split(", ")) | set(r["claims"].split(", ")) - {""}
    every = set().union(*map(words, rows))
    for a in every:
        for b in every:
            got = [r["name"] for r in json.loads(shell(capsys, "methods", "--json", "--filter", a, "--filter", b)[1])]
            assert got == [r["name"] for r in rows if {a, b} <= words(r)]
    status, _, err = shell(capsys, "methods", "--filter", "whitebox")
    assert status == 2 and "Did you mean white-box" in err
    plain = shell(capsys, "methods")[1].splitlines()
    assert len(plain) == len(rows) + 1 and all(r["name"] in line and str(r["passes"]) in line for r, line in zip(rows, plain[1:]))

# ---- real weights

@pytest.mark.data
@pytest.mark.parametrize("name, weights", [("squeezenet1_1", "weights/squeezenet1_1.npz"), ("efficientnet_lite0", "weights/efficientnet_lite0.pth")])
def test_a_photograph_is_explained(name, weights, tmp_path):
    from test_hub import needed
    model = hub(name, needed(weights))
    rows = explain(model, [needed("photos/coffee.png"), needed("photos/chelsea.png")], [GradCAM(), IntegratedGradients(steps=4)], tmp_path/"a", "espresso")
    assert states(rows) == {"new": 4} and rows[0]["classes"][0][0] == "espresso" and {r["explained"] for r in rows} == {"espresso"}
    cup, cat = (load_maps(rows[k]["maps"]) for k in (0, 2))
    assert cup.maps.shape == (1, 1, 224, 224) and cup.maps.max() > 0 and cup.probabilities[0, 967] > .9 > cat.probabilities[0, 967]
