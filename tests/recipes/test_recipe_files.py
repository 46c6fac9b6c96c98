"""Recipes as TOML, JSON and dicts: what the docs show, round trips, files that extend files, code, TOML."""

import json
import math
import re
import sys
from importlib.util import find_spec

import pytest
import torch
from processes import ROOT
from torch import nn

from convinit_ext import Constant, Normal, TruncatedNormal, Uniform, init_model_, recipes
from convinit_ext.recipes import (
    HE,
    RECIPES,
    TORCH,
    CopyFrom,
    Kaiming,
    Preset,
    Recipe,
    Rule,
    VarianceScaling,
    Xavier,
)

DOCS, MODELS = ((ROOT / "docs" / name).read_text() for name in ("recipes.md", "models.md"))
needs_toml = pytest.mark.skipif(
    sys.version_info < (3, 11) and find_spec("tomli") is None, reason="needs tomllib or tomli"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def by_depth(target):
    return Normal(0.0, 1.0 / target.fans()[0])


def is_wide(target) -> bool:
    return target.tensor.shape[0] > 4


def test_the_examples_of_the_docs_run():
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.layer_scale1 = nn.Linear(4, 4), nn.Parameter(torch.empty(4))


def test_the_rules_of_the_guide_do_what_they_say():
    (block,) = re.findall(r"```python\n(import re\n.*?)```", MODELS, re.DOTALL)
    model = nn.ModuleDict(
        {side: nn.ModuleDict({"embed": nn.Embedding(5, 4)}) for side in ("encoder", "decoder")}
    )
    model.blocks, model.head = nn.ModuleList(Block() for _ in range(12)), nn.Linear(4, 2)
    stage = nn.ModuleList([Block()])
    names: dict[str, object] = {}
    exec(block, names)
    init_model_(model, seed=0, recipe=names["recipe"])
    init_model_(stage, seed=0, recipe=names["recipe"], names={"0": "blocks.8"})
    assert not model.head.bias.any() and model.blocks[3].layer_scale1.eq(1e-6).all()
    assert torch.equal(model.encoder.embed.weight, model.decoder.embed.weight)
    assert torch.equal(stage[0].proj.weight, model.blocks[8].proj.weight)


@needs_toml
def test_the_files_of_the_docs_are_one_recipe(tmp_path):
    read = []
    for language in ("toml", "json"):
        (text,) = blocks(language)
        path = tmp_path / f"mine.{language}"
        path.write_text(text)
        read.append(Recipe.load(path))
        assert recipes.as_recipe(str(path)).rules == read[-1].rules
    assert read[0] == read[1]
    recipe = read[0]
    assert (recipe.name, recipe.defaults) == ("mine", True)
    assert recipe.rules[4:] == TORCH.rules
    assert recipe.rules[:4] == (
        Rule(CopyFrom("encoder.embed.weight"), name="decoder.embed.weight"),
        Rule(
            Kaiming("normal", mode="fan_out", nonlinearity="relu"),
            module=(nn.Conv2d, nn.ConvTranspose2d),
            parameter="weight",
        ),
        Rule(
            TruncatedNormal(0.0, 0.02, -math.inf, math.inf),
            name=re.compile(r"^blocks\.\d+\.mlp\."),
            parameter="weight",
            label="narrow",
        ),
        Rule(Constant(1.0), buffer="scale"),
    )


@needs_toml
def test_a_file_fills_as_its_rules_do(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "he"\n[[rules]]\nmodule = "Linear"\nparameter = "weight"\ninit = "normal_(0, 0.5)"\n'
    )
    model, other = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4)) for _ in range(2))
    assert init_model_(model, 3, recipe=path).recipe == "mine"  # the file's name
    init_model_(other, 3, recipe=[Rule(Normal(0.0, 0.5), module=nn.Linear, parameter="weight"), *HE])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


class TwiceKaiming(Kaiming):
    def __call__(self, target):
        return Normal(0.0, 2 * super().__call__(target).std)


def local_module() -> type[nn.Module]:
    class Local(nn.Module):
        pass

    return Local


