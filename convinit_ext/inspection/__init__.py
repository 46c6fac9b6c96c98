"""A look at a model: its signal forwards and backwards, its weights, and what is wrong with them in words."""

from convinit_ext.inspection._inspect import inspect_model
from convinit_ext.inspection._picture import check_picture
from convinit_ext.inspection._result import Inspection, LayerRow, WeightRow
