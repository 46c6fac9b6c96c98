"""One small ResNet, trained from every recipe and from torch.nn.init, ten seeds each, in one picture.

    python examples/training_by_recipe.py     # minutes, on one thread; --steps 20 --seeds 2 for a look

The ten members of a line are trained together, by torch.func.vmap. All lines see the same images in the same
order; they differ by their initial weights alone. Twice: with BatchNorm, and without any normalisation, where
the initialisation has to do all the work. Solid lines are recipes, dashed ones torch.nn.init.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from convinit_ext import init_ensemble, plan_model
from convinit_ext.recipes import RECIPES

try:
    import matplotlib
    from matplotlib.figure import Figure
    from sklearn.datasets import load_digits
except ImportError as missing:
    sys.exit(
        f"this example needs scikit-learn and matplotlib ({missing}): pip install scikit-learn matplotlib"
    )

ROOT = Path(__file__).parents[1]
BATCH, TRAINED_ON = 64, 1437  # of 1797 images
RATES = {"batch": 0.05, "none": 0.02}  # learning rates, of SGD with momentum 0.9
TITLES = {"batch": "with BatchNorm", "none": "without normalisation"}
Member = tuple[dict[str, Tensor], dict[str, Tensor]]  # parameters and buffers, of all members stacked


class Block(nn.Module):
    def __init__(self, num_in: int, num_out: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        stride = num_out // num_in
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1)
        self.norm1, self.norm2 = norm(num_out), norm(num_out)
        self.shortcut = nn.Conv2d(num_in, num_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(torch.relu(self.norm1(self.conv1(x))))
        return torch.relu(self.shortcut(x) + self.norm2(branch))


def build(norm: str = "batch", width: int = 8) -> nn.Sequential:
    """Return a ResNet of 14 layers for [N, 1, 8, 8]; its BatchNorm keeps no statistics, for vmap."""

    def layer(num: int) -> nn.Module:
        return nn.BatchNorm2d(num, track_running_stats=False) if norm == "batch" else nn.Identity()

    widths = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
    blocks = [block for i, o in widths for block in (Block(i, o, layer), Block(o, o, layer))]
    stem = (nn.Conv2d(1, width, 3, padding=1), layer(width), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out" if weight.ndim == 4 else "fan_in", nonlinearity="relu")


# What torch.nn.init has beside the recipes: by the name of the recipe that means the same.
BY_HAND: dict[str, tuple[str, Callable[[Tensor], object] | None]] = {
    "torch": ("PyTorch's constructors", None),
    "he": ("kaiming_normal_", kaiming),
    "xavier": ("xavier_uniform_", nn.init.xavier_uniform_),
    "llama": ("normal_(std=0.02)", lambda weight: nn.init.normal_(weight, std=0.02)),
}


def initialised_by_hand(norm: str, fill: Callable[[Tensor], object] | None, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = build(norm)
    for module in model.modules() if fill else ():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)
    return model


def recipes_for(model: nn.Module) -> dict[str, str]:
    """Return the recipes that take this model, by name; what they are called where several give the same."""
    names: dict[str, list[str]] = {}
    for name in RECIPES:
        try:
            names.setdefault(plan_model(model, seed=0, recipe=name, device="cpu").fingerprint(), []).append(
                name
            )
        except ValueError as error:
            print(f"recipe {name} is left out, for it does not take this model: {str(error).splitlines()[0]}")
    return {same[-1]: ", ".join(same) for same in names.values()}


def lines_of(norm: str, seeds: range) -> dict[tuple[str, str], Member]:
    """Return the stacked members of every line, by recipe and label."""
    with torch.device("meta"):
        model = build(norm)
    lines = {}
    for recipe, label in recipes_for(model).items():
        lines[recipe, label] = init_ensemble(model, seeds, recipe=recipe, device="cpu")
        if recipe in BY_HAND:
            text, fill = BY_HAND[recipe]
            lines[recipe, text] = stack_module_state(
                [initialised_by_hand(norm, fill, seed) for seed in seeds]
            )
    return lines


def train(norm: str, members: Member, steps: int, data: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the losses [steps, members] and the accuracies on other images [members]."""
    with torch.device("meta"):
        model = build(norm)
    images, labels, test_images, test_labels = data
    optimizer = torch.optim.SGD(members[0].values(), lr=RATES[norm], momentum=0.9)
    order = torch.Generator().manual_seed(0)

    def loss_of(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, (params, buffers), (x,)), y)

    def accuracy_of(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        found = functional_call(model, (params, buffers), (test_images,)).argmax(1)
        return (found == test_labels).float().mean()

    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (BATCH,), generator=order)
        loss = vmap(loss_of, in_dims=(0, 0, None, None))(*members, images[chosen], labels[chosen])
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    with torch.no_grad():
        return torch.stack(losses), vmap(accuracy_of)(*members)


