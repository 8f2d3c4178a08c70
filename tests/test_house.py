"""The house stands: imports obey the rules, the door opens fast, and it opens without what it does not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ntkla
from ntkla.linalg import errors
from tests.import_rules import broken

ROOT = Path(__file__).resolve().parents[1]


def test_imports_obey_the_rules():
    assert broken(ROOT) == []


CLEAN = {
    "linalg/backends/kernels.py": "def gram():\n    from csrc_triton import gram\n",
    "linalg/ops.py": "def gram(): ...",
    "forgetting/predict.py": "import ntkla.linalg.ops\n",
}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"linalg/a.py": "import ntkla.forgetting.predict"}, "the floor 'linalg' may import"),
        ({"linalg/a.py": "from ..forgetting import predict"}, "the floor 'linalg' may import"),
        ({"linalg/a.py": "def f():\n    from ntkla import models"}, "the floor 'linalg' may import"),
        ({"models/__init__.py": "from ntkla.forgetting.predict import x"}, "the floor 'models' may import"),
        ({"forgetting/a.py": "import ntkla.testing"}, "the floor 'forgetting' may import"),
        ({"__init__.py": "from ntkla import testing"}, "the floor 'ntkla' may import"),
        ({"testing/__init__.py": "", "app/a.py": "import ntkla.testing"}, "the floor 'app' may import"),
        ({"linalg/a.py": "import ntkla"}, "not the public door"),
        ({"linalg/a.py": "from ntkla.linalg import b", "linalg/b.py": "from . import a"}, "import each other"),
        ({"linalg/a.py": "def f():\n    import ntkla.linalg.b", "linalg/b.py": "import ntkla.linalg.a"}, "each other"),
        ({"linalg/backends/kernels.py": "import csrc_triton.gram"}, "only inside a function"),
        ({"linalg/a.py": "def f():\n    import csrc_triton"}, "only ntkla.linalg.backends.kernels may"),
        ({"linalg/ops.py": "def f():\n    import triton"}, "only csrc_triton imports triton"),
        ({"linalg/ridge.py": "import ntkla.linalg.eigenmodes"}, "solvers import no other solver"),
        ({"forgetting/a.py": "import matplotlib.pyplot as plt"}, "live in app only"),
        ({"linalg/a.py": "def f():\n    from safetensors.torch import save_file"}, "live in app only"),
        ({"forgetting/sequences/files.py": "import safetensors"}, "live in app only"),
        ({"forgetting/sequences/files.py": "def f():\n    import pickle"}, "live in app only"),
        ({"testing/a.py": "import argparse"}, "live in app only"),
        ({"linalg/a.py": "import flint"}, "only ntkla.testing imports it"),
        ({"utils.py": ""}, "lies on no known floor"),
        ({"../csrc_triton/gram.py": "from ntkla.linalg import checks"}, "imports torch and triton only"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, files, complaint):
    clean = {f"{floor}/__init__.py": "" for floor in ("linalg", "models", "forgetting", "testing", "app")}
    clean |= {
        "__init__.py": "from ntkla.linalg.ops import gram\n",
        "linalg/eigenmodes.py": "",
        "../csrc_triton/gram.py": "",
    }
    clean |= CLEAN
    _write(tmp_path / "ntkla", clean)
    assert broken(tmp_path) == []
    _write(tmp_path / "ntkla", files)
    messages = broken(tmp_path)
    assert len(messages) == 1
    assert complaint in messages[0]


def _write(package: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`, run in the checkout; the test fails with its traceback."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_adds_less_than_a_second_to_torch():
    # Processor time: the wall clock of a busy machine says nothing about the import.  The first may compile bytecode.
    code = "import time, torch; start = time.process_time(); import ntkla; print(time.process_time() - start)"
    assert min(float(run_python(code)) for _ in range(2)) < 1.0


def test_import_needs_neither_triton_nor_anything_for_people_or_tests():
    unwanted = ["triton", "csrc_triton", "matplotlib", "typer", "rich", "flint", "hypothesis", "safetensors", "mlxtend"]
    code = f"""
import sys
for name in {unwanted}:
    sys.modules[name] = None  # importing it now raises ImportError
import torch, ntkla
x = torch.eye(3, dtype=torch.float64)
assert torch.equal(ntkla.gram(x), x), ntkla.last_dispatch()
assert "ntkla.testing" not in sys.modules and "ntkla.app" not in sys.modules
print(ntkla.last_dispatch())
"""
    assert run_python(code) == "torch:gram:float64"


def test_version_is_a_literal_that_packaging_can_read_without_importing():
    tree = ast.parse((ROOT / "ntkla" / "__init__.py").read_text(encoding="utf-8"))
    literals = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    assert [ast.literal_eval(value) for value in literals] == [ntkla.__version__]


def test_every_public_name_is_there_and_listed_once():
    assert len(ntkla.__all__) == len(set(ntkla.__all__))
    assert all(hasattr(ntkla, name) for name in ntkla.__all__)
    kept = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.NtklaError)
    }
    assert kept <= set(ntkla.__all__)
