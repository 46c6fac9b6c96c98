"""intercept: words without a model, blocks in blocks and in threads, and that nothing is left behind."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from filling import assert_same_bits
from intercepted import a_layer, assert_is, generator_of, state_of_torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convinit_ext import (
    Key,
    fingerprint,
    init,
    init_ensemble,
    init_model_,
    intercept,
    plan_model,
    save_model,
    verify,
)


@pytest.mark.parametrize("seed", [4, None])
def test_without_a_model_keys_come_from_the_seed_or_the_default_generator(seed):
    torch.manual_seed(2)
    before = torch.get_rng_state()
    with intercept(seed=seed):
        first, second = nn.init.normal_(torch.empty(9)), torch.empty(40_000).uniform_()
        layer = a_layer()
    assert torch.equal(torch.get_rng_state(), before) == (seed is not None)
    generator = generator_of(2 if seed is None else seed)
    assert_same_bits(first, init.normal_(torch.empty(9), generator=generator))
    assert_same_bits(second, init.uniform_(torch.empty(40_000), generator=generator))
    assert_same_bits(layer.weight, init.kaiming_uniform_(torch.empty(6, 8), a=5**0.5, generator=generator))


def test_a_model_alone_takes_its_seed_from_the_default_generator():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        layer = a_layer()
        torch.manual_seed(seed)
        with intercept(layer):
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.weight)
        weights.append(layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_generator_in_the_call_gives_the_key():
    layer = a_layer()
    with intercept(layer, seed=0):
        nn.init.normal_(layer.weight, generator=generator_of(3))
        layer.bias.data.uniform_(generator=generator_of(3))
    assert_same_bits(layer.weight, init.normal_(torch.empty(6, 8), generator=generator_of(3)))
    assert_same_bits(layer.bias, init.uniform_(torch.empty(6), generator=generator_of(3)))


BEFORE_ANY_BLOCK = state_of_torch()


def test_nothing_is_left_behind():
    before = BEFORE_ANY_BLOCK
    assert state_of_torch() == before
    layer = a_layer()
    with intercept(layer, seed=0), intercept(), intercept(seed=1):
        nn.init.orthogonal_(layer.weight)
    assert state_of_torch() == before
    with pytest.raises(ZeroDivisionError), intercept(layer, seed=0), intercept(seed=3):
        _ = 1 / 0
    assert state_of_torch() == before
    bad = nn.ModuleDict({"module": a_layer()})
    bad.register_parameter("weight", nn.Parameter(torch.empty(2)))
    with pytest.raises(ValueError, match="both named 'weight'"), intercept(bad, seed=0):
        pass
    assert state_of_torch() == before
    torch.manual_seed(0)
    plain = nn.init.trunc_normal_(torch.empty(50))
    torch.manual_seed(0)
    assert torch.equal(plain, nn.init.trunc_normal_(torch.empty(50)))


def test_the_inner_block_counts():
    outer, inner = a_layer(), a_layer()
    with intercept(outer, seed=0):
        with intercept(inner, seed=1):
            nn.init.normal_(inner.weight)
            nn.init.normal_(outer.weight)
        nn.init.trunc_normal_(inner.bias)
        assert_is(inner.weight, "weight", seed=1)
        assert_same_bits(outer.weight, init.normal_(torch.empty(6, 8), generator=generator_of(1)))
        with pytest.raises(KeyError), intercept(outer, seed=2):
            raise KeyError
        nn.init.normal_(outer.weight)
    assert_is(outer.weight, "weight")


def test_one_block_twice_and_inside_itself():
    layer = a_layer()
    block = intercept(layer, seed=0)
    for _ in range(2):
        with block:
            nn.init.normal_(layer.weight)
            assert_is(layer.weight, "weight")
            with block:
                nn.init.normal_(layer.weight)
                assert_is(layer.weight, "weight")
            nn.init.normal_(layer.weight)
            assert_is(layer.weight, "weight#1")


def test_threads_without_a_block_go_on_with_torch():
    def work():
        found.append(nn.init.trunc_normal_(torch.empty(50)))
        found.append(nn.init.orthogonal_(torch.empty(4, 4)))
        found.append(torch.empty(9).normal_())

    found: list[torch.Tensor] = []
    torch.manual_seed(0)
    work()
    torch.manual_seed(0)
    with intercept(seed=0), ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    for alone, beside in zip(found[:3], found[3:], strict=True):
        assert torch.equal(alone, beside)


def test_many_threads_each_with_a_block():
    before, barrier = state_of_torch(), threading.Barrier(6)

    def work(seed):
        barrier.wait()
        for _ in range(30):
            layer = a_layer()
            with intercept(layer, seed=seed):
                nn.init.trunc_normal_(layer.bias)
                nn.init.normal_(layer.weight)
            assert_is(layer.weight, "weight", seed=seed)
            assert_is(layer.bias, "bias", ("truncated_normal", 0.0, 1.0, -2.0, 2.0), seed=seed)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert state_of_torch() == before


@pytest.mark.parametrize("model", [[a_layer(), a_layer()], a_layer().weight, "model", nn.Linear])
def test_what_is_not_one_model_is_refused(model):
    with pytest.raises(TypeError, match="one model"):
        intercept(model, seed=0)


def test_intercept_takes_one_model():
    with pytest.raises(TypeError, match="intercept takes one model"):
        intercept(nn.Linear(2, 2), nn.Linear(2, 2))


def test_wrong_seeds():
    with pytest.raises(TypeError, match="seed must be an int"):
        intercept(seed="0")
    with pytest.raises(ValueError, match=r"2\*\*64"):
        intercept(a_layer(), seed=2**64)
    with intercept(seed=-1):
        first = nn.init.normal_(torch.empty(3))
    with intercept(seed=2**64 - 1):
        assert torch.equal(first, nn.init.normal_(torch.empty(3)))


def test_an_entry_without_an_exit_ends_with_its_block():
    before = state_of_torch()
    block = intercept(seed=0)
    block.__enter__()
    assert state_of_torch() != before
    del block
    assert state_of_torch() == before


@pytest.mark.parametrize("waits", [(0.02, 0.01), (0.01, 0.02)])
@pytest.mark.parametrize("is_shared", [False, True])
def test_tasks_that_take_turns_have_blocks_of_their_own(waits, is_shared):
    before = state_of_torch()
    layers = [a_layer(), a_layer()]
    shared = intercept(nn.ModuleList(layers), seed=0)

    async def task(number):
        layer = layers[number]
        with shared if is_shared else intercept(layer, seed=number):
            await asyncio.sleep(waits[number])
            nn.init.normal_(layer.weight)
            layer.bias.data.normal_()
            await asyncio.sleep(waits[number])
            nn.init.normal_(layer.weight)

    async def outside():
        await asyncio.sleep(0.005)  # when the others are inside
        found = [nn.init.normal_(torch.empty(9)), torch.empty(9).normal_()]
        generator = generator_of(3)
        assert torch.equal(found[0], torch.empty(9).normal_(generator=generator))
        assert torch.equal(found[1], torch.empty(9).normal_(generator=generator))

    async def run_all():
        torch.manual_seed(3)
        await asyncio.gather(task(0), task(1), outside())

    asyncio.run(run_all())
    for number, layer in enumerate(layers):
        prefix, seed = (f"{number}.", 0) if is_shared else ("", number)
        assert_is(layer.weight, f"{prefix}weight#1", seed=seed)
        assert_is(layer.bias, f"{prefix}bias", seed=seed)
    assert state_of_torch() == before


def test_a_task_or_thread_that_outlives_the_block_that_it_was_started_in():
    layer = a_layer()

    async def late():
        await asyncio.sleep(0.01)
        return nn.init.normal_(torch.empty(9)), torch.empty(9).normal_()

    async def run_all():
        with intercept(layer, seed=0):
            started = asyncio.create_task(late())
            beside = await asyncio.to_thread(nn.init.trunc_normal_, torch.empty(9))
        torch.manual_seed(3)
        return *await started, beside

    torch.manual_seed(4)
    first, second, beside = asyncio.run(run_all())
    assert torch.equal(beside, nn.init.trunc_normal_(torch.empty(9), generator=generator_of(4)))
    generator = generator_of(3)
    assert torch.equal(first, torch.empty(9).normal_(generator=generator))
    assert torch.equal(second, torch.empty(9).normal_(generator=generator))


def test_blocks_that_end_in_another_order():
    class Other(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    def steps(layer, seed):
        with intercept(layer, seed=seed):
            yield
            nn.init.normal_(layer.weight)
            yield

    before, seen, layers = state_of_torch(), [], [a_layer(), a_layer()]
    first, second = (steps(layer, seed) for seed, layer in enumerate(layers))
    next(first)
    with Other():
        next(second)
        first.close()
        next(second)
        second.close()
        assert state_of_torch()[3] == before[3] + 1
        torch.zeros(2)
    assert torch.zeros in seen
    assert_is(layers[1].weight, "weight", seed=1)
    assert state_of_torch() == before


class OwnCode(nn.Module):
    """Whose init code recipes ask: a known distribution, a draw of PyTorch's, and a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale, self.mixed = (nn.Parameter(torch.zeros(5, 4)) for _ in range(3))

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)
        self.scale.data.copy_(torch.rand(5, 4) + 1)
        with intercept(seed=7):
            nn.init.orthogonal_(self.mixed)


@pytest.mark.parametrize(("has_model", "seed"), [(False, None), (False, 1), (True, 1)])
def test_functions_on_models_give_in_a_block_what_they_give_outside(has_model, seed, tmp_path):
    def results(model: nn.Module, name: str) -> list[object]:
        init_model_(model, seed=3)
        save_model(model, tmp_path / name, seed=3)
        params, _ = init_ensemble(model, seeds=[3])
        return [
            fingerprint(model),
            fingerprint(tmp_path / name),
            plan_model(model, seed=3).fingerprint(),
            fingerprint({key: stacked[0] for key, stacked in params.items()}),
            verify(model, seed=3).equal,
        ]

    outside = results(nn.Sequential(OwnCode(), nn.Linear(4, 4)), "outside")
    assert len(set(outside)) == 2 and outside[-1] is True
    model = nn.Sequential(OwnCode(), nn.Linear(4, 4))
    with intercept(model if has_model else None, seed):
        assert results(model, "inside") == outside
        nn.init.normal_(model[1].weight)  # the block goes on
    if has_model:
        assert_same_bits(model[1].weight, init.normal_(torch.empty(4, 4), key=Key(1, "1.weight")))
