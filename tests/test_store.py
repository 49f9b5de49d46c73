"Faults of a store: killed, damaged, full, read-only, linked, raced. What is visible stays whole, or is seen not to be."
import errno
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
import numpy as np
import pytest
resource = pytest.importorskip("resource", reason="these faults are made by POSIX calls")
import torch
from whitebox.errors import BadValue, StoreConflict
from whitebox.store import Store, _MACHINE

fork = multiprocessing.get_context("fork")
K = "ab12cd34" * 8

def key(i): return f"{i:08x}"
def arrays(i): return {"a": np.full(20_000 + i, i), "b": np.arange(i % 7), "c": torch.full((2, 3), float(i))}
def fill(store, n):
    for i in range(n): store.put(key(i), f"Cell({i})", arrays(i), seconds=i / 10)
def empty(folder): return not folder.exists() or not list(folder.iterdir())

@pytest.fixture
def store(tmp_path): return Store(tmp_path / "runs")

def in_child(f, *args):
    "What `f` answers in a forked process."
    def run(end): end.send(f(*args))
    ours, theirs = fork.Pipe()
    child = fork.Process(target=run, args=(theirs,))
    child.start()
    theirs.close()
    try: return ours.recv()
    finally: child.join()

def refused(store, k, made):
    "The refusal that a put meets."
    try: store.put(k, "Cell()", made)
    except StoreConflict as e: return str(e)

# --- whole or absent

def test_kill_9_in_the_middle_of_many_puts(store):
    def write(start):
        for i in range(start, 10**6): store.put(key(i), f"Cell({i})", arrays(i))
    rng, last, swept = random.Random(0), 0, 0
    for _ in range(25):
        start = len(store.keys())
        child = fork.Process(target=write, args=(start,))
        child.start()
        while len(store.keys()) == start: time.sleep(.001)         # count kills from the first finished cell on
        time.sleep(rng.random() * .03)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        now = store.keys()
        assert len(now) > last and now == [key(i) for i in range(len(now))]
        last, swept = len(now), swept + len(store.sweep())
    assert swept > 0 and empty(store.root / "tmp") and empty(store.root / "damaged")
    assert store.verify() == []
    for i in range(last):
        for name, a in arrays(i).items(): assert np.array_equal(store.get(key(i))[name], a)

