"""A small transformer trained on 1, 2 and 4 tensor-parallel ranks: three losses by PyTorch, and one by this.

    python examples/training_by_ranks.py          # starts the processes itself, on the CPU

All runs see the same images in the same order. PyTorch's flow is the usual one: a model on the meta device,
parallelised, to_empty(), the same torch.manual_seed() on every rank, reset_parameters().
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from convinit_ext import fingerprint, init_model_

try:
    import matplotlib
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
except ImportError as missing:
    sys.exit(
        f"this example needs scikit-learn and matplotlib ({missing}): pip install scikit-learn matplotlib"
    )

ROOT = Path(__file__).parents[1]
WAYS = {"torch": "torch.nn.init", "convinit": "convinit_ext"}
WIDTH, HEAD, LAYERS, BATCH = 32, 8, 2, 128
COLUMNS, ROWS = ColwiseParallel, RowwiseParallel
PLAN = {"q": COLUMNS, "k": COLUMNS, "v": COLUMNS, "out": ROWS, "up": COLUMNS, "down": ROWS}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = (each(y).unflatten(-1, (-1, HEAD)).transpose(1, 2) for each in (self.q, self.k, self.v))
        seen = nn.functional.scaled_dot_product_attention(*heads)  # of the heads that this rank holds
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Net(nn.Module):
    """Reads an image [N, 8, 8] as eight tokens, its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, WIDTH), nn.Embedding(8, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images) + self.position(torch.arange(8))
        return self.head(self.norm(self.layers(x)).mean(1))


def initialised(way: str, size: int) -> nn.Module:
    with torch.device("meta"):
        model = Net()
    mesh = init_device_mesh("cpu", (size,))
    for layer in model.layers:
        parallelize_module(layer, mesh, {name: style() for name, style in PLAN.items()})
    if way == "convinit":
        init_model_(model, seed=0, recipe="torch", device="cpu")
    else:
        model.to_empty(device="cpu")
        torch.manual_seed(0)  # the same on every rank, as PyTorch's documentation asks
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model


def train(model: nn.Module, steps: int) -> list[float]:
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, foreach=False)
    order, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,), generator=order)
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run_rank(rank: int, size: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "DTensor random operators may not have complete support on cpu")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{size}", rank=rank, world_size=size)
    rows = []
    for way in WAYS:
        model = initialised(way, size)
        row = {"way": way, "ranks": size, "fingerprint": fingerprint(model)}
        row |= {"loss": train(model, steps)}
        units = model.layers[0].up.weight.full_tensor()
        rows.append(row | {"units": len(units), "different_units": len(units.unique(dim=0))})
    if rank == 0:
        Path(folder, f"{size}.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


def curves(record: dict, way: str) -> list[dict]:
    return [row for row in record["rows"] if row["way"] == way]


def table(record: dict) -> str:
    """Return the initial weights' fingerprints, the losses and how many units still differ, in Markdown."""
    marks = (0, len(record["rows"][0]["loss"]) // 2, len(record["rows"][0]["loss"]) - 1)
    steps = " | ".join(f"loss, step {at}" for at in marks)
    lines = [f"| weights from | ranks | fingerprint at first | {steps} | different hidden units at the end |"]
    lines.append("|---" * (4 + len(marks)) + "|")
    for row in record["rows"]:
        losses = " | ".join(f"{row['loss'][at]:.6f}" for at in marks)
        units = f"{row['different_units']} of {row['units']}"
        start = f"`{row['fingerprint'][:8]}...`"
        lines.append(f"| {WAYS[row['way']]} | {row['ranks']} | {start} | {losses} | {units} |")
    return "\n".join(lines)


def apart(record: dict, way: str) -> float:
    """Return how far the losses of one step are apart, at most."""
    return max(
        max(each) - min(each) for each in zip(*(row["loss"] for row in curves(record, way)), strict=True)
    )


def draw(record: dict, path: Path) -> None:
    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    for panel, way in zip(figure.subplots(1, 2, sharey=True), WAYS, strict=True):
        for row, style in zip(curves(record, way), ("-", "--", ":"), strict=False):
            panel.plot(row["loss"], style, label=f"{row['ranks']} ranks".replace("1 ranks", "1 rank"))
        panel.set(title=WAYS[way], xlabel="step")
        panel.legend()
    panel.figure.axes[0].set_ylabel("training loss")
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):  # the same file from the same figures
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/training_by_ranks.svg")
    parser.add_argument("--result", type=Path, default=ROOT / "examples/results/training_by_ranks.json")
    wish = parser.parse_args()
    rows = []
    for size in wish.ranks:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(run_rank, (size, wish.steps, folder), nprocs=size)
            rows += json.loads(Path(folder, f"{size}.json").read_text())
    rows.sort(key=lambda row: (list(WAYS).index(row["way"]), row["ranks"]))
    record = {"command": "python examples/training_by_ranks.py", "torch": torch.__version__}
    record |= {"python": platform.python_version(), "steps": wish.steps, "rows": rows}
    wish.result.parent.mkdir(exist_ok=True)
    wish.result.write_text(json.dumps(record) + "\n")
    draw(record, wish.picture)
    print(table(record))
    for way, text in WAYS.items():
        same = len({row["fingerprint"] for row in curves(record, way)}) == 1
        print(f"{text}: initial weights bit-equal: {same}; losses at most {apart(record, way):.2g} apart")


if __name__ == "__main__":
    main()
