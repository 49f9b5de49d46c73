"The helpers under tools/ and the workflows keep what they promise."
import copy, importlib.util, json, os, re, shutil, subprocess
from pathlib import Path

import nb, pytest, readme, yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT/".github"/"workflows").glob("*.yaml"))

def cell(cid, source, text=None):
    "A code cell, with `text` as its stored output"
    outputs = [] if text is None else [dict(output_type="stream", name="stdout", text=[text])]
    return dict(cell_type="code", id=cid, metadata={}, execution_count=None, outputs=outputs, source=source.splitlines(True))

def book(*cells):
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return dict(cells=list(cells), metadata=kernel, nbformat=4, nbformat_minor=5)

def page():
    title = dict(cell_type="markdown", id="aa", metadata={}, source=["# Title\n", "\n", "> Claim, with a # in it"])
    return book(title, cell("bb", "x = 1\nprint(x)", "1\n"), cell("cc", "#| hide\ny = 2\n\nprint(y)", "2\n"))

def test_text_form_gives_back_ids_sources_and_outputs():
    was = page()
    assert nb.from_text(nb.to_text(was), was) == was

@pytest.mark.parametrize("path", sorted((ROOT/"nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_text_form_gives_back_every_notebook(path):
    was = nb.load(path)
    now = nb.from_text(nb.to_text(was), was)
    for a, b in zip(was["cells"], now["cells"], strict=True):
        assert [a["cell_type"], a["id"], "".join(a["source"]), a.get("outputs")] == [b["cell_type"], b["id"], "".join(b["source"]), b.get("outputs")]

def test_an_edited_cell_loses_its_own_outputs_only():
    was = page()
    now = nb.from_text(nb.to_text(was).replace("x = 1", "x = 3"), was)
    assert [c.get("outputs") for c in now["cells"]] == [None, [], was["cells"][2]["outputs"]]

def test_a_new_cell_gets_an_id_that_depends_on_the_text_only():
    text = nb.to_text(page()) + "\n# %%\nz = 3\n"
    ids = [[c["id"] for c in nb.from_text(text, page())["cells"]] for _ in range(2)]
    assert ids[0] == ids[1] and ids[0][:3] == ["aa", "bb", "cc"] and re.fullmatch("[0-9a-f]{8}", ids[0][3])

def test_two_cells_of_one_id_come_apart():
    now = nb.from_text("# %% id=aa\nx = 1\n\n# %% id=aa\ny = 2\n")
    assert len({c["id"] for c in now["cells"]}) == 2

def test_saved_form_is_the_one_of_nbdev(tmp_path):
    nb.save(page(), tmp_path/"a.ipynb")
    text = (tmp_path/"a.ipynb").read_text(encoding="utf-8")
    assert text == json.dumps(page(), sort_keys=True, indent=1, ensure_ascii=False) + "\n"

def test_readme_shows_code_and_outputs_and_moves_links(tmp_path):
    was = copy.deepcopy(page())
    was["cells"][0]["source"] = ["See [values](01_value.ipynb#keys) and [law](../CONTRIBUTING.md), ![map](images/a.png), [out](https://pytorch.org)."]
    nb.save(was, tmp_path/"index.ipynb")
    assert readme.render(tmp_path/"index.ipynb") == (
        "See [values](nbs/01_value.ipynb#keys) and [law](CONTRIBUTING.md), ![map](nbs/images/a.png), [out](https://pytorch.org).\n\n"
        "```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n")

def test_sidebar_has_a_section_for_every_numbered_page():
    import docs
    listed = [page for _, pages in docs.sections(ROOT/"nbs") for page in pages]
    assert sorted(listed) == sorted(p.relative_to(ROOT/"nbs").as_posix() for p in (ROOT/"nbs").rglob("*.ipynb")
                                    if p.name != "index.ipynb" and ".ipynb_checkpoints" not in p.parts)

def test_docs_finds_broken_links_and_placeholders(tmp_path):
    import docs
    (tmp_path/"a.html").write_text('<a href="b.html#x">b</a><a href="a.html">a</a> <a href="https://docs.' + 'example.org/x">x</a>')
    assert [link for _, link in docs.broken_links(tmp_path)] == ["b.html#x"]
    assert len(list(docs.placeholders(tmp_path))) == 1
    assert not docs.PLACEHOLDER.search("for example. Another, e.g. an @example or examples.html")

def works(command):
    "Whether the first word of a shell command can be run here"
    words = command.split()
    if words[0] in {"sh", "bash"}: return (ROOT/words[1]).exists()
    if words[0] == "make": return all(re.search(rf"^{w}:", (ROOT/"Makefile").read_text(), re.M) for w in words[1:] if "=" not in w)
    if words[:2] == ["python", "-m"]: return importlib.util.find_spec(words[2]) is not None
    if words[0] == "python": return (ROOT/words[1]).exists()
    return shutil.which(words[0]) is not None or (ROOT/words[0]).exists()

@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_call_what_exists(path):
    flow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert True in flow and flow["permissions"]["contents"] == "read"      # YAML reads the key `on` as true
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    lines = [line.strip() for step in steps for line in step.get("run", "").splitlines() if line.strip()]
    assert lines and [line for line in lines if not works(line)] == []

def test_make_lists_its_targets():
    text = (ROOT/"Makefile").read_text(encoding="utf-8")
    assert ".DEFAULT_GOAL := help" in text
    for target in "help tour explore test test-slow docs export bench clean".split():
        assert re.search(rf"^{target}:.*## ", text, re.M), target

@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_an_old_python_is_refused_before_anything_is_made(tmp_path):
    old = tmp_path/"python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.4 && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["sh", "tools/venv.sh", str(tmp_path/"venv"), ""], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PY": str(old)})
    assert done.returncode == 1 and "Python 3.11 or newer is needed" in done.stderr and "3.10.4" in done.stderr
    assert not (tmp_path/"venv").exists()
