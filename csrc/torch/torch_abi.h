// The oldest torch this extension runs on, said once. The ops are written against torch's stable ABI, so that
// one build serves that release and all later ones; python.cpp uses pybind11, which says nothing about torch.
#pragma once

#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))
