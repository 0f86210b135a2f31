"""The page about export: what takes a compiler or onnxruntime runs here."""

import re

import pytest

from tests.running import ROOT

TEXT = (ROOT / "docs" / "tutorials" / "export.md").read_text()
ONNX, AOT = re.findall(r"```py\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.slow
def test_onnx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install -e '.[onnx]'")
    import torch

    import deqzoo

    scope = {"deqzoo": deqzoo, "onnxruntime": onnxruntime, "images": torch.rand(4, 1, 8, 8)}
    exec(compile(ONNX, "export.md", "exec"), scope)
    expected = deqzoo.load("deq_digits", trainable=False)(scope["images"])
    torch.testing.assert_close(torch.from_numpy(scope["logits"]), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_aotinductor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "page"}
    exec(compile(AOT, "export.md", "exec"), scope)
    assert (tmp_path / "digits.pt2").is_file()
