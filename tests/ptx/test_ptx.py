"""The check of the GPU's code itself: what the translator refuses, and what its machine computes and finds.

Needs a compiler, but neither nvcc nor a GPU.
"""

import re
import subprocess
from pathlib import Path

import pytest
import translate
from compiling import CXX

HERE = Path(__file__).parent
HEAD = """.version 9.0
.target sm_90
.entry kernel(.param .u64 out) {
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %a<9>;
.shared .align 16 .b8 shared[64];
ld.param.u64 %a1, [out]; mov.u32 %r1, %tid.x;
"""
# Runs it in a block of 4 threads, and prints 16 words.
MAIN = """
#include "gpu.h"
#include "machine.h"
#include "runtime.h"
static Found found;
Module::Module(const char* file, std::vector<Kernel> kernels, size_t shared_bytes) {
  found = {new Kernel(kernels[0]), file, shared_bytes};
}
int main() {
  const gpu::Memory out(64);
  const char* address = out.data();
  std::memset(out.data(), 0, 64);
  const auto* bytes = reinterpret_cast<const char*>(&address);
  run_grid(found, {{bytes, bytes + sizeof address}}, 1, 4);
  for (int i = 0; i < 16; ++i) std::printf("%08x ", at<unsigned>(out.data(), i));
}
"""


