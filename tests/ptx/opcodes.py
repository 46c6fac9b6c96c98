"""The instructions of PTX that tests/ptx/translate.py knows, but for memory, branches and calls.

Source: NVIDIA, PTX ISA 9.0, section 9.7. What rounds otherwise than IEEE 754's nearest is none of them.
"""

TYPES = {"pred": "bool", "f32": "float", "f64": "double"} | {
    f"{kind}{bits}": f"{'' if kind == 's' else 'u'}int{bits}_t" for kind in "bus" for bits in (8, 16, 32, 64)
}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^"}
# Of floats, those with a u are true of NaN.
COMPARISONS = {
    "eq": "{0} == {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
}
UNORDERED = {"neu": "{0} != {1}", "ltu": "!({0} >= {1})", "leu": "!({0} > {1})", "gtu": "!({0} <= {1})"}
UNORDERED |= {"geu": "!({0} < {1})", "num": "{0} == {0} && {1} == {1}", "nan": "{0} != {0} || {1} != {1}"}
WORDS = SIGNS | COMPARISONS | UNORDERED
# Of each instruction: its pattern, the types of its result and operands, and its value in C++. In these, {0}
# to {3} are the operands, {t} and so on the pattern's groups, {op} one of WORDS. Integers wrap around.
OPERATIONS: list[tuple[str, str, str]] = [
    (r"(?P<op>add|sub)\.[us](?P<u>16|32|64)", "u{u} u{u} u{u}", "{0} {op} {1}"),
    (r"mul\.lo\.[us](?P<u>32|64)", "u{u} u{u} u{u}", "{0} * {1}"),
    (r"mad\.lo\.[us](?P<u>32|64)", "u{u} u{u} u{u} u{u}", "{0} * {1} + {2}"),
    (r"mul\.hi\.u32", "u32 u32 u32", "uint64_t({0}) * {1} >> 32"),
    (r"mul\.wide\.(?P<t>[us])32", "{t}64 {t}32 {t}32", "wide({0}) * {1}"),
    (r"mad\.wide\.(?P<t>[us])32", "{t}64 {t}32 {t}32 {t}64", "wide({0}) * {1} + {2}"),
    (r"div\.(?P<t>[us](?:32|64))", "{t} {t} {t}", "divided({0}, {1})"),
    (r"rem\.(?P<t>[us](?:32|64))", "{t} {t} {t}", "{0} - divided({0}, {1}) * {1}"),
    (r"min\.(?P<t>[us](?:32|64))", "{t} {t} {t}", "{1} < {0} ? {1} : {0}"),
    (r"max\.(?P<t>[us](?:32|64))", "{t} {t} {t}", "{1} > {0} ? {1} : {0}"),
    (r"neg\.s(?P<u>32|64)", "u{u} u{u}", "0 - {0}"),
    (r"(?P<op>and|or|xor)\.(?P<t>b16|b32|b64|pred)", "{t} {t} {t}", "{0} {op} {1}"),
    (r"not\.(?P<t>b16|b32|b64)", "{t} {t}", "~{0}"),
    (r"not\.pred", "pred pred", "!{0}"),
    (r"shl\.(?P<t>b16|b32|b64)", "{t} {t} u32", "shifted_left({0}, {1})"),
    (r"shr\.(?P<t>[bus](?:16|32|64))", "{t} {t} u32", "shifted_right({0}, {1})"),
    (r"shf\.l\.wrap\.b32", "u32 u32 u32 u32", "((uint64_t({1}) << 32 | {0}) << ({2} & 31)) >> 32"),
    (r"bfi\.(?P<t>b32|b64)", "{t} {t} {t} u32 u32", "with_bits({0}, {1}, {2}, {3})"),
    (r"prmt\.b32", "u32 u32 u32 u32", "permuted({0}, {1}, {2})"),
    (r"(?P<op>add|sub|mul|div)\.rn\.(?P<t>f32|f64)", "{t} {t} {t}", "{0} {op} {1}"),
    (r"fma\.rn\.(?P<t>f32|f64)", "{t} {t} {t} {t}", "std::fma({0}, {1}, {2})"),
    (r"sqrt\.rn\.(?P<t>f32|f64)", "{t} {t}", "std::sqrt({0})"),
    (r"min\.(?P<t>f32|f64)", "{t} {t} {t}", "smaller({0}, {1})"),
    (r"max\.(?P<t>f32|f64)", "{t} {t} {t}", "-smaller(-{0}, -{1})"),
    (r"neg\.(?P<t>f32|f64)", "{t} {t}", "-{0}"),
    (rf"setp\.(?P<op>{'|'.join(COMPARISONS)})\.(?P<t>[busf](?:16|32|64))", "pred {t} {t}", "{op}"),
    (rf"setp\.(?P<op>{'|'.join(UNORDERED)})\.(?P<t>f32|f64)", "pred {t} {t}", "{op}"),
    (r"setp\.ne\.(?P<t>[bus](?:16|32|64))", "pred {t} {t}", "{0} != {1}"),
    (r"selp\.(?P<t>[busf](?:16|32|64))", "{t} {t} {t} pred", "{2} ? {0} : {1}"),
    (r"mov\.(?P<t>[busf](?:16|32|64)|pred)", "{t} {t}", "{0}"),
    (r"cvta(?:\.to)?\.(?:global|local|param)\.u64", "u64 u64", "{0}"),
    (r"cvt\.(?P<t>[us](?:8|16|32|64))\.(?P<from>[us](?:8|16|32|64))", "{t} {from}", "{0}"),
    (r"cvt\.rn\.(?P<t>f32|f64)\.(?P<from>[us](?:32|64))", "{t} {from}", "{0}"),
    (r"cvt\.rn\.(?P<to>b?f16)\.f32", "u16 f32", "to_{to}({0})"),
    (r"cvt\.rn\.(?P<to>b?f16)x2\.f32", "u32 f32 f32", "to_{to}({0}) << 16 | to_{to}({1})"),
    (r"cvt\.rn\.satfinite\.(?P<to>e4m3|e5m2)x2\.f32", "u16 f32 f32", "to_{to}({0}) << 8 | to_{to}({1})"),
]


def why_unknown(opcode: str) -> str:
    """What is wrong with an instruction that is not in the table."""
    verb, *modifiers = opcode.split(".")
    for modifier in ("approx", "ftz", "full", "sat"):
        if modifier in modifiers:
            return f".{modifier} does not give IEEE 754's value"
    if opcode.endswith((".f32", ".f64")):
        if verb == "mad":
            return "mad of floats may round once or twice"
        if verb in ("add", "sub", "mul", "div", "fma", "sqrt") and "rn" not in modifiers:
            return "without .rn it may be fused, or rounded otherwise"
    return "unknown instruction"
