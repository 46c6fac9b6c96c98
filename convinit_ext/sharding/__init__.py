"""Which part of a larger tensor a tensor is, and what the processes of a job share."""

from convinit_ext.sharding import _dtensor as boxes
from convinit_ext.sharding import _ranks as ranks
from convinit_ext.sharding._aliases import (
    FSDP,
    MEGATRON,
    check_not_alias,
    check_not_slice,
    is_held_by_others,
    may_be_alias,
    owners,
)
from convinit_ext.sharding._dtensor import (
    FsdpState,
    copy_whole_,
    fsdp_state,
    home_of,
    is_dtensor,
    is_partial,
    is_sharded,
    local_of,
    logical,
    logical_shape,
    parts,
    sharding_of,
)
from convinit_ext.sharding._flat import FlatPiece, check_alone, flat_pieces, tied_places
from convinit_ext.sharding._foreign import (
    carrying,
    check_foreign,
    is_flat_parameter,
    is_flat_piece,
    is_marked,
    is_placeholder,
    keeps_dtype,
    settle,
)
from convinit_ext.sharding._meeting import text_of
from convinit_ext.sharding._megatron import check_name, note_layers
from convinit_ext.sharding._part import Part, within, without
from convinit_ext.sharding._ranks import Ranks, added_up, check_same, gathered, members, place, together
from convinit_ext.sharding._shard import Runs, Shard

__all__ = [
    "FSDP",
    "MEGATRON",
    "FlatPiece",
    "FsdpState",
    "Part",
    "Ranks",
    "Runs",
    "Shard",
    "added_up",
    "boxes",
    "carrying",
    "check_alone",
    "check_foreign",
    "check_name",
    "check_not_alias",
    "check_not_slice",
    "check_same",
    "copy_whole_",
    "flat_pieces",
    "fsdp_state",
    "gathered",
    "home_of",
    "is_dtensor",
    "is_flat_parameter",
    "is_flat_piece",
    "is_held_by_others",
    "is_marked",
    "is_partial",
    "is_placeholder",
    "is_sharded",
    "keeps_dtype",
    "local_of",
    "logical",
    "logical_shape",
    "may_be_alias",
    "members",
    "note_layers",
    "owners",
    "parts",
    "place",
    "ranks",
    "settle",
    "sharding_of",
    "text_of",
    "tied_places",
    "together",
    "within",
    "without",
]
