"""Translates nvcc's PTX to C++, instruction by instruction, for tests/ptx/machine.h.

    python tests/ptx/translate.py fill.ptx > fill.cpp

Stops with the line of an instruction that it does not know, or that would round otherwise than IEEE 754 does.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from opcodes import OPERATIONS, TYPES, WORDS, why_unknown

MEMORY = re.compile(
    r"(ld|st|atom|red)(?:\.(global|shared|local|param))?(?:\.(add|min))?(?:\.(v2|v4))?\.([busf]\d+)"
)
SPECIAL = re.compile(r"%(n?tid|n?ctaid)\.x")
NUMBER = re.compile(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})|(-?(?:\d+|0[xX][0-9A-Fa-f]+))U?")
STATEMENT = re.compile(
    r"\s*([$\w]+:(?!:)|[{}]|\.(?:version|target|address_size)\b[^\n]*"
    r"|(?:\.\w+\s+)*\.(?:func|entry)\b[^{;]*;?|[^\s{}][^;]*;)"
)


class RefusedError(ValueError):
    """Says the line, what is wrong with it, and what it holds."""


def statements(ptx: str) -> Iterator[tuple[int, str]]:
    """Labels with their colon, braces, directives, headers of functions up to their brace, instructions."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), ptx, flags=re.DOTALL)
    place = counted = 0
    line = 1
    while match := STATEMENT.match(text, place):
        line += text.count("\n", counted, match.start(1))
        counted = match.start(1)
        yield line, " ".join(match[1].split())
        place = match.end()
    if rest := text[place:].split():
        raise RefusedError(f"line {line}: nothing that follows it can be read: {' '.join(rest[:8])}")


def register(name: str) -> str:
    return "r_" + name.lstrip("%")


def label(name: str) -> str:
    return name.replace("$", "at_")


def split(text: str) -> list[str]:
    return [each.strip() for each in text.strip("{}() ").split(",") if each.strip()]


