"""Coordinate check: how far activations move in training, by width, with recipe he and with mup of it.

    python examples/mup_coordinates.py --plot docs/images/mup_coordinates.png

The same net is trained by Adam for a few steps at each width. With mup every layer's activations move as far
at all widths, so that one learning rate fits them all; without, they move further the wider the net is, and
the best rate of a narrow one is too large for a wide one. Printed are exponents: distance ~ width**exponent.
The readout starts from zero, as mup's authors advise.
"""

import argparse

import torch
from torch import nn

from convinit_ext import Constant, init_model_
from convinit_ext.recipes import HE, Rule, mup, mup_groups

BASE, LR, SEEDS = 64, 0.003, 3


def build(width: int) -> nn.Module:
    hidden = [module for _ in range(2) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(32, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def moved(width: int, with_mup: bool, steps: int, seed: int) -> list[list[float]]:
    """Return, after each step, how far each linear layer's output is from its first one: mean of abs."""
    with torch.device("meta"):
        model, base = build(width), build(BASE)
    recipe = [Rule(Constant(0.0), name="6.weight"), *HE]
    init_model_(model, seed, mup(base, recipe) if with_mup else recipe)
    groups = mup_groups(model, base, LR) if with_mup else [{"params": model.parameters(), "lr": LR}]
    optimizer = torch.optim.Adam(groups)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(128, 32, generator=generator)
    labels = torch.randint(10, (128,), generator=generator)
    seen: list[list[torch.Tensor]] = []
    for _ in range(steps + 1):
        seen.append([])
        outputs = inputs
        for layer in model:
            outputs = layer(outputs)
            if isinstance(layer, nn.Linear):
                seen[-1].append(outputs.detach())
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
    return [
        [(now - first).abs().mean().item() for now, first in zip(each, seen[0], strict=True)]
        for each in seen[1:]
    ]


def exponent(widths: list[int], means: torch.Tensor) -> float:
    """Return the slope of log(means) over log(widths)."""
    x, y = torch.tensor(widths).double().log(), means.log()
    return ((x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum()).item()


def draw(widths: list[int], found: dict[str, torch.Tensor], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, layers = found["he"].shape[1:]
    figure, axes = pyplot.subplots(2, layers, figsize=(9, 4), sharex=True, sharey="col", layout="constrained")
    for row, (name, means) in zip(axes, found.items(), strict=True):
        for layer, panel in enumerate(row):
            for step in range(steps):
                colour = pyplot.colormaps["viridis"](step / max(1, steps - 1))
                panel.loglog(widths, means[:, step, layer], color=colour, label=f"step {step + 1}")
            panel.set_title(f"{name}, layer {layer + 1}", fontsize=9)
            panel.minorticks_off()
            panel.set_xticks(widths, map(str, widths))
    axes[1][0].set_xlabel("width")
    axes[0][0].set_ylabel("distance")
    figure.legend(handles=axes[0][0].lines, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=64, pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()
    found = {}
    for name in ("he", "mup of he"):
        runs = [
            [moved(width, name != "he", options.steps, seed) for seed in range(SEEDS)]
            for width in options.widths
        ]
        found[name] = torch.tensor(runs, dtype=torch.float64).mean(1)  # [widths, steps, layers]
    print(f"distance ~ width ** exponent, layer by layer, for widths {options.widths}:")
    for name, means in found.items():
        layers = "".join(f"{exponent(options.widths, each):7.2f}" for each in means[:, -1].T)
        print(f"{name:9} after step {options.steps}: {layers}")
    if options.plot:
        draw(options.widths, found, options.plot)


if __name__ == "__main__":
    main()