def load() -> list[Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(digits.target)[order]
    return [images[:TRAINED_ON], labels[:TRAINED_ON], images[TRAINED_ON:], labels[TRAINED_ON:]]


def row_of(norm: str, line: tuple[str, str], is_recipe: bool, losses: Tensor, accuracies: Tensor) -> dict:
    """Return a line's curve: log10 of losses averaged over some steps, over the seeds; and where it ends."""
    window = max(1, len(losses) // 25)
    smooth = torch.stack([each.mean(0) for each in losses.split(window)])
    row = {"norm": norm, "recipe": line[0], "label": line[1], "is_recipe": is_recipe, "window": window}
    row |= {"log_loss": rounded(smooth.log10().mean(1)), "log_loss_std": rounded(smooth.log10().std(1))}
    for name, values in (("loss", smooth[-1]), ("accuracy", accuracies)):
        row |= {name: rounded(values.mean()), f"{name}_std": rounded(values.std())}
    return row


def rounded(values: Tensor) -> list[float] | float:
    return (values.double() * 1e4).round().div(1e4).tolist()


def table(record: dict) -> str:
    """Return the last losses and the accuracies in Markdown."""
    lines = ["| weights from | " + " | ".join(f"loss {text} | accuracy" for text in TITLES.values()) + " |"]
    lines.append("|---|" + "---|" * 2 * len(TITLES))
    for first in (row for row in record["rows"] if row["norm"] == "batch"):
        cells = [f"recipe `{first['label']}`" if first["is_recipe"] else f"torch.nn: {first['label']}"]
        for norm in TITLES:
            (row,) = (
                each for each in record["rows"] if (each["norm"], each["label"]) == (norm, first["label"])
            )
            cells.append(f"{row['loss']:.3f} ± {row['loss_std']:.3f}")
            cells.append(f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_std']:.1f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(record: dict, path: Path) -> None:
    figure = Figure(figsize=(9.6, 4), layout="constrained")
    panels = dict(zip(TITLES, figure.subplots(1, len(TITLES), sharey=True), strict=True))
    colors = {
        recipe: f"C{at}" for at, recipe in enumerate(dict.fromkeys(r["recipe"] for r in record["rows"]))
    }
    for row in record["rows"]:
        middle, spread = torch.tensor(row["log_loss"]), torch.tensor(row["log_loss_std"])
        steps = (torch.arange(len(middle)) + 0.5) * row["window"]
        color, panel = colors[row["recipe"]], panels[row["norm"]]
        style, label = ("-", f"recipe {row['label']}") if row["is_recipe"] else ("--", row["label"])
        panel.plot(steps, 10**middle, style, color=color, linewidth=1.4, label=label)
        panel.fill_between(
            steps, 10 ** (middle - spread), 10 ** (middle + spread), color=color, alpha=0.13, linewidth=0
        )
    for norm, panel in panels.items():
        panel.set(title=TITLES[norm], xlabel="step", yscale="log")
        panel.minorticks_off()
    panels["batch"].set_ylabel(f"training loss of {record['seeds']} seeds")
    figure.legend(*panels["batch"].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):  # the same file from the same figures
        figure.savefig(text := io.StringIO(), format="svg", metadata={"Date": None})
    point = r"([ML] -?\d+\.\d)\d*( -?\d+\.\d)\d*"  # a tenth of one will do
    path.write_text(re.sub(point, r"\1\2", text.getvalue()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=10, help="how many members a line has")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs/images/training_by_recipe.svg")
    parser.add_argument("--result", type=Path, default=ROOT / "examples/results/training_by_recipe.json")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    data, rows = load(), []
    for norm in TITLES:
        for line, members in lines_of(norm, range(wish.seeds)).items():
            is_recipe = line[1] not in [text for text, _ in BY_HAND.values()]
            rows.append(row_of(norm, line, is_recipe, *train(norm, members, wish.steps, data)))
            print(f"{TITLES[norm]}, {line[1]}: loss {rows[-1]['loss']}", flush=True)
    record = {"command": "python examples/training_by_recipe.py", "torch": torch.__version__}
    record |= {"python": platform.python_version(), "steps": wish.steps, "seeds": wish.seeds, "rows": rows}
    wish.result.parent.mkdir(exist_ok=True)
    wish.result.write_text(json.dumps(record, indent=None) + "\n")
    draw(record, wish.picture)
    print(table(record))


if __name__ == "__main__":
    main()
