// Detection at run time; see isa.h.
#include "cpu/isa.h"

#include <atomic>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace convinit {
namespace {

constexpr const char* kKnownNames[] = {"portable", "avx2", "avx512", "neon"};

#if defined(__x86_64__)
bool has_f16c() {  // no name for __builtin_cpu_supports in older compilers
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

std::atomic<const GenerateTable*>& chosen() {
  static std::atomic<const GenerateTable*> table{available_tables().back()};
  return table;
}

bool is_known(const std::string& name) {
  for (const char* known : kKnownNames) {
    if (name == known) return true;
  }
  return false;
}

std::string list_available() {
  std::string names;
  for (const GenerateTable* table : available_tables())
    names += (names.empty() ? "" : ", ") + std::string(table->isa);
  return names;
}

}  // namespace

std::vector<const GenerateTable*> available_tables() {
  std::vector<const GenerateTable*> tables{&kPortableTable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (has_avx2()) tables.push_back(&kAvx2Table);
  if (has_avx512()) tables.push_back(&kAvx512Table);
#elif defined(__aarch64__)
  tables.push_back(&kNeonTable);
#endif
  return tables;
}

const GenerateTable& current_table() { return *chosen().load(std::memory_order_relaxed); }

void force_isa(const std::string& name) {
  for (const GenerateTable* table : available_tables()) {
    if (name == table->isa) {
      chosen().store(table);
      return;
    }
  }
  throw std::invalid_argument(
      (is_known(name) ? "this machine lacks the instruction set \"" : "unknown instruction set \"") + name +
      "\"; available here: " + list_available());
}

}  // namespace convinit
