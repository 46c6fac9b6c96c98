"""A model's own init code on this library's kernels."""

from convinit_ext.intercept._context import intercept