ROUND_TRIP = [
    Rule(Constant(0.1234567890123), parameter="gamma*"),
    Rule(Constant(0.0), name="a"),
    Rule(Constant(1.0), name="b"),
    Rule(Uniform(-0.1, 1 / 3), module=nn.Linear),
    Rule(Normal(), module=(nn.Conv1d, nn.modules.batchnorm._NormBase)),
    Rule(Normal(), module=(nn.Conv1d,)),
    Rule(Normal(1.0, 0.02), name=re.compile(r"^x\.\d")),
    Rule(Normal(1.0, 0.03), name=re.compile("(?i)^Enc")),
    Rule(TruncatedNormal(0.0, 1.0, -math.inf, 2.0), buffer="table"),
    Rule(Kaiming("uniform", a=math.sqrt(5), fan="torch"), label="as torch"),
    Rule(Kaiming("truncated_normal", mode="fan_avg", nonlinearity="selu")),
    Rule(Xavier("uniform", gain=1.7)),
    Rule(VarianceScaling(2.0, "fan_geo_avg", "normal")),
    Rule(VarianceScaling()),
    Rule(VarianceScaling(form="uniform", fan="true")),
    Rule(CopyFrom("it's a.weight"), name="c"),
    Rule(Constant(0.0), name="d", allow_unused=True),
    Rule(by_depth, where=is_wide),
]


def test_a_recipe_goes_through_a_dict_and_json_unchanged():
    recipe = Recipe((*ROUND_TRIP, *TORCH), name="mine", defaults=False)
    table = recipe.to_dict()
    assert table["extends"] == "torch"
    assert len(table["rules"]) == len(ROUND_TRIP)
    assert Recipe.from_dict(json.loads(json.dumps(table)), allow_code=True) == recipe


@pytest.mark.parametrize(
    ("rule", "written"),
    [
        (Rule(Constant(-0.0)), {"init": "constant_(-0.0)"}),
        (Rule(Normal(0.0, 0.02)), {"init": "normal_(0.0, 0.02)"}),
        (
            Rule(Kaiming(mode="fan_out", fan="torch")),
            {"init": "kaiming_normal_(mode='fan_out', fan='torch')"},
        ),
        (Rule(Xavier(gain=1 / 3)), {"init": "xavier_uniform_(gain=0.3333333333333333)"}),
        (Rule(VarianceScaling()), {"init": "lecun_normal_"}),
        (Rule(is_wide, name=re.compile("^Enc", re.IGNORECASE)), {"name": "re:(?i)^Enc"}),
        (Rule(is_wide, name=re.compile("(?m)^E", re.IGNORECASE | re.ASCII)), {"name": "re:(?aim)^E"}),
        (
            Rule(is_wide, name=re.compile("x . y  # z", re.VERBOSE | re.DOTALL)),
            {"name": "re:(?sx)x . y  # z"},
        ),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_a_rule_is_written_with_every_digit_sign_and_flag(rule, written):
    table = Recipe((rule,)).to_dict()
    assert {key: table["rules"][0][key] for key in written} == written
    (read,) = Recipe.from_dict(table, allow_code=True).rules
    assert repr(read.init) == repr(rule.init) and getattr(read.name, "flags", 0) == getattr(
        rule.name, "flags", 0
    )


@pytest.mark.parametrize("name", RECIPES)
def test_ready_made_recipes_extend_themselves(name):
    table = RECIPES[name].to_dict()
    assert (table["extends"], table["rules"]) == (name, [])
    assert Recipe.from_dict(table) == RECIPES[name]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(lambda target: Constant(0.0)), "rule 2: init .*lambda.*no name to import it by"),
        (Rule(Constant(0.0), where=lambda target: True), "rule 2: where .*lambda"),
        (Rule(Preset(torch.ones(2))), "rule 2: init Preset"),
        (Rule(TwiceKaiming()), "rule 2: init TwiceKaiming.*no name to import it by"),
        (Rule(Constant(0.0), module=local_module()), "rule 2: module .*Local.*no name to import it by"),
    ],
)
def test_what_cannot_be_written_is_named(rule, said):
    with pytest.raises(ValueError, match=said):
        Recipe((Rule(Constant(0.0)), rule)).to_dict()


def test_files_extend_files_in_their_folder_and_cycles_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"extends": "b.json", "rules": [{"init": "zeros_", "name": "a"}]}')
    (tmp_path / "b.json").write_text('{"extends": "he", "rules": [{"init": "ones_", "name": "b"}]}')
    assert [rule.name for rule in Recipe.load(tmp_path / "a.json").rules[:2]] == ["a", "b"]
    assert Recipe.load(tmp_path / "a.json").rules[2:] == HE.rules
    (tmp_path / "b.json").write_text('{"extends": "a.json"}')
    with pytest.raises(
        ValueError, match=r"extend each other in a cycle: .*a\.json -> .*b\.json -> .*a\.json"
    ):
        Recipe.load(tmp_path / "a.json")
    for number in range(200):
        (tmp_path / f"{number}.json").write_text(f'{{"extends": "{number + 1}.json"}}')
    with pytest.raises(ValueError, match=r"100\.json: recipes extend each other more than 100 deep"):
        Recipe.load(tmp_path / "0.json")
    (tmp_path / "a.json").write_text('{"extends": "c.json"}')
    with pytest.raises(ValueError, match=r"a\.json: extends 'c\.json': .*No such file"):
        Recipe.load(tmp_path / "a.json")


