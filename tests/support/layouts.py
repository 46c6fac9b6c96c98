"""Layouts of memory to fill and to read: views that leave gaps, swap dimensions or have none."""

import torch

SENTINEL = -77.0
LARGE = 3 * 2**19 + 13  # more than a few pages for each of eight threads

# name: shape of the memory, and the view of it that is filled
LAYOUTS = {
    "contiguous": ((6, 5, 7, 9), lambda m: m),
    "transposed": ((67, 43), lambda m: m.t()),
    "permuted": ((5, 6, 7, 8), lambda m: m.permute(2, 0, 3, 1)),
    "channels_last": ((4, 5, 6, 13), lambda m: m.permute(0, 3, 1, 2)),
    "channels_last_odd": ((3, 3, 3, 7), lambda m: m.permute(0, 3, 1, 2)),
    "channels_last_3d": ((2, 3, 4, 5, 11), lambda m: m.permute(0, 4, 1, 2, 3)),
    "one_channel_last": ((8, 3, 3, 1), lambda m: m.permute(0, 3, 1, 2)),
    "sliced": ((9, 31), lambda m: m[2:8, 3:20]),
    "sliced_channels_last": ((4, 6, 6, 16), lambda m: m.permute(0, 3, 1, 2)[:, 1:14, 1:5, 2:]),
    "stepped": ((500,), lambda m: m[1::3]),
    "stepped_rows": ((40, 17), lambda m: m[::2, ::3]),
    "narrow": ((12, 33), lambda m: m.narrow(1, 5, 1)),
    "narrow_first": ((12, 33), lambda m: m.narrow(0, 3, 2)),
    "one_row": ((7, 100), lambda m: m[3]),
    "one_column": ((100, 7), lambda m: m[:, 3]),
    "unsqueezed": ((7, 30), lambda m: m[:, None, :20, None]),
    "diagonal": ((40, 40), lambda m: m.diagonal()),
    "scalar": ((5,), lambda m: m[2]),
    "empty": ((5, 6), lambda m: m[:, 2:2]),
}

LARGE_SHAPE = (96, 80, 17, 23)
LARGE_LAYOUTS = {
    "channels_last": lambda m: m.to(memory_format=torch.channels_last),
    "permuted": lambda m: m.permute(2, 0, 3, 1),
    "transposed": lambda m: m.transpose(0, 3),
    "sliced": lambda m: m[:, 1:, ::2, 1:],
    "sliced channels_last": lambda m: m[1:, 3:].to(memory_format=torch.channels_last)[:, 1:],
}
