"""The Python of README.md and docs/*.md runs: a page's blocks in order, with the names that they leave open.

An error's traceback shows the page and the line.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
from meshes import every_rank
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: F401
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: F401

import convinit_ext

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (nn.ModuleDict({"embed": nn.Embedding(5, 4)}) for _ in range(2))
        self.blocks = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(4, 4)}) for _ in range(12))
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.head.weight)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    convinit_ext.save_model(Net(), "checkpoints/step-0", seed=42, recipe="he")
    public = {name: getattr(convinit_ext, name) for name in convinit_ext.__all__}
    scope = public | globals() | {"build": Net, "model": Net(), "state_dict": Net().state_dict()}
    scope |= {"rank": 0, "weight": torch.empty(512, 1024), "qkv": nn.Linear(1024, 384)}
    scope |= {"experts": torch.empty(2, 3, 4), "lstm": nn.LSTM(3, 4), "table": nn.Embedding(5, 4)}
    scope |= {"stage": Net().blocks[:1], "plan": {"head": ColwiseParallel()}}
    text = page.read_text()
    if "LlamaForCausalLM" in text:
        transformers = pytest.importorskip("transformers")
        sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers"), 8)
        scope["config"] = transformers.LlamaConfig(**sizes, num_attention_heads=1)
        scope["LlamaForCausalLM"] = transformers.LlamaForCausalLM
    with contextlib.closing(every_rank((1,))) as ranks:
        next(ranks)
        scope["mesh"] = init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "tp"))
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            lines_before = text.count("\n", 0, block.start(1))
            exec(compile("\n" * lines_before + block[1], page, "exec"), scope)
