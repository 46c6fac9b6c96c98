"""Wrong recipes as TOML, JSON and dicts: errors name the file, the rule and what is accepted."""

import json
import os

import pytest
from planning import make_plan
from torch import nn

from convinit_ext import init_model_
from convinit_ext.recipes import Recipe


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"init": "kaiming_normal"}, "there is no 'kaiming_normal'; accepted are zeros_, .*kaiming_normal_"),
        ({}, "a rule must have init; accepted are zeros_"),
        ({"init": 3}, "a rule's init must be a str, not 3"),
        ({"init": "zeros_", "nmae": "x"}, "a rule has no 'nmae'; accepted are init, arguments, module"),
        ({"init": "normal_(0, sd=1)"}, r"argument 'sd'; normal_ takes \(mean=0.0, std=1.0\)"),
        ({"init": "normal_(0, 1, 2)"}, r"too many positional.*normal_ takes \(mean=0.0, std=1.0\)"),
        ({"init": "normal_", "arguments": {"st": 1}}, "'st'; normal_ takes"),
        ({"init": "normal_(0, -1)"}, "std >= 0"),
        ({"init": "normal_('x')"}, "normal_ takes"),
        ({"init": "constant_"}, r"missing a required argument: 'val'; constant_ takes \(val\)"),
        ({"init": "uniform_(1, 0)"}, "uniform_"),
        ({"init": "kaiming_normal_(mode='fan')"}, "fan_avg"),
        ({"init": "kaiming_normal_(nonlinearity='rely')"}, "rely"),
        ({"init": "copy_from(3)"}, "name of a parameter, not 3"),
        ({"init": "normal_(0, 1"}, r"not of the form NAME or NAME\(ARGUMENTS\)"),
        ({"init": "normal_(__import__('os'))"}, "arguments are numbers and strings"),
        ({"init": "os.system('true')"}, "not of the form"),
        ({"init": "no_such_package:f"}, r"not of the form PACKAGE\.MODULE:FUNCTION: No module"),
        ({"init": "../mine:f"}, r"'\.\./mine:f' is not of the form PACKAGE\.MODULE:FUNCTION"),
        ({"init": "zeros_", "module": ".mine.Type"}, r"module '\.mine\.Type': .*accepted are types of"),
        ({"init": "math:pie"}, "pie"),
        ({"init": "math:pi"}, "'math:pi' is not a function"),
        ({"init": "math:sqrt", "arguments": {"x": 1}}, "takes the target and no arguments"),
        ({"init": "zeros_", "module": "Conv2"}, "module 'Conv2': .*accepted are types of torch.nn"),
        ({"init": "zeros_", "module": "no.such.Type"}, r"module 'no\.such\.Type'"),
        ({"init": "zeros_", "module": ["Linear", "functional"]}, "'functional' is not a type of"),
        ({"init": "zeros_", "name": "re:("}, r"name 're:\(' is no regular expression"),
        ({"init": "zeros_", "name": "re:"}, "name .* is an empty pattern"),
        ({"init": "zeros_", "module": []}, "module is empty"),
        ({"init": "zeros_", "name": ""}, "name is an empty pattern"),
        ({"init": "zeros_", "parameter": "weight[0"}, "'weight.0': its '.' is never closed"),
        ({"init": "zeros_", "where": "where"}, "where 'where' is not of the form"),
        ({"init": "zeros_", "parameter": "a", "buffer": "b"}, "not both"),
        ({"init": "constant_(val=1, val=2)"}, "'val' is there twice"),
        ({"init": "constant_(val=1)", "arguments": {"val": 2}}, "'val' is there twice"),
        ({"init": "normal_(**{})"}, r"argument '\*\*'; normal_ takes"),
        ({"init": f"constant_({'-' * 100_000}1)"}, r"-\.\.\.' is not of the form"),
        ({"init": "constant_", "arguments": {"val": 10**400}}, "too large"),
        ({"init": "zeros_", "name": "re:a{99999999999999999999}"}, "is no regular expression"),
        ("zeros_", "a rule is a table with init"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)  # fmt: skip
