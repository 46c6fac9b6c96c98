// Which instruction set fills: the best one this machine has, or the one that was forced.
#pragma once

#include <string>
#include <vector>

#include "cpu/generate.h"

namespace convinit {

// Tables this machine can run, slowest first.
std::vector<const GenerateTable*> available_tables();

const GenerateTable& current_table();

// Throws std::invalid_argument for a name that is unknown, or that this machine lacks.
void force_isa(const std::string& name);

}  // namespace convinit
