"Laws of the repository as a whole: what may import what, what stands twice, what a module may do."
import ast, configparser, functools, json, os, re, shutil, subprocess, sys, tomllib, zipfile
from pathlib import Path

import pytest, readme, yaml

ROOT = Path(__file__).resolve().parent.parent
HAND_WRITTEN = {"whitebox/__init__.py", "whitebox/data/__init__.py", "whitebox/models/__init__.py"}
LATE = "matplotlib pandas scipy sklearn skimage ipywidgets torchvision IPython".split()
DOORS = {"attribution", "evaluation", "data", "models"}

def git_free_copy(to):
    "The tree without environments and what was built"
    built = shutil.ignore_patterns(".git", "_docs", "_proc", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "whitebox-tour")
    def ignore(folder, names): return built(folder, names) | {n for n in names if (Path(folder)/n/"pyvenv.cfg").exists()}
    shutil.copytree(ROOT, to, symlinks=True, ignore=ignore)
    return to

@functools.cache
def notebooks():
    "Every notebook: path from the root -> its cells"
    paths = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    return {p.relative_to(ROOT).as_posix(): json.loads(p.read_text(encoding="utf-8"))["cells"] for p in paths}

def refuse(found):
    "Fail with the whole list, one a line"
    if found := list(found): pytest.fail("\n".join(found), pytrace=False)

def source(cell): return "".join(cell["source"])
def code(cells): return [source(c) for c in cells if c["cell_type"] == "code"]
def exported(text): return re.match(r"#\s?\|\s*export", text) is not None

@functools.cache
def modules():
    "Every module below whitebox/: path from the root -> its tree"
    paths = sorted(p for p in (ROOT/"whitebox").rglob("*.py") if p.name != "_modidx.py")
    return {p.relative_to(ROOT).as_posix(): ast.parse(p.read_text(encoding="utf-8")) for p in paths}

def home(cells):
    "The module a notebook is exported to, as `attribution.gradient`, or None"
    return next((m[1] for text in code(cells) if (m := re.search(r"#\s?\|\s*default_exp:?\s+(\S+)", text))), None)

def numbered():
    "(number, module, cells) of each numbered notebook that is exported"
    for path, cells in notebooks().items():
        if (m := re.fullmatch(r"nbs/(\d\d)_\w+\.ipynb", path)) and home(cells): yield int(m[1]), home(cells), cells

def where(path, node): return f"{path}:{node.lineno}"

# ---- what may import what

def imports(tree, package="whitebox"):
    "The modules of the package that `tree` imports, as `attribution.gradient`"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package + "."): yield node.module.removeprefix(package + ".")
        if isinstance(node, ast.Import): yield from (a.name.removeprefix(package + ".") for a in node.names if a.name.startswith(package + "."))

def upward(pages):
    "Every exported import that points to the same or a higher number, or from below 70 to a door"
    number = {module.removesuffix(".__init__"): n for n, module, _ in pages}
    for n, module, cells in pages:
        for other in imports(ast.parse("\n".join(filter(exported, code(cells))))):
            door = n < 70 and other in DOORS and not module.endswith("__init__")
            if number.get(other, -1) >= n or door: yield f"{n} {module} imports {number.get(other, '')} {other}"

def test_a_notebook_imports_only_from_lower_numbers():
    refuse(upward(list(numbered())))

def test_the_direction_law_sees_an_upward_import_and_a_door():
    def page(text): return [dict(cell_type="code", source=["#| export\n", text])]
    pages = [(10, "a", page("from whitebox.b import x")), (20, "b", page("from whitebox.a import y")), (30, "c", page("from whitebox.models import z"))]
    assert list(upward(pages)) == ["10 a imports 20 b", "30 c imports  models"]

def test_page_names_are_unique():
    stems = [(os.path.dirname(p), re.sub(r"^\d+[a-zA-Z0-9]*_", "", os.path.basename(p))) for p in notebooks()]
    assert sorted(stems) == sorted(set(stems))

def test_import_loads_nothing_heavy_but_torch():
    call = f"import whitebox, sys; print([m for m in {LATE!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", call], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"

# ---- modules are what the notebooks say

def test_no_module_without_its_notebook():
    made = {"whitebox/" + home(cells).replace(".", "/") + ".py" for cells in notebooks().values() if home(cells)}
    empty = {path for path, tree in modules().items() if path.endswith("__init__.py") and not tree.body}
    refuse(sorted(set(modules()) - made - HAND_WRITTEN - empty))