class Translator:
    """Writes the functions of one file."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.kernels: list[str] = []
        self.shared_bytes = 0
        self.depth = 0
        self.signature = ""
        self.variables: dict[str, tuple[str, int]] = {}  # in memory: address in C++, bytes
        self.registers: dict[str, str] = {}  # which type of C++ holds their bits
        self.written: set[str] = set()
        self.was_read: dict[str, int] = {}

    def translate(self, ptx: str, name: str) -> str:
        for line, text in statements(ptx):
            self.line = line
            try:
                self.statement(text)
            except RefusedError as refusal:
                raise RefusedError(f"line {line}: {refusal}: {text}") from None
            except (AttributeError, IndexError, KeyError) as error:
                raise RefusedError(f"line {line}: not understood: {text}") from error
        module = f'static const Module module("{name}", {{{", ".join(self.kernels)}}}, {self.shared_bytes});'
        return "\n".join(['#include "machine.h"', *self.lines, module, ""])

    def statement(self, text: str) -> None:
        if text == "{":
            self.lines.append("{" if self.depth else self.signature + " {")
            self.depth += 1
        elif text == "}":
            self.lines.append("}")
            self.depth -= 1
            if self.depth == 0:
                self.end_function()
        elif text.endswith(":"):
            self.lines.append(f"{label(text[:-1])}:;")
        elif re.match(r"(\.\w+ )*\.(func|entry)\b", text):
            self.begin_function(text)
        elif text.startswith("."):
            self.directive(text.rstrip("; "))
        else:
            self.lines.append("{ " + self.instruction(text.rstrip("; ")) + " }")

    def begin_function(self, text: str) -> None:
        """Of a function or kernel; a declaration if it ends with a semicolon."""
        found = re.match(r".*?\.(func|entry)\s*(\([^)]*\))?\s*(\w+)\s*(\([^)]*\))?(.*)", text)
        kind, returned, name, given, rest = found.groups()
        self.variables, self.registers, self.written, self.was_read = {}, {}, set(), {}
        declared = [self.declared(each) for each in split(given or "")]
        is_kernel = kind == "entry"
        for number, (each, size, _) in enumerate(declared):
            self.variables[each] = (f"given[{number}]" if is_kernel else f"given{number}", size)
        arguments = [f"const char* given{number}" for number in range(len(declared))]
        if returned:
            each, size, _ = self.declared(returned.strip("()"))
            self.variables[each] = ("returned", size)
            arguments.insert(0, "char* returned")
        if is_kernel:
            arguments = ["const char* const* given"]
        self.signature = f"static void {name}({', '.join(arguments)})"
        if text.endswith(";"):
            self.lines.append(self.signature + ";")
        elif is_kernel:
            limit = re.search(r"\.maxntid (\d+)", rest)
            sizes = ", ".join(str(size) for _, size, _ in declared)
            self.kernels.append(f'{{"{name}", {name}, {{{sizes}}}, {limit[1] if limit else 1024}}}')

    def end_function(self) -> None:
        for name, line in self.was_read.items():
            if name not in self.written:
                raise RefusedError(f"{name}, read in line {line}, is written nowhere")

    def declared(self, text: str) -> tuple[str, int, int]:
        """Name, bytes and alignment of a variable."""
        found = re.match(
            r"\.\w+ (?:\.align (\d+) )?\.[busf](\d+)(?: \.ptr[ .\w]*)? ([\w$]+)(?:\[(\d+)\])?$", text.strip()
        )
        size = int(found[2]) // 8
        return found[3], size * int(found[4] or 1), int(found[1] or size)

    def directive(self, text: str) -> None:
        word = text.split()[0]
        if word in (".version", ".target", ".address_size", ".pragma"):
            return
        if word == ".reg":
            return self.declare_registers(text)
        if word not in (".shared", ".local", ".param"):
            raise RefusedError("unknown directive")
        name, size, align = self.declared(text)
        if word == ".shared":
            self.shared_bytes = -(-self.shared_bytes // align) * align
            self.variables[name] = (f"{self.shared_bytes}", size)
            self.shared_bytes += size
            return
        self.variables[name] = (name, size)
        self.lines.append(f"alignas(16) char {name}[{size}];")
        if word == ".local":
            self.lines.append(f"const Frame frame({name}, {size});")

    def declare_registers(self, text: str) -> None:
        kind, names = re.match(r"\.reg \.(\w+) (.*)", text).groups()
        held = "bool" if kind == "pred" else f"uint{kind[1:]}_t"
        for name in split(names):
            stem, count = re.match(r"(%?\w+)(?:<(\d+)>)?$", name).groups()
            each = [stem] if count is None else [f"{stem}{number}" for number in range(int(count))]
            self.registers |= dict.fromkeys(each, held)
            self.lines.append(f"{held} {', '.join(register(one) for one in each)};")

    def instruction(self, text: str) -> str:
        guard, opcode, rest = re.match(r"(?:@(!?%\w+) )?([a-z][\w.]*)\s*(.*)$", text).groups()
        operands = re.findall(r"\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^,\s]+", rest)
        memory = MEMORY.fullmatch(opcode)
        if opcode == "ret":
            done = "return;"
        elif opcode in ("bra", "bra.uni"):
            done = f"goto {label(operands[0])};"
        elif opcode == "bar.sync" and operands == ["0"]:
            done = f"wait_for_block({self.line});"
        elif opcode in ("call", "call.uni"):
            done = self.call(operands)
        elif memory:
            done = self.access(memory, operands)
        elif re.fullmatch(r"mov\.b(32|64)", opcode) and "{" in rest:
            done = self.pack(opcode[4:], operands)
        else:
            done = self.operation(opcode, operands)
        if guard is None:
            return done
        condition = self.read(guard.lstrip("!"), "pred")
        return f"if ({'!' * guard.startswith('!')}{condition}) {{ {done} }}"

    def operation(self, opcode: str, operands: list[str]) -> str:
        for pattern, types, value in OPERATIONS:
            if found := re.fullmatch(pattern, opcode):
                groups = found.groupdict()
                result, *kinds = types.format_map(groups).split()
                if len(operands) != 1 + len(kinds):
                    raise RefusedError(f"{opcode} has {1 + len(kinds)} operands")
                values = [self.read(*each) for each in zip(operands[1:], kinds, strict=True)]
                value = value.replace("{op}", WORDS.get(groups.get("op", ""), ""))
                return self.write(operands[0], result, value.format(*values, **groups))
        raise RefusedError(why_unknown(opcode))

    def call(self, operands: list[str]) -> str:
        returned = operands.pop(0) if operands[0].startswith("(") else ""
        names = split(returned) + (split(operands[1]) if len(operands) > 1 else [])
        return f"{operands[0]}({', '.join(self.variables[name][0] for name in names)});"

    def access(self, found: re.Match[str], operands: list[str]) -> str:
        """Of memory: a load or store of one or several numbers, or an atomic operation."""
        verb, space, does, vector, kind = found.groups()
        size = int(kind[1:]) // 8 * int((vector or "v1")[1:])
        place = self.place(operands[verb in ("ld", "atom")], space, size, verb)
        of, value = TYPES[kind], operands[verb not in ("ld", "atom")]
        if verb in ("atom", "red"):
            old = f"atomic_{does}<{of}>({place}, {self.read(operands[-1], kind)})"
            return self.write(operands[0], kind, old) if verb == "atom" else f"{old};"
        if verb == "ld":
            names = enumerate(split(operands[0]))
            parts = [self.write(name, kind, f"at<{of}>(from, {i})") for i, name in names]
            return f"const char* from = {place}; {' '.join(parts)}"
        parts = [f"put<{of}>(to, {i}, {self.read(each, kind)});" for i, each in enumerate(split(value))]
        return f"char* to = {place}; {' '.join(parts)}"

    def place(self, operand: str, space: str | None, size: int, verb: str) -> str:
        base, plus = re.match(r"\[([%\w$]+)(?:\+?(-?\d+))?\]$", operand).groups()
        offset = int(plus or 0)
        if space == "param" and base in self.variables:
            address, room = self.variables[base]
            if not 0 <= offset <= room - size:
                raise RefusedError("outside its parameter")
            return f"{address} + {offset}"
        use = {"ld": "kRead", "st": "kWrite"}.get(verb, "kAtomic")
        address = f"{self.read(base, 'u64')} + {offset}ll"
        return f"memory({address}, {size}, k{(space or 'generic').title()}, {use}, {self.line})"

    def pack(self, kind: str, operands: list[str]) -> str:
        """A register from its parts, the lowest first, or the parts from it."""
        apart = operands[0].startswith("{")
        parts = split(operands[not apart])
        size = int(kind[1:]) // len(parts)
        if apart:
            whole = self.read(operands[1], kind)
            halves = enumerate(parts)
            return " ".join(self.write(part, f"b{size}", f"{whole} >> {i * size}") for i, part in halves)
        values = [f"{TYPES[kind]}({self.read(part, f'b{size}')})" for part in parts]
        joined = " | ".join(f"{value} << {i * size}" for i, value in enumerate(values))
        return self.write(operands[0], kind, joined)

    def write(self, name: str, kind: str, value: str) -> str:
        if name == "_":
            return ""
        self.written.add(name)
        held = self.registers[name]
        if kind[0] == "f":
            return f"{register(name)} = bits_of<{held}>({TYPES[kind]}({value}));"
        return f"{register(name)} = {TYPES[kind]}({value});"

    def read(self, operand: str, kind: str) -> str:
        """The operand as C++ of a type."""
        of = TYPES[kind]
        if operand in self.registers:
            self.was_read.setdefault(operand, self.line)
            held = self.registers[operand]
            if kind[0] == "f":
                return f"bits_of<{of}>({register(operand)})"
            return register(operand) if of == held else f"{of}({register(operand)})"
        if operand in self.variables:
            return f"{of}({self.variables[operand][0]})"
        if special := SPECIAL.fullmatch(operand):
            return f"machine.{special[1]}"
        if number := NUMBER.fullmatch(operand):
            single, double, whole = number.groups()
            if single or double:
                return f"bits_of<{of}>({f'0x{single}u' if single else f'0x{double}ull'})"
            return f"{of}({int(whole, 0) % 2**64}ull)"
        raise RefusedError(f"unknown operand {operand}")


def translate(ptx: str, name: str) -> str:
    """Return C++ for a file of PTX. Raises RefusedError, which says the line."""
    return Translator().translate(ptx, name)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    try:
        print(translate(source.read_text(), source.name))
    except RefusedError as error:
        sys.exit(f"{source.name}, {error}")
