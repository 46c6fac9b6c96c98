"""The Python of README.md and docs/ runs: a page's blocks in order, with the names that they leave open.

An error's traceback shows the page and the line.
"""

import ast
import contextlib
import importlib
import inspect
import itertools
import re
import shlex

import pytest
import torch
from meshes import every_rank
from processes import ROOT
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard  # noqa: F401
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: F401

import convinit_ext
from convinit_ext.cli._arguments import parser

# Guides for somebody who starts: nothing is given to their blocks.
ALONE = {"start", "drop-in", "models", "which-recipe", "proof", "promises", "how-it-works"}
ALONE |= {"accelerate", "lightning", "peft", "transformers"}
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (nn.ModuleDict({"embed": nn.Embedding(5, 4)}) for _ in range(2))
        self.blocks = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(4, 4)}) for _ in range(12))
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.head.weight)


def test_llms_txt_lists_every_page_and_nothing_else():
    listed = re.findall(r"^- \[.*?\]\((.*?)\): .*\.$", (ROOT / "llms.txt").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(ROOT)) for page in PAGES if page.parent.name != "api"}
    assert sorted(listed) == sorted({*pages - {"docs/index.md"}, "CONTRIBUTING.md", "docs/api/index.md"})


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name):
    """Those of docs/ are checked by `make docs`."""
    for link in re.findall(r"\]\(([^)#:]+)[)#]", (ROOT / name).read_text()):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_commands_of_a_page_are_there(page):
    """Those of the command line with these options; scripts, and targets of make. None of them is run."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^ {4}((?:python|torchrun|make) .*)", text, re.MULTILINE):
        words = list(itertools.takewhile(lambda word: word != "|", shlex.split(line, comments=True)))
        if words[:3] == ["python", "-m", "convinit_ext"]:
            parser().parse_args(words[3:])
        elif words[0] == "make":
            assert words[1].startswith("build/") or words[1] in targets, line
        else:
            (script,) = (word for word in words if word.endswith(".py"))
            assert (ROOT / script).exists(), line


@pytest.mark.parametrize(("module", "page"), [("", "index"), (".init", "init"), (".recipes", "recipes")])
def test_every_public_name_is_in_the_api(module, page):
    """Sphinx shows classes and functions; the page names what else there is, and what it leaves out."""
    text = (ROOT / f"docs/api/{page}.md").read_text()
    found = importlib.import_module(f"convinit_ext{module}")
    left_out = re.findall(r"\w+", text.partition(":exclude-members:")[2].partition("```")[0])
    for name in found.__all__:
        each = getattr(found, name)
        shown = (inspect.isclass(each) or inspect.isfunction(each)) and each.__doc__ and name not in left_out
        assert shown or re.search(rf"`{name}`|\[convinit_ext\.{name}\]", text), name


def test_the_map_names_files_that_are_there():
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("Where to look first")[2].partition("##")[0]
    named = re.findall(r"`([\w/]+\.\w+)`", table)
    assert len(named) > 20
    assert [
        name for name in named if not ((ROOT / name).exists() or (ROOT / "convinit_ext" / name).exists())
    ] == []


def test_torch_lacks_what_the_readme_says_that_it_lacks():
    def filled(name, **how):
        torch.manual_seed(0)
        return getattr(nn.init, name)(torch.empty(64, 32, 3, 3, **how))

    for name in ("kaiming_normal_", "kaiming_uniform_"):
        assert not torch.equal(filled(name), filled(name, memory_format=torch.channels_last))
        with pytest.raises(NotImplementedError):
            filled(name, dtype=torch.float8_e4m3fn)
    narrow = filled("kaiming_uniform_", dtype=torch.bfloat16)
    assert not torch.equal(filled("kaiming_uniform_").bfloat16(), narrow)


def pieces_between(texts: list[str]) -> list[str]:
    """What is between the dots of quoted messages, or the fields of f-strings; lines of prose are one."""
    pieces = (piece for text in texts for piece in re.split(r"\.\.\.|\0", " ".join(text.split())))
    return [piece.strip(" :.") for piece in pieces]


def texts_in_the_sources() -> list[str]:
    """Every string of the package, with dots for what an f-string leaves open."""
    texts = []
    for path in (ROOT / "setup.py", *ROOT.glob("convinit_ext/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                constants = (isinstance(value, ast.Constant) and value.value for value in node.values)
                texts.append("".join(value or "\0" for value in constants))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_that_a_page_quotes_are_those_of_the_code():
    quoted = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs/faq.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(quoted) > 20
    said = pieces_between(texts_in_the_sources())
    for message in quoted:
        pieces = pieces_between([message])
        assert max(map(len, pieces)) > 12, message
        for piece in pieces:
            assert any(piece in text for text in said), piece


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    convinit_ext.save_model(Net(), "checkpoints/step-0", seed=42, recipe="he")
    public = {name: getattr(convinit_ext, name) for name in convinit_ext.__all__}
    scope = public | globals() | {"build": Net, "model": Net(), "state_dict": Net().state_dict()}
    scope |= {"rank": 0, "weight": torch.empty(512, 1024), "qkv": nn.Linear(1024, 384)}
    scope |= {"experts": torch.empty(2, 3, 4), "lstm": nn.LSTM(3, 4), "table": nn.Embedding(5, 4)}
    scope |= {"stage": Net().blocks[:1], "plan": {"head": ColwiseParallel()}}
    if page.stem in ALONE:
        scope = {}
    text = page.read_text()
    for package in re.findall(
        r"^(?:import|from) (accelerate|lightning|peft|transformers)\b", text, re.MULTILINE
    ):
        pytest.importorskip(package)
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
