"""A whole model: planned, filled, reported."""

from convinit_ext.model import _named_tensors as walk
from convinit_ext.model._api import init_model_, plan_model
from convinit_ext.model._buffers import BufferRow
from convinit_ext.model._contents import Drawn, Fill, write_drawn_
from convinit_ext.model._fillings import check_range
from convinit_ext.model._key_names import Names
from convinit_ext.model._memory import available_memory
from convinit_ext.model._named_tensors import Node, join
from convinit_ext.model._options import checked_device
from convinit_ext.model._plan import Piece, Plan, Row
from convinit_ext.model._planner import make_plan
from convinit_ext.model._report import Report, finite, grouped, shape_text, shortened, size_text, table
from convinit_ext.model._run import fill_rows, write_derived_
from convinit_ext.model._selection import Selectors
from convinit_ext.model._state import DTYPES, Entry, entries

__all__ = [
    "DTYPES",
    "BufferRow",
    "Drawn",
    "Entry",
    "Fill",
    "Names",
    "Node",
    "Piece",
    "Plan",
    "Report",
    "Row",
    "Selectors",
    "available_memory",
    "check_range",
    "checked_device",
    "entries",
    "fill_rows",
    "finite",
    "grouped",
    "init_model_",
    "join",
    "make_plan",
    "plan_model",
    "shape_text",
    "shortened",
    "size_text",
    "table",
    "walk",
    "write_derived_",
    "write_drawn_",
]
