"""Which part of a larger tensor a tensor is, and what the processes of a job share."""

from convinit_ext.sharding._aliases import (
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
from convinit_ext.sharding._flat import FSDP, FlatPiece, check_alone, flat_pieces, tied_places
from convinit_ext.sharding._foreign import (
    MEGATRON,
    carrying,
    check_foreign,
    check_name,
    is_flat_parameter,
    is_flat_piece,
    is_marked,
    is_placeholder,
    keeps_dtype,
    note_layers,
    settle,
)
from convinit_ext.sharding._ranks import Ranks, check_same, gathered, members, place, text_of, together
from convinit_ext.sharding._shard import Part, Runs, Shard, within