def test_modules_equal_a_fresh_export(tmp_path):
    copy = git_free_copy(tmp_path/"tree")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    subprocess.run([shutil.which("nbdev-export")], cwd=copy, check=True, env=env, capture_output=True)
    def read(root): return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in (root/"whitebox").rglob("*.py")}
    now, fresh = read(ROOT), read(copy)
    refuse(f"{p} differs: run make export" for p in sorted(now | fresh) if now.get(p) != fresh.get(p))

def test_readme_equals_a_fresh_rendering():
    assert (ROOT/"README.md").read_text(encoding="utf-8") == readme.render(ROOT/"nbs"/"index.ipynb"), "run make export"

# ---- notebooks

def outputs(cells):
    for cell in cells:
        for out in cell.get("outputs", []): yield cell, out

def test_notebooks_are_small():
    size = {path: (ROOT/path).stat().st_size for path in notebooks()}
    refuse(f"{path} {n} bytes" for path, n in size.items() if n >= 400_000)
    assert sum(size.values()) < 25_000_000

def test_an_import_cell_holds_nothing_else():
    mixed = []
    for path, cells in notebooks().items():
        for text in filter(lambda t: not t.lstrip().startswith(("%", "!")), code(cells)):
            try: body = ast.parse(text).body
            except SyntaxError: continue
            kinds = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
            if any(kinds) and not all(kinds) and "nbdev_export()" not in text: mixed.append(f"{path}: {text[:60]!r}")
    refuse(mixed)

def test_no_output_holds_a_widget():
    refuse(f"{path} {cell.get('id')}" for path, cells in notebooks().items() for cell, out in outputs(cells)
            if "application/vnd.jupyter.widget-view+json" in out.get("data", {}))

def test_no_output_names_a_machine():
    place = re.compile(r"(?<![\w/.:])/(?:home|root|Users|tmp|work|usr|opt|var|mnt)/\w|[A-Z]:\\\\?Users|site-packages|\bat 0x[0-9a-f]{6,}")
    def text(out): return json.dumps([out.get("text", ""), {k: v for k, v in out.get("data", {}).items() if k == "image/svg+xml" or not k.startswith("image/")}])
    refuse(f"{path} {cell.get('id')} {m[0]}" for path, cells in notebooks().items() for cell, out in outputs(cells)
            if (m := place.search(text(out))))

def test_no_output_is_an_error():
    refuse(f"{path} {cell.get('id')}" for path, cells in notebooks().items() for cell, out in outputs(cells) if out["output_type"] == "error")

# ---- public names

def public(tree):
    "The names of `__all__` that `tree` itself defines as class or function"
    listed = next((ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), [])
    return {n.name: n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name in listed}

def test_every_public_name_is_met_outside_the_cell_that_defines_it(record_property):
    "Refused where a name stands in no other cell; reported where it is used by exported code only and never shown"
    cells = [(text, frozenset(re.findall(r"\w+", text)), exported(text)) for page in notebooks().values() for text in map(source, page)]
    shown = frozenset().union(*(words for _, words, hidden in cells if not hidden))
    names = [(path, name) for path, tree in modules().items() for name in public(tree)]
    plumbing = [name for _, name in names if name not in shown]
    record_property("dial", f"public names that no page shows: {', '.join(plumbing) or 'none'}")
    refuse(f"{path} {name}" for path, name in names if name in plumbing and not any(
        name in words and not re.search(rf"^(def|class) {name}\b", text, re.M) for text, words, _ in cells))

def test_public_parameters_are_documented(record_property):
    "Reported, not refused: how many parameters of public functions carry their own comment"
    told = total = 0
    for path, tree in modules().items():
        lines = (ROOT/path).read_text(encoding="utf-8").splitlines()
        for node in public(tree).values():
            if not isinstance(node, ast.FunctionDef): continue
            for arg in node.args.args + node.args.kwonlyargs:
                total += 1; told += "#" in lines[arg.end_lineno - 1][arg.end_col_offset:]
    record_property("dial", f"documented parameters of public functions: {told} of {total}")

def test_exported_cells_fit_a_screen(record_property):
    "Reported, not refused: exported cells of more than 30 lines"
    long = [f"{path.removeprefix('nbs/')} ({text.count(chr(10)) + 1})" for path, cells in notebooks().items() for text in code(cells)
            if exported(text) and text.count("\n") + 1 > 31]
    record_property("dial", f"exported cells of more than a screen: {', '.join(long) or 'none'}")

# ---- what a module may do

def family(trees):
    "Names that stand for a WhiteBoxError: its subclasses, and functions that return nothing else"
    names, nodes = {"WhiteBoxError"}, [n for tree in trees for n in ast.walk(tree)]
    def called(value): return isinstance(value, ast.Call) and last(value.func) in names
    for _ in range(4):
        names |= {n.name for n in nodes if isinstance(n, ast.ClassDef) and any(last(b) in names for b in n.bases)}
        for n in nodes:
            if isinstance(n, ast.FunctionDef) and (given := [r.value for r in ast.walk(n) if isinstance(r, ast.Return)]) and all(map(called, given)):
                names.add(n.name)
    return names

