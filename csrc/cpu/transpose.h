// Copies between a buffer and memory that is in the other order: squares as wide as a vector, which change
// their order in registers, and item by item what is left.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace convinit {

constexpr int kSquareBytes = 16;  // a vector that every target's baseline has

template <class Item>
struct Square {
  typedef Item Vector __attribute__((vector_size(kSquareBytes)));
  static constexpr int kSide = kSquareBytes / sizeof(Item);
  Vector lines[kSide];
};

// Items from `kFirst` on of two vectors in turn: of the first, of the second, and so on.
template <class Item, Item kFirst, Item... kPlaces>
inline typename Square<Item>::Vector in_turn(typename Square<Item>::Vector a, typename Square<Item>::Vector b,
                                             std::integer_sequence<Item, kPlaces...>) {
  constexpr Item kSide = sizeof...(kPlaces);
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kFirst + kPlaces / 2 + kPlaces % 2 * kSide)...);
#else
  typedef typename Square<Item>::Vector Vector;
  return __builtin_shuffle(a, b, Vector{static_cast<Item>(kFirst + kPlaces / 2 + kPlaces % 2 * kSide)...});
#endif
}

// Rows become columns: as many times as halving leads from a side to one item, line i of the result is made
// of line i / 2 of the upper half and line i / 2 of the lower half, in turn.
template <class Item>
inline void transpose(Square<Item>* square) {
  constexpr int kSide = Square<Item>::kSide;
  using Places = std::make_integer_sequence<Item, kSide>;
  for (int step = 1; step < kSide; step *= 2) {
    const Square<Item> before = *square;
    for (int i = 0; i < kSide / 2; ++i) {
      square->lines[2 * i] = in_turn<Item, 0>(before.lines[i], before.lines[i + kSide / 2], Places());
      square->lines[2 * i + 1] =
          in_turn<Item, kSide / 2>(before.lines[i], before.lines[i + kSide / 2], Places());
    }
  }
}

// Item j of line i goes to item i of line j: `lines` lines of `length` neighbouring items, `from_step` items
// apart, to lines that are `to_step` apart. The inner loop follows the lines that are read, or those that are
// written: those of the memory, which is far.
template <bool kAlongRead, class Item>
inline void copy_transposed(const Item* from, int64_t from_step, Item* to, int64_t to_step, int64_t lines,
                            int64_t length) {
  constexpr int64_t kSide = Square<Item>::kSide;
  const auto copy_square = [&](int64_t i, int64_t j) {
    Square<Item> square;
    for (int64_t k = 0; k < kSide; ++k)
      std::memcpy(&square.lines[k], from + (i + k) * from_step + j, kSquareBytes);
    transpose(&square);
    for (int64_t k = 0; k < kSide; ++k)
      std::memcpy(to + (j + k) * to_step + i, &square.lines[k], kSquareBytes);
  };
  const int64_t square_lines = lines / kSide * kSide, square_length = length / kSide * kSide;
  if (kAlongRead) {
    for (int64_t i = 0; i < square_lines; i += kSide)
      for (int64_t j = 0; j < square_length; j += kSide) copy_square(i, j);
  } else {
    for (int64_t j = 0; j < square_length; j += kSide)
      for (int64_t i = 0; i < square_lines; i += kSide) copy_square(i, j);
  }
  for (int64_t i = 0; i < lines; ++i) {
    for (int64_t j = i < square_lines ? square_length : 0; j < length; ++j)
      to[j * to_step + i] = from[i * from_step + j];
  }
}

}  // namespace convinit