def test_60_flipped_bits_are_found(store, capsys):
    fill(store, 60)
    before = {k: {n: a.tobytes() for n, a in store.get(k).items()} for k in store.keys()}
    rng = random.Random(1)
    for i in range(60):
        file = rng.choice(sorted((store.root / "objects" / "00" / key(i)).iterdir()))
        data = bytearray(file.read_bytes())
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        old = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))      # the disk does not tell
    assert store.verify() == [key(i) for i in range(60)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 60 and all("not what was written; it will be computed again." in line for line in said)
    assert store.keys() == [] and len(list((store.root / "damaged").iterdir())) == 60
    fill(store, 60)
    assert {k: {n: a.tobytes() for n, a in store.get(k).items()} for k in store.keys()} == before

@pytest.mark.parametrize("harm", [
    lambda f: (f / "a.npy").write_bytes(b""), lambda f: (f / "a.npy").unlink(), lambda f: (f / "meta.json").unlink(),
    lambda f: (f / "meta.json").write_text("{"), lambda f: (f / "meta.json").write_text("[1]"),
    lambda f: (f / "meta.json").write_bytes(b"\xff"),
    lambda f: (f / "meta.json").write_text((f / "meta.json").read_text().replace("Cell(1)", "Cell(2)"))])
def test_any_harm_is_seen_and_mended_by_the_next_put(store, harm, capsys):
    fill(store, 2)
    harm(store.root / "objects" / "00" / key(1))
    store.put(key(1), "Cell(1)", arrays(1))
    assert np.array_equal(store.get(key(1))["a"], arrays(1)["a"])
    assert "set aside" in capsys.readouterr().err and len(list((store.root / "damaged").iterdir())) == 1

def test_another_process_does_not_trust_what_this_one_checked(store):
    fill(store, 1)
    store.get(key(0))
    file = store.root / "objects" / "00" / key(0) / "a.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    code = f"from whitebox.store import Store; print(Store({str(store.root)!r}).get({key(0)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "None\n" and "set aside a.npy of 0000" in done.stderr

def test_an_object_under_the_key_of_another_is_not_believed(store):
    fill(store, 2)
    shutil.rmtree(store.root / "objects/00" / key(1))
    shutil.copytree(store.root / "objects/00" / key(0), store.root / "objects/00" / key(1))
    assert store.get(key(1)) is None and store.get(key(0)) is not None

# --- several writers

def test_two_writers_of_equal_bytes_on_one_key(store):
    def write():
        for i in range(40): store.put(key(i), f"Cell({i})", arrays(i), seconds=random.random())
        return True
    writers = [fork.Process(target=write) for _ in range(4)]
    for w in writers: w.start()
    for w in writers: w.join()
    assert [w.exitcode for w in writers] == [0] * 4
    assert len(store.keys()) == 40 and store.verify() == [] and empty(store.root / "tmp") and empty(store.root / "unstable")

def test_threads_on_one_key(store):
    threads = [threading.Thread(target=fill, args=(store, 10)) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(store.keys()) == 10 and empty(store.root / "tmp")

def test_other_bytes_under_one_key(store):
    store.put(K, "Maps(RISE())", {"a": np.zeros(3)})
    with pytest.raises(StoreConflict, match=r"Maps\(RISE\(\)\) gave other bytes than those stored on \d{4}-\d\d-\d\d: something"):
        store.put(K, "Maps(RISE())", {"a": np.ones(3)})
    assert store.get(K)["a"].sum() == 0 and store.ls()[0]["unstable"]
    assert np.load(next((store.root / "unstable").glob("*/a.npy"))).sum() == 3
    with pytest.raises(StoreConflict): store.put(K, "Maps(RISE())", {"b": np.zeros(3)})
    with pytest.raises(StoreConflict): store.put(K, "Maps(RISE())", {"a": np.zeros(3, dtype=np.float32)})

def test_notes_do_not_count(store):
    store.put(K, "Cell()", {"a": np.zeros(3)}, seconds=1., host="here", inputs={"x": ("a", np.float64(2))}, odd=Path("p"))
    store.put(K, "Cell()", {"a": np.zeros(3)}, seconds=2., host="there")
    assert store.meta(K)["host"] == "here" and store.meta(K)["inputs"] == {"x": ["a", 2]} and store.meta(K)["odd"] == "p"

# --- disks that do not take it

def test_a_write_that_hits_the_limit_leaves_nothing(store):
    fill(store, 1)
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return refused(store, K, {"small": np.ones(9), "large": np.ones(100_000)})
    said = in_child(limited)
    assert "800,072 bytes needed" in said and "make room or give a folder" in said and "nothing half-written" in said
    assert not store.has(K) and empty(store.root / "tmp") and store.keys() == [key(0)]

def test_a_full_disk_leaves_nothing():
    folder = tempfile.mkdtemp()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode == 0
    if not mounted:
        os.rmdir(folder)
        pytest.skip("a small disk needs the right to mount one")
    try:
        store = Store(Path(folder) / "runs")
        with pytest.raises(StoreConflict, match="does not take"):
            for i in range(100): store.put(key(i), f"Cell({i})", {"a": np.full(20_000, i)})
        kept = store.keys()
        assert 3 <= len(kept) <= 6 and empty(store.root / "tmp") and store.verify() == []
        store.gc(kept[1:])
        store.put(K, "Cell()", {"a": np.zeros(10_000)})                # goes on once there is room
    finally:
        subprocess.run(["umount", "-l", folder])
        os.rmdir(folder)

@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_any_failing_call_leaves_nothing(store, monkeypatch, call, number):
    fill(store, 1)
    def broken(*_, **__): raise OSError(number, os.strerror(number))
    with monkeypatch.context() as m:
        m.setattr(os, call, broken)
        with pytest.raises(StoreConflict, match=f"{os.strerror(number)}.*make room"): store.put(K, "Cell()", arrays(1))
        if call == "mkdir":
            with pytest.raises(StoreConflict): store.fail(K, reason="x")
    assert not store.has(K) and empty(store.root / "tmp") and store.verify() == []
    store.put(K, "Cell()", arrays(1))

def test_ctrl_c_leaves_nothing(store, monkeypatch):
    def interrupted(_): raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt): store.put(K, "Cell()", arrays(1))
    assert not store.has(K) and empty(store.root / "tmp")

def test_a_read_only_store_can_be_read():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    store = Store(folder / "runs")
    try:
        fill(store, 2)
        file = store.root / "objects/00" / key(1) / "a.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        for path in [store.root, *store.root.rglob("*")]: path.chmod(0o555 if path.is_dir() else 0o444)
        def visit():
            if os.geteuid() == 0: os.setuid(65534)                     # root may write anywhere
            return store.has(key(0)), store.get(key(0))["a"].sum(), store.get(key(1)), refused(store, K, {"a": np.ones(3)})
        there, total, damaged, said = in_child(visit)
        assert there and total == 0 and damaged is None and "Permission denied" in said
        assert store.keys() == [key(0), key(1)]
    finally:
        for path in [store.root, *store.root.rglob("*")]: path.chmod(0o755)
        shutil.rmtree(folder)

# --- links, names, pickles

@pytest.mark.parametrize("link", ["objects", "objects/00", f"objects/00/{key(0)}", f"objects/00/{key(0)}/a.npy",
                                  f"objects/00/{key(0)}/meta.json"])
def test_links_are_refused(store, link, tmp_path):
    fill(store, 1)
    shutil.move(store.root / link, tmp_path / "elsewhere")
    (store.root / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreConflict, match="is a symbolic link: copy the folder"): store.get(key(0))

@pytest.mark.parametrize("room", ["tmp", "failed"])
def test_links_are_refused_for_writing(store, room, tmp_path):
    store.root.mkdir()
    (store.root / room).symlink_to(tmp_path)
    with pytest.raises(StoreConflict, match="is a symbolic link"): store.fail(K)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]

@pytest.mark.parametrize("bad", ["../x", "..", "", "a/b", "a\\b", "a\0b", "CON", "nul", "Aux.txt", "com1", "LPT9.weight",
                                 "a:b", "a b", "a.", ".a", "x" * 101, "ｆ", "é", "a\n", 3, None])
def test_names_that_some_system_refuses(store, bad):
    with pytest.raises(BadValue, match="is not allowed"): store.put(K, "Cell()", {bad: np.ones(1)})
    assert not store.root.exists()

@pytest.mark.parametrize("bad", ["", "ab", "../../../etc/passwd", K.upper(), K + "\n", "g" * 64, "a" * 65, "0x12345678", None, 12345678])
def test_keys_that_are_no_keys(store, bad):
    for call in (store.has, store.get, store.meta, store.fail, lambda k: store.put(k, "", {}), lambda k: store.gc([k])):
        with pytest.raises(BadValue, match="hexadecimal"): call(bad)

def test_weights_keep_their_names_and_kinds(store):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    store.put(K, "Fit()", net.state_dict())
    back = {n: torch.tensor(np.array(a)) for n, a in store.get(K).items()}
    assert back.keys() == net.state_dict().keys()
    for n, w in net.state_dict().items(): assert torch.equal(back[n], w) and back[n].dtype == w.dtype

@pytest.mark.parametrize("a", [np.zeros((0, 3)), np.array(3.), np.array(["é", "bc"]), np.ones(2, bool), np.ones((3, 2), np.uint16).T,
                               np.array([1 + 2j]), [1, 2], 3.5, torch.ones(2, requires_grad=True), np.array([np.nan, np.inf])])
def test_every_kind_of_array_returns_as_it_was(store, a):
    store.put(K, "Cell()", {"a": a})
    want = a.detach().numpy() if isinstance(a, torch.Tensor) else np.asarray(a)
    got = store.get(K)["a"]
    assert got.dtype == want.dtype and got.shape == want.shape and not got.flags.writeable
    assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")

@pytest.mark.parametrize("bad", [np.array([{}]), np.array([(1, None)], dtype=[("a", int), ("b", object)]), object(), [[1], [1, 2]],
                                 torch.ones(1, dtype=torch.bfloat16), torch.ones(2, 2).to_sparse()])
def test_objects_are_refused(store, bad):
    with pytest.raises(BadValue, match="array 'x'"): store.put(K, "Cell()", {"x": bad})
    assert not store.root.exists()

def test_layout_of_memory_does_not_count(store):
    a = np.arange(6.).reshape(2, 3)
    store.put(K, "Cell()", {"a": a})
    store.put(K, "Cell()", {"a": np.asfortranarray(a)})
    store.put(K, "Cell()", {"a": torch.tensor(a)})

def test_a_store_travels_as_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = Store("runs")
    here.put(K, "Cell()", {"a": np.ones(1)})
    sent = pickle.dumps(here)
    monkeypatch.chdir("/")
    there = pickle.loads(sent)
    assert there == here and hash(there) == hash(here) and there.has(K) and there.root == tmp_path / "runs"
    assert eval(repr(here)) == here

# --- failures, sweep, gc

def test_failures_count_attempts_and_end_with_success(store):
    assert store.failures() == {} and store.keys() == [] and store.ls() == [] and store.sweep() == [] and store.verify() == []
    for i in range(3): store.fail(K, reason=f"ValueError: {i}", traceback="…\n")
    assert store.failures() == {K: {"reason": "ValueError: 2", "traceback": "…\n", "key": K, "attempts": 3}}
    assert not store.has(K) and store.keys() == []
    (store.root / "failed" / f"{K}.json").write_text("{")
    assert store.failures() == {K: {}}
    store.fail(K, reason="again")
    assert store.failures()[K]["attempts"] == 1
    store.put(K, "Cell()", {"a": np.ones(1)})
    assert store.failures() == {}

def test_sweep_spares_the_living_and_other_machines(store):
    tmp = store.root / "tmp"
    dead = fork.Process(target=int)
    dead.start()
    dead.join()
    for name in (f"{dead.pid}-{_MACHINE}-aa", f"{os.getpid()}-{_MACHINE}-bb", "x-y-z"): (tmp / name).mkdir(parents=True)
    for name in ("cc", "dd"): (tmp / f"{dead.pid}-ffffff-{name}").mkdir()
    os.utime(tmp / f"{dead.pid}-ffffff-dd", (0, 0))
    assert store.sweep() == sorted([f"{dead.pid}-{_MACHINE}-aa", f"{dead.pid}-ffffff-dd"])
    assert len(list(tmp.iterdir())) == 3

def test_gc_keeps_what_it_is_told(store):
    fill(store, 5)
    held = store.get(key(4))["a"]
    assert store.gc(keep=[key(0), key(1), K]) == [key(2), key(3), key(4)]
    assert store.keys() == [key(0), key(1)] and empty(store.root / "tmp") and store.verify() == []
    if os.name != "nt": assert held.sum() == 4 * 20_004                # who still reads keeps the bytes

def test_ls_says_what_lies_there(store):
    fill(store, 3)
    assert [line["text"] for line in store.ls()] == ["Cell(0)", "Cell(1)", "Cell(2)"]
    for line in store.ls():
        folder = store.root / "objects" / line["key"][:2] / line["key"]
        assert line["bytes"] == sum(f.stat().st_size for f in folder.glob("*.npy")) and line["arrays"] == ["a", "b", "c"]