def last(node): return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")

ALLOWED = {"NotImplementedError", "AttributeError", "StopIteration", "KeyboardInterrupt", "SystemExit"}

def foreign(trees):
    "Each raise that is neither of the family, nor allowed, nor raises again what was caught"
    known = family(trees.values()) | ALLOWED
    for path, tree in trees.items():
        caught = {n.name for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Raise) or node.exc is None: continue
            what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(what, ast.Attribute) and what.attr == "with_traceback": what = what.value
            if last(what) not in known and not (isinstance(what, ast.Name) and what.id in caught): yield f"{where(path, node)} {ast.unparse(node)[:80]}"

def test_every_raise_is_one_of_ours():
    refuse(foreign(modules()))

def test_the_raise_law_sees_a_foreign_error():
    text = "class A(WhiteBoxError): pass\ndef bad(x): return A(x)\nraise bad(1)\nraise A(2)\ntry: f()\nexcept B as e: raise e\nraise ValueError(3)"
    assert list(foreign({"x.py": ast.parse(text)})) == ["x.py:7 raise ValueError(3)"]

def unsafe(node):
    "Why a call is refused, or None"
    if not isinstance(node, ast.Call): return None
    name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    if name in {"eval", "exec"}: return name
    if re.fullmatch(r"(c?[pP]ickle|dill|cloudpickle|joblib)\.(load|loads|Unpickler)", name): return name
    if name == "torch.load" and given.get("weights_only") != "True": return "torch.load without weights_only=True"
    if given.get("allow_pickle") == "True": return "allow_pickle=True"
    if given.get("shell") == "True" or name == "os.system": return "a shell"
    if last(node.func) == "mktemp": return "mktemp"

def test_nothing_unsafe_is_called():
    refuse(f"{where(path, node)} {why}" for path, tree in modules().items() for node in ast.walk(tree) if (why := unsafe(node)))

def test_user_input_is_not_checked_by_assert():
    refuse(where(path, node) for path, tree in modules().items() for node in ast.walk(tree) if isinstance(node, ast.Assert))

# ---- what stands twice

@functools.cache
def settings():
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]

@functools.cache
def pyproject(): return tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))

def test_one_version():
    init = re.search(r'^__version__ = "(.+)"$', (ROOT/"whitebox/__init__.py").read_text(), re.M)[1]
    cited = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert {settings()["version"], init, cited} == {init}
    assert f"## {init}" in (ROOT/"CHANGELOG.md").read_text(encoding="utf-8")

def test_settings_and_pyproject_agree():
    ini, toml = settings(), pyproject()
    assert [ini["lib_name"], ini["description"], ">=" + ini["min_python"]] == [toml["project"][k] for k in ("name", "description", "requires-python")]
    assert [ini[k] for k in ("lib_path", "nbs_path", "doc_path")] == [toml["tool"]["nbdev"][k] for k in ("lib_path", "nbs_path", "doc_path")]
    assert ini["repo_url"] == toml["project"].get("urls", {}).get("Repository", "")

def test_no_placeholder_address():
    import docs
    assert list(docs.PLACEHOLDER.findall((ROOT/"README.md").read_text(encoding="utf-8"))) == []
    for name in ("settings.ini", "pyproject.toml", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        assert not docs.PLACEHOLDER.search((ROOT/name).read_text(encoding="utf-8")), name

def test_without_an_address_nothing_links_to_source():
    if settings()["repo_url"]: pytest.skip("the project has an address")
    assert "repository-code" not in (ROOT/"CITATION.cff").read_text(encoding="utf-8")
    assert "badge" not in (ROOT/"README.md").read_text(encoding="utf-8")

def test_readme_links_lead_somewhere():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s]+)", text)]
    assert [link for link in links if not (ROOT/link).exists()] == []

# ---- the package as it is shipped

@pytest.mark.slow
def test_wheel_holds_everything(tmp_path):
    "Built from the sdist; holds every file below whitebox/, and its command"
    copy = git_free_copy(tmp_path/"tree")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(tmp_path/"dist")], cwd=copy, check=True, capture_output=True)
    wheel, = (tmp_path/"dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {p.relative_to(copy).as_posix() for p in (copy/"whitebox").rglob("*") if p.is_file()}
    assert here - names == set() and "whitebox/py.typed" in names
    entry, = (n for n in names if n.endswith("entry_points.txt"))
    assert settings()["console_scripts"].replace("=", " = ") in zipfile.ZipFile(wheel).read(entry).decode()