def test_a_file_may_allow_rules_that_decide_for_nothing():
    rule = {"init": "zeros_", "name": "x"}
    model, allowed = nn.Linear(2, 2), {"allow_unused": True}
    with pytest.raises(ValueError, match=r"rule 1 .* fits no parameter"):
        init_model_(model, recipe=Recipe.from_dict({"extends": "torch", "rules": [rule]}))
    for table in ({"rules": [rule | allowed]}, {"rules": [rule]} | allowed):
        init_model_(model, recipe=Recipe.from_dict({"extends": "torch"} | table))
    with pytest.raises(TypeError, match="allow_unused must be a bool"):
        Recipe.from_dict({"rules": [rule | {"allow_unused": 1}]})


@pytest.mark.parametrize(
    "rule",
    [
        {"init": "builtins:exit"},
        {"init": "zeros_", "where": "builtins:exit"},
        {"init": "zeros_", "module": "timm.layers.LayerScale"},
        {"init": "zeros_", "module": ["Linear", "torch.nnn.Linear"]},
        {"init": "zeros_", "module": "torch.utils.data.Dataset"},
        {"init": "zeros_", "module": "torch.nn.no_such_module.Linear"},
        {"init": "zeros_", "module": "nn.Linear"},
    ],
    ids=str,
)
def test_code_that_a_recipe_names_is_not_imported_without_a_word_of_the_caller(tmp_path, rule, monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    table = {"rules": [{"init": "zeros_"}, rule]}
    (tmp_path / "base.json").write_text(json.dumps(table))
    (tmp_path / "mine.json").write_text('{"extends": "base.json"}')
    for read in (
        lambda: Recipe.from_dict(table),
        lambda: Recipe.load(tmp_path / "mine.json"),
        lambda: recipes.as_recipe(tmp_path / "mine.json"),
        lambda: init_model_(nn.Linear(2, 2), recipe=str(tmp_path / "base.json")),
    ):
        with pytest.raises(
            ValueError,
            match=r"rule 2: .*Recipe\.load\(path, allow_code=True\).*--allow-code.*'torch\.nn\.Linear'",
        ):
            read()


def test_with_it_the_code_is_imported_in_files_that_are_extended_too(tmp_path):
    rule = {"init": f"{__name__}:by_depth", "where": f"{__name__}:is_wide", "module": f"{__name__}.Block"}
    (tmp_path / "base.json").write_text(json.dumps({"rules": [rule]}))
    (tmp_path / "mine.json").write_text('{"extends": "base.json"}')
    wanted = Rule(by_depth, where=is_wide, module=Block)
    assert Recipe.load(tmp_path / "mine.json", allow_code=True).rules == (wanted,)
    assert recipes.as_recipe(tmp_path / "mine.json", allow_code=True).rules == (wanted,)
    assert Recipe.from_dict({"rules": [rule]}, allow_code=True).rules == (wanted,)


@needs_toml
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_text('{"extends": "he"}' if suffix == ".json" else 'extends = "he"', encoding="utf-8-sig")
    assert Recipe.load(path).rules == recipes.HE.rules


@needs_toml
def test_toml_that_is_none_and_files_of_another_kind_are_named(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("rules = [")
    with pytest.raises(ValueError, match=r"wrong\.toml: "):
        Recipe.load(path)
    with pytest.raises(ValueError, match=r"ends in \.toml or \.json"):
        Recipe.load(tmp_path / "mine.yaml")
    with pytest.raises(FileNotFoundError):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(
        ValueError, match=r"no recipe 'mine\.yaml'; there are torch.*and files in \.toml or \.json"
    ):
        recipes.as_recipe("mine.yaml")


def test_without_a_reader_of_toml_it_says_what_to_install(tmp_path, monkeypatch):
    for reader in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, reader, None)
    path = tmp_path / "mine.toml"
    path.write_text("")
    with pytest.raises(
        ValueError, match=r"mine\.toml: reading TOML needs Python 3\.11, or .*pip install tomli"
    ):
        Recipe.load(path)
