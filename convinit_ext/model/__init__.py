"""A whole model: planned, filled, reported."""

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._api import init_model_, plan_model
from convinit_ext.model._checks import check_modules
from convinit_ext.model._ensemble import init_ensemble
from convinit_ext.model._filling import check_range
from convinit_ext.model._names import Names
from convinit_ext.model._options import AnyRecipe, Frozen, Options, checked_device, checked_on_all_ranks
from convinit_ext.model._plan import Plan, Row, dtype_name
from convinit_ext.model._planner import make_plan
from convinit_ext.model._report import Report, finite, grouped, shape_text, shortened, size_text, time_text
from convinit_ext.model._run import available_memory, in_steps
from convinit_ext.model._selection import SelectionError, Selectors
from convinit_ext.model._state import DTYPES, SavedTensor, saved_tensors
from convinit_ext.model._table import fitted, table, terminal_width, wrapped
from convinit_ext.model._values import Drawn, Given, Piece, Same, fill_pieces, forget, slabs
