"Every notebook runs from top to bottom; each is one test."
import os, re, shutil, subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for folder in ("", "tutorials", "reproductions")
                   for p in (ROOT/"nbs"/folder).glob("*.ipynb") if p.name[0] not in "._")
SLOW = [n for n in NOTEBOOKS if re.search(r'"#\s?\|\s*slow\b', (ROOT/n).read_text(encoding="utf-8"))]

def run(notebook, *options):
    "The output of nbdev-test for `notebook`, refused where a cell fails"
    done = subprocess.run([shutil.which("nbdev-test"), notebook, "--n-workers", "0", *options], cwd=ROOT, text=True, timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"WHITEBOX_STATIC": "1"})
    if done.returncode or "Success" not in done.stdout: pytest.fail(f"{notebook}\n{done.stdout[-6000:]}", pytrace=False)

@pytest.mark.notebook
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook(notebook): run(notebook)

@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("notebook", SLOW)
def test_slow_cells(notebook): run(notebook, "--flags", "slow")