def translated(body: str) -> str:
    return translate.translate(HEAD + body + "\nret;\n}\n", "test.ptx")


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("add.f32 %f1, %f2, %f3;", "without .rn"),
        ("mul.rz.f32 %f1, %f2, %f3;", "without .rn"),
        ("fma.f64 %a1, %a2, %a3, %a4;", "without .rn"),
        ("sub.rm.f32 %f1, %f2, %f3;", "without .rn"),
        ("add.rn.ftz.f32 %f1, %f2, %f3;", r"\.ftz does not give"),
        ("setp.lt.ftz.f32 %p1, %f2, %f3;", r"\.ftz does not give"),
        ("sqrt.approx.f32 %f1, %f2;", r"\.approx does not give"),
        ("ex2.approx.ftz.f32 %f1, %f2;", r"\.approx does not give"),
        ("div.full.f32 %f1, %f2, %f3;", r"\.full does not give"),
        ("fma.rn.sat.f32 %f1, %f2, %f3, %f4;", r"\.sat does not give"),
        ("mad.f32 %f1, %f2, %f3, %f4;", "mad of floats"),
        ("mad.rn.f32 %f1, %f2, %f3, %f4;", "mad of floats"),
        ("cvt.rz.f16.f32 %h1, %f2;", "unknown instruction"),
        ("rsqrt.rn.f32 %f1, %f2;", "unknown instruction"),
        ("shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1;", "unknown instruction"),
        ("ld.global.nc.u32 %r1, [%a1];", "unknown instruction"),
        ("bar.sync 1;", "unknown instruction"),
        ("mov.u32 %r1, %clock;", "unknown operand %clock"),
        ("mov.u32 %r1, %r77;", "unknown operand %r77"),
        ("ld.param.u64 %a1, [out+8];", "outside its parameter"),
        (".weak .const .align 4 .b8 table[4];", "unknown directive"),
    ],
)
def test_what_could_round_otherwise_is_refused_by_its_line(instruction: str, said: str):
    with pytest.raises(translate.RefusedError, match=f"^line 8: .*{said}") as error:
        translated("@%p1 " * instruction.startswith("add.f32") + "mov.u32 %r1, 1;\n" + instruction)
    assert str(error.value).endswith(instruction.rstrip(";") + ";")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Gives what a program of this body prints."""
    if CXX is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("ptx")
    (folder / "main.cpp").write_text("#include <cstdio>\n" + MAIN)
    command = [CXX, "-std=c++17", "-ffp-contract=off", f"-I{HERE}", f"-I{HERE.parent / 'cuda'}"]
    command += [f"-I{HERE.parent / 'fake_cuda'}"]
    for source in (HERE / "machine.cpp", folder / "main.cpp"):
        subprocess.run([*command, "-c", source, "-o", folder / f"{source.stem}.o"], check=True)

    def run(body: str) -> str:
        (folder / "kernel.cpp").write_text(translated(body))
        program = folder / "program"
        subprocess.run([*command, *folder.glob("*.o"), folder / "kernel.cpp", "-o", program], check=True)
        return subprocess.run([program], capture_output=True, text=True).stdout

    return run


# Instructions that leave a word in %r2 or %f2, and the word: by hand, from the PTX ISA and IEEE 754.
VALUES = [
    ("mul.hi.u32 %r2, -1, -1;", 0xFFFFFFFE),
    ("shr.s32 %r2, -5, 40;", 0xFFFFFFFF),
    ("shr.u32 %r2, -5, 32;", 0),
    ("prmt.b32 %r2, 0x33221180, 0x77665544, 0x8706;", 0xFF77_8066),
    ("shf.l.wrap.b32 %r2, 0x80000000, 1, 33;", 3),
    ("mov.b64 %a2, -1; bfi.b64 %a2, 5, %a2, 8, 16; cvt.u32.u64 %r2, %a2;", 0xFF0005FF),
    ("cvt.rn.f16x2.f32 %r2, 0f3F801000, 0f3F803000;", 0x3C00_3C02),  # ties to even
    ("cvt.rn.bf16x2.f32 %r2, 0f7F7FFFFF, 0f80000001;", 0x7F80_8000),
    ("cvt.rn.satfinite.e4m3x2.f32 %h2, 0fC4000000, 0f3A800000; cvt.u32.u16 %r2, %h2;", 0xFE00),
    ("fma.rn.f32 %f2, 0f3F800001, 0f3F800001, 0fBF800002;", 0x28800000),  # not 0, as rounded twice
    ("mov.f32 %f2, 0f3F800001; mul.rn.f32 %f2, %f2, %f2; add.rn.f32 %f2, %f2, 0fBF800002;", 0),
    ("add.rn.f32 %f2, 0f00000001, 0f00000001;", 2),
    ("min.f32 %f2, 0f00000000, 0f80000000;", 0x80000000),
    ("setp.geu.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r2, 1, 2, %p1;", 1),
]


def test_instructions_give_what_the_manual_says(run):
    body = "setp.ne.s32 %p2, %r1, 0; @%p2 ret;\n"
    for i, (instructions, _) in enumerate(VALUES):
        result = "%f2" if ".f32 %f2" in instructions else "%r2"
        body += f"{instructions} st.global.b32 [%a1+{4 * i}], {result};\n"
    assert [int(word, 16) for word in run(body).split()][: len(VALUES)] == [value for _, value in VALUES]


STORE = "st.shared.u32 [shared], %r1;"
FIRST = "setp.ne.s32 %p1, %r1, 0; @%p1 bra $L__1;"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (STORE, "line 7: a race: another thread writes"),
        (f"{FIRST} {STORE}\n$L__1: ld.shared.u32 %r2, [shared];", "line [78]: (a race|reads)"),
        (f"{FIRST} {STORE}\n$L__1: bar.sync 0; ld.shared.u32 %r2, [shared];\n{STORE}", "line [89]: a race"),
        ("ld.shared.u32 %r2, [shared];", "line 7: reads shared memory that nobody has written"),
        (f"{FIRST}\nbar.sync 0; $L__1:", "line 8: some threads wait here"),
        ("st.global.u32 [%a1+64], %r1;", "line 7: there is no such memory"),
        ("st.global.u32 [%a1-4], %r1;", "line 7: there is no such memory"),
        ("st.global.u32 [%a1+2], %r1;", "line 7: this place in memory is not a multiple"),
        ("st.global.u32 [%a1], %r1;", "line 7: two threads write"),
        (
            "ld.global.u32 %r2, [%a1];\natom.global.add.u32 %r3, [%a1], 1;",
            "line 8: one launch reads and writes",
        ),
    ],
)
def test_what_threads_may_not_do_ends_the_program(run, body: str, said: str):
    assert re.match(f"test.ptx, {said}", run(body))


def test_threads_that_wait_for_each_other_race_with_none(run):
    body = f"{FIRST} {STORE}\n$L__1: bar.sync 0; ld.shared.u32 %r2, [shared]; add.s32 %r2, %r2, 7;"
    body += "mul.wide.u32 %a2, %r1, 4; add.s64 %a2, %a1, %a2; st.global.u32 [%a2], %r2;"
    assert run(body).split()[:5] == ["00000007"] * 4 + ["00000000"]
