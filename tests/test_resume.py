"A study that is killed, interrupted, damaged or shared between processes ends in the bytes of one that was left alone."
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
import pytest
import torch
pytest.importorskip("resource", reason="these faults are made by POSIX calls")
from whitebox import table
from whitebox.attribution.controls import Random
from whitebox.attribution.gradient import Gradient
from whitebox.data.sources import Digits
from whitebox.evaluation.blind_roar import BlindROAR
from whitebox.evaluation.retraining import KAR, ROAR
from whitebox.models.simple_cnn import TinyCNN
from whitebox.models.training import Recipe
from whitebox.store import Store
from whitebox.study import Study, cells, keep

ROOT = Path(__file__).resolve().parent.parent
fork = multiprocessing.get_context("fork")

@cache
def warm():
    "The images, after all imports that a child would need: so that a kill meets work."
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    return Digits(size=8).load().subset(60, 10, 60)

def study(store):
    return Study(keep(store, warm()), TinyCNN(4), (Gradient(),), Recipe(epochs=1), (ROAR((.5,)), KAR((.5,))), (Random(),),
                 BlindROAR(longer=1), replicates=2)

def run(root, **how): study(Store(root)).run(Store(root), **how)

def child(root):
    "A process that runs the study, and ends with 9 when it is interrupted."
    def go():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try: run(root)
        except KeyboardInterrupt: os._exit(9)
    warm()
    process = fork.Process(target=go)
    process.start()
    return process

def until(process, store, more):
    "Wait for so many further objects, or for the end."
    before = len(store.keys())
    while process.is_alive() and len(store.keys()) < before + more: time.sleep(.002)

def payload(store): return {key: store.meta(key)["files"] for key in store.keys()}
def empty(store, *rooms): return not any(list((store.root / room).glob("*")) for room in rooms)
def numbers(store): return study(store).table(store).drop(columns="seconds")

def assert_same(store, other):
    "The same objects and the same table."
    assert payload(store) == payload(other)
    assert numbers(store).equals(numbers(other)) and "not run yet" not in set(numbers(store).note)

@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The store of a run that nobody disturbed."
    root = tmp_path_factory.mktemp("alone") / "runs"
    process = child(root)
    process.join()
    assert process.exitcode == 0
    return Store(root)

@pytest.fixture
def copy(alone, tmp_path): return Store(shutil.copytree(alone.root, tmp_path / "runs"))

def test_kill_9_until_whole(alone, tmp_path):
    store, rng, had, kills = Store(tmp_path / "runs"), random.Random(0), set(), 0
    wanted = set(alone.keys())
    while had != wanted:
        process = child(store.root)
        until(process, store, 1)                               # a kill counts from the first finished cell on
        process.join(rng.random() * .1)
        kills += process.is_alive()
        process.kill()
        process.join()
        now = set(store.keys())
        assert had < now <= wanted and all(store.get(key) is not None for key in now)
        had = now
    run(store.root)
    assert kills >= 3 and empty(store, "tmp", "damaged", "unstable", "failed")
    assert_same(store, alone)

@pytest.mark.parametrize("file", ["arrays", "meta.json"])
def test_a_flipped_bit_is_found_set_aside_and_computed_again(alone, copy, file, capsys):
    rng = random.Random(1)
    harmed = rng.sample(sorted(cells(study(copy).settled(copy))), 5)
    for key in harmed:
        path = rng.choice(sorted((copy.root / "objects" / key[:2] / key).glob("*.npy" if file == "arrays" else file)))
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    assert sorted(copy.verify()) == sorted(harmed) == sorted(p.name[:64] for p in (copy.root / "damaged").iterdir())
    assert capsys.readouterr().err.count("it will be computed again") == 5
    assert len(study(copy).status(copy).open) == 5
    run(copy.root)
    assert_same(copy, alone)

@pytest.mark.parametrize("file", ["right.npy", "meta.json"])
def test_a_flipped_bit_that_nobody_looked_for(alone, copy, file, capsys):
    "Reading meets it; the next run mends it."
    key = next(k for k, c in cells(study(copy).settled(copy)).items() if c.kind == "retrain Holes")
    path = copy.root / "objects" / key[:2] / key / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    numbers(copy)
    assert not copy.has(key) and "set aside" in capsys.readouterr().err
    run(copy.root)
    assert_same(copy, alone)

def test_a_run_mends_a_record_that_cannot_be_read(alone, copy, capsys):
    key = next(k for k, c in cells(study(copy).settled(copy)).items() if c.kind == "retrain Holes")
    path = copy.root / "objects" / key[:2] / key / "meta.json"
    path.write_bytes(path.read_bytes()[:-20])
    run(copy.root)
    assert "set aside meta.json" in capsys.readouterr().err
    assert_same(copy, alone)

def test_ctrl_c_leaves_a_store_that_goes_on(alone, tmp_path):
    store = Store(tmp_path / "runs")
    process = child(store.root)
    until(process, store, 6)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 9 and empty(store, "tmp", "damaged", "failed")
    assert 6 <= len(store.keys()) < len(alone.keys())
    child(store.root).join()
    assert_same(store, alone)

@pytest.mark.slow
def test_two_workers_give_the_same_bytes(alone, tmp_path):
    store = Store(tmp_path / "runs")
    run(store.root, executor=2)
    assert_same(store, alone)

def test_a_method_of_a_notebook_is_refused_by_workers(tmp_path):
    code = f"""
from dataclasses import dataclass, replace
from whitebox.method import Method
@dataclass(frozen=True)
class Mine(Method):
    def attribute(self, p, x, target): return x
import sys; sys.path.insert(0, {str(ROOT / "tests")!r})
from test_resume import Store, study
store = Store({str(tmp_path)!r})
try: replace(study(store), methods=(Mine(),)).run(store, executor=2)
except Exception as error: print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("BadValue Mine is defined in this notebook, and a new process cannot import it."), done.stderr
    assert "Write it to a file" in done.stdout and len(Store(tmp_path).keys()) == 1