def test_wrong_rules_name_the_file_the_rule_and_what_is_accepted(tmp_path, rule, said):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"rules": [{"init": "zeros_", "name": "x"}, rule]}))
    with pytest.raises((ValueError, TypeError), match=rf"wrong\.json: rule 2: .*{said}"):
        Recipe.load(path, allow_code=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("fifo", "a FIFO or a device"), ("device", "a FIFO or a device"), ("folder", "not a folder"),
     ("sparse", "1099511627776 bytes are too many")],
)  # fmt: skip
def test_what_is_no_regular_file_or_very_large_is_refused_and_not_read(tmp_path, kind, said):
    path = tmp_path / "mine.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    (tmp_path / "extending.json").write_text('{"extends": "mine.json"}')
    for name in ("mine.json", "extending.json"):
        with pytest.raises(ValueError, match=rf"mine\.json: .*{said}"):
            init_model_(nn.Linear(2, 2), recipe=tmp_path / name)


def test_a_link_to_itself_is_an_error_of_the_system(tmp_path):
    path = tmp_path / "mine.json"
    path.symlink_to(path)
    with pytest.raises(OSError, match=r"mine\.json"):
        Recipe.load(path)


LONG = "a" * 10_000


@pytest.mark.parametrize(
    "given",
    [
        *(
            LONG,
            {LONG: 1},
            {"name": [LONG]},
            {"extends": LONG},
            {"extends": f"{LONG}.toml"},
            {"rules": [LONG]},
        ),
        *({"rules": [{"init": init}]} for init in (LONG, [LONG], f"{LONG}(", f"{LONG}:f", f"math:{LONG}")),
        *({"rules": [{"init": f"normal_({given})"}]} for given in (f"{LONG}=1", f"'{LONG}'", f"**{LONG}")),
        {"rules": [{"init": f"kaiming_normal_(mode='{LONG}')"}]},
        {"rules": [{"init": f"constant_({LONG}=1, {LONG}=2)"}]},
        {"rules": [{"init": f"math:{LONG}", "arguments": {"x": 1}}]},
        {"rules": [{"init": "normal_", "arguments": {LONG: 1}}]},
        *(
            {"rules": [{"init": "zeros_", key: value}]}
            for key, value in (
                *((LONG, 1), ("where", LONG), ("module", LONG), ("module", [f"torch.{LONG}"])),
                *(("name", f"[{LONG}"), ("name", f"re:({LONG}")),
            )
        ),
    ],
    ids=lambda given: str(given).replace(LONG, "LONG")[:60],
)
def test_of_a_very_long_text_an_error_shows_the_beginning(given):
    with pytest.raises((ValueError, TypeError), match=r"aaaa\.\.\.") as raised:
        Recipe.from_dict(given)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", r"wrong\.json: "),
        ("[" * 100_000, r"wrong\.json: it is nested too deeply"),
        ("[]", r"wrong\.json: a recipe is a table with name, extends, defaults, allow_unused, depth_scaled"),
        ('{"name": "a", "name": "b"}', r"wrong\.json: 'name' is there twice"),
        ('{"rules": [{"init": "ones_", "init": "zeros_"}]}', r"wrong\.json: 'init' is there twice"),
        (
            '{"rule": []}',
            r"wrong\.json: a recipe has no 'rule'; accepted are name, extends, defaults, allow_unused",
        ),
        ('{"rules": {}}', r"wrong\.json: a recipe's rules must be a list"),
        ('{"defaults": 1}', r"wrong\.json: a recipe's defaults must be a bool, not 1"),
        ('{"extends": "torhc"}', r"wrong\.json: extends: there is no recipe 'torhc'; there are torch, he"),
    ],
)
def test_wrong_files_are_named(tmp_path, text, said):
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises((ValueError, TypeError), match=said):
        make_plan(nn.Linear(2, 2), recipe=str(path))
