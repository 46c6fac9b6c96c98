"""Which part of a larger tensor a tensor is, and what the processes of a job share."""

from convinit_ext.sharding import _dtensor as boxes
from convinit_ext.sharding import _flat as flat_shards
from convinit_ext.sharding import _ranks as ranks
from convinit_ext.sharding._dtensor import (
    Part,
    copy_whole_,
    is_dtensor,
    local_of,
    logical_shape,
    parts,
    share_rows,
    without,
)
from convinit_ext.sharding._ranks import check_same_seed, gathered, place, together
from convinit_ext.sharding._replicas import Ranks, added_up
from convinit_ext.sharding._shard import Shard

__all__ = [
    "Part",
    "Ranks",
    "Shard",
    "added_up",
    "boxes",
    "check_same_seed",
    "copy_whole_",
    "flat_shards",
    "gathered",
    "is_dtensor",
    "local_of",
    "logical_shape",
    "parts",
    "place",
    "ranks",
    "share_rows",
    "together",
    "without",
]
