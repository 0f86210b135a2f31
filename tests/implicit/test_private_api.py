"""Private APIs of torch are used in one file, `deqzoo/implicit/private_api.py`, and nowhere else in the package."""

import ast
from pathlib import Path

import pytest
import torch

import deqzoo

PACKAGE = Path(deqzoo.__file__).parent
HOME = PACKAGE / "implicit" / "private_api.py"


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


# What torch's objects have besides their documented face, as far as an object can be asked for it.
OF_OBJECTS = {
    name
    for thing in (torch.zeros(1), torch.zeros(1, requires_grad=True).sin().grad_fn, torch.nn.Linear(1, 1))
    for name in dir(thing)
    if _private(name)
} | {"_torchdynamo_disable"}


def uses(source: str) -> list[str]:
    """The private names of torch in a file: imported, reached through an import, of an object, or named in a string."""
    tree, found, ours = ast.parse(source), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "torch"]
            ours |= {alias.asname or alias.name.split(".")[0] for alias in node.names if alias.name in names}
            found += [name for name in names if any(map(_private, name.split(".")))]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch" and not node.level:
            ours |= {alias.asname or alias.name for alias in node.names}
            found += [
                f"{node.module}.{a.name}"
                for a in node.names
                if any(map(_private, f"{node.module}.{a.name}".split(".")))
            ]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("torch._"):
            found.append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            name = root.id if isinstance(root, ast.Name) else None
            if name not in ("self", "cls") and (name in ours or node.attr in OF_OBJECTS):
                found.append(node.attr)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C._functions",
        "from torch._C import _functorch",
        "from torch.utils import _pytree as trees",
        "import torch._dynamo",
        "import sys\nsys.modules.get('torch._dynamo')",
        "from torch.autograd import forward_ad\nforward_ad._current_level",
        "def f(t):\n    return t._version",
        "def f(t):\n    return t.grad_fn._sequence_nr()",
        "def f(module):\n    return module._buffers",
    ],
)
def test_a_private_name_is_found(source):
    assert uses(source)


@pytest.mark.parametrize(
    "source", ["import torch\ntorch.__version__", "class A:\n    def f(self):\n        self._version"]
)
def test_other_names_are_not(source):
    assert not uses(source)


def test_no_other_file_uses_a_private_api_of_torch():
    found = {
        str(path.relative_to(PACKAGE)): private
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != HOME and (private := set(uses(path.read_text())))
    }
    assert not found, f"move to implicit/private_api.py, with its reason and what replaces it: {found}"
