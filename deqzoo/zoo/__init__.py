"""The zoo: which entries there are, and their trained weights.

A checkpoint is a folder: ``model.safetensors`` (weights), ``config.json`` (what to build), ``metrics.json``
(what it reached, and how), ``golden.safetensors`` (an input and its output) and ``README.md`` (the model
card, made from the others). Nothing in it is ever unpickled; ``config.json`` builds registered kinds only.

``folder.py`` reads and writes such folders, ``shipped.py`` knows those of ``checkpoints/``, ``loading.py`` has
`list_models`, `load` and `export`, ``onnx.py`` `export_onnx`, ``hub.py`` and ``upload.py``
what lies on the Hugging Face Hub; ``cards.py`` writes model cards and ``tables.py`` the
tables of the READMEs (``python -m deqzoo tables``; ``python -m deqzoo measure NAME`` tests shipped weights again).
"""

from deqzoo.errors import CheckpointError
from deqzoo.zoo.loading import export, list_models, load
from deqzoo.zoo.onnx import export_onnx
from deqzoo.zoo.upload import push_to_hub

__all__ = ["CheckpointError", "export", "export_onnx", "list_models", "load", "push_to_hub"]
