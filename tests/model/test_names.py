"""Names of parameters inside wrappers: the keys of the model inside stay, and both spellings choose."""

import pytest
from filling import assert_same_bits
from torch import nn
from torch.optim.swa_utils import AveragedModel

from convinit_ext import init_model_, verify
from convinit_ext.keys import canonical_name


def type_of(package: str, name: str, base: type = nn.Module) -> type:
    """A module type by the name that a package gives it, in place of the package."""
    return type(name, (base,), {"__module__": f"{package}.anywhere"})


def holding(kind: type[nn.Module], **children: nn.Module) -> nn.Module:
    module = kind()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def built() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def adapted() -> nn.Module:
    """As peft wraps a model: its second layer has an adapter."""
    model = built()
    layer = type(
        "Linear", (nn.Module, type_of("peft", "BaseTunerLayer", object)), {"__module__": "peft.tuners"}
    )()
    layer.base_layer = model[1]
    layer.lora_A = nn.ModuleDict({"default": nn.Linear(3, 1, bias=False)})
    model[1] = layer
    tuner = holding(type_of("peft", "LoraModel", type_of("peft", "BaseTuner")), model=model)
    return holding(type_of("peft", "PeftModelForCausalLM", type_of("peft", "PeftModel")), base_model=tuner)


def fabric() -> nn.Module:
    model = built()
    return holding(type_of("lightning", "_FabricModule"), _forward_module=model, _original_module=model)


def averaged_inside() -> nn.Module:
    return nn.Sequential(AveragedModel(built()))


WRAPPED = {
    "fabric": (fabric, "_forward_module", ""),
    "peft": (adapted, "base_model.model", ""),
    "averaged": (averaged_inside, "0.module", "0."),
    "functional": (
        lambda: holding(type_of("torch", "FunctionalModuleWithBuffers"), stateless_model=built()),
        "stateless_model",
        "",
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_keys_of_the_model_inside_stay(kind):
    make, prefix, around = WRAPPED[kind]
    model, plain = make(), nn.Sequential()
    inside = plain
    for segment in filter(None, around.split(".")):
        inside.add_module(segment, nn.Sequential())
        inside = inside.get_submodule(segment)
    for name, child in built().named_children():
        inside.add_module(name, child)
    init_model_(plain, 5)
    init_model_(model, 5)
    for leaf in ("weight", "bias"):
        assert_same_bits(
            model.get_submodule(f"{prefix}.0").get_parameter(leaf), plain.get_parameter(f"{around}0.{leaf}")
        )
    last = model.get_submodule(f"{prefix}.1")
    assert_same_bits(getattr(last, "base_layer", last).weight, plain.get_parameter(f"{around}1.weight"))
    assert verify(model, 5) and verify(model.state_dict(), 5, model=model)


@pytest.mark.parametrize("kind", WRAPPED)
def test_names_as_a_state_dict_has_them_choose_as_well(kind):
    make, prefix, around = WRAPPED[kind]
    model = make()
    for chosen in (f"{prefix}.0.weight", f"{around}0.weight"):
        assert [row.name for row in init_model_(model, only=chosen).rows] == [f"{around}0.weight"]


def test_words_that_could_be_anyones_are_wrappers_by_type_alone():
    for word in ("base_layer", "base_model", "model", "stateless_model", "original_module"):
        model = holding(nn.Module, **{word: nn.Linear(2, 2)})
        assert init_model_(model).rows[0].name == f"{word}.weight"
    assert canonical_name("_forward_module.module.0.weight") == "0.weight"
