// Detection at run time; see isa.h.
#include "cpu/isa.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace convinit {
namespace {

constexpr const char* kKnownNames[] = {"portable", "sse2", "avx2", "avx512", "neon"};

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

std::atomic<const FunctionTable*>& chosen() {
  static std::atomic<const FunctionTable*> table{available_tables().back()};
  return table;
}

}  // namespace

std::vector<const FunctionTable*> available_tables() {
  std::vector<const FunctionTable*> tables{&kPortableTable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  tables.push_back(&kSse2Table);
  if (has_avx2()) tables.push_back(&kAvx2Table);
  if (has_avx512()) tables.push_back(&kAvx512Table);
#elif defined(__aarch64__)
  tables.push_back(&kNeonTable);
#endif
  return tables;
}

const FunctionTable& current_table() { return *chosen().load(std::memory_order_relaxed); }

void force_isa(const std::string& name) {
  std::string available;
  for (const FunctionTable* table : available_tables()) {
    if (name == table->isa) return chosen().store(table);
    available += (available.empty() ? "" : ", ") + std::string(table->isa);
  }
  const bool is_known = std::count(std::begin(kKnownNames), std::end(kKnownNames), name) > 0;
  throw std::invalid_argument(
      (is_known ? "this machine lacks the instruction set \"" : "unknown instruction set \"") + name +
      "\"; available here: " + available);
}

}  // namespace convinit
