"""intercept where a signal comes in: what its handler raises or fills disturbs nothing."""

import signal
import sys

import pytest
import torch
from intercepted import a_layer, assert_is, state_of_torch
from torch import nn

from convinit_ext import init, intercept
from convinit_ext.intercept import _context, _fills, _patch


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("is_reused", [False, True])
def test_an_interrupt_anywhere_leaves_nothing_behind(is_reused):
    """One at each place where Python looks for signals: when a function begins, and after one of C."""
    files = {_context.__file__, _fills.__file__, _patch.__file__}
    layer, before, at = a_layer(), state_of_torch(), 0

    def interrupt(frame, event, _):
        nonlocal steps
        if frame.f_code.co_filename in files and event in ("call", "c_return"):
            steps += 1
            if steps == at:
                sys.setprofile(None)
                raise InterruptError

    while True:
        at, steps = at + 1, 0
        block = intercept(layer, seed=0)
        try:
            sys.setprofile(interrupt)
            with block if is_reused else intercept(layer, seed=0):
                nn.init.normal_(layer.weight)
        except InterruptError:
            pass
        else:
            break
        finally:
            sys.setprofile(None)
        del block
        assert state_of_torch() == before, at
    assert at > 50
    assert_is(layer.weight, "weight")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no SIGALRM here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may hit a callback of gc
def test_signals_that_raise_leave_nothing_behind():
    def interrupt(*_):
        raise InterruptError

    layer, before = a_layer(), state_of_torch()
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(1500):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 * (number % 100 + 1))
                with intercept(layer, seed=0), intercept(seed=1):
                    nn.init.normal_(layer.weight)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptError:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert state_of_torch() == before
    finally:
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("with_model", [False, True, None])
def test_a_signal_handler_that_fills_leaves_the_fill_that_it_interrupts_its_key(with_model):
    """It comes after each function of C that a fill calls, as a signal does."""
    model = nn.ModuleList([a_layer(), a_layer()])
    first, second = (layer.weight.data[1:3] if with_model else layer.weight for layer in model)

    def handle(frame, event, _):
        nonlocal steps
        if frame.f_globals["__name__"].startswith("convinit_ext.") and event == "c_return":
            steps += 1
            if steps == at:
                sys.setprofile(None)
                nn.init.normal_(second) if with_model is not None else init.normal_(second)

    def filled(handler):
        torch.manual_seed(0)
        block = intercept(model if with_model else None, seed=0)
        with block if with_model is not None else intercept():
            if with_model:
                nn.init.normal_(first)
                nn.init.normal_(second)
            sys.setprofile(handler)
            try:
                nn.init.normal_(first) if with_model is not None else init.normal_(first)
            finally:
                sys.setprofile(None)
            if handler is None:
                nn.init.normal_(second) if with_model is not None else init.normal_(second)
        return [first.tolist(), second.tolist()]

    at, steps = 0, 0
    wanted = filled(None)
    assert wanted[0] != wanted[1]
    while steps == at:
        at, steps = at + 1, 0
        found = filled(handle)
        assert found == wanted or (not with_model and found == wanted[::-1]) or steps < at, at
    assert at > 1
