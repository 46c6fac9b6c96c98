"""The compiled ops, and arguments for one call of them; for test_ops*.py."""

import torch
from filling import key_tensor

KEYS = key_tensor((1, 2))
PARAMS = [0.0, 1.0, 0.0, 0.0]
FILL = torch.ops.convinit_ext.fill_.default
FILL_ONE = torch.ops.convinit_ext.fill_one_.default
FILL_PART = torch.ops.convinit_ext.fill_part_.default
MAKE_ORTHOGONAL = torch.ops.convinit_ext.make_orthogonal_.default
