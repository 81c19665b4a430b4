// What the tile operations, the loops and the packed weights agree on.

constexpr int kBlock = 32;     // input channels of a tile
constexpr int kOutBlock = 16;  // output channels of a tile
constexpr int kTile = 512;     // bf16 values of a tile of weights: 16 pairs x 16 output channels x 2
constexpr int kPixels = 32;    // that are accumulated at a time: two tiles of 16

// How the rows of the input become planes of a window: as they are; pairs of them by Winograd's algorithm; with their
// differences, where the map is enlarged. See split_packing.inl.
enum class Rows { plain, pairs, enlarged };

// 2^f on [0, 1), lowest power first: least relative error among polynomials of degree 5.
constexpr float kPower[6] = {0.99999994f, 0.693153083f, 0.240153611f, 0.0558263175f, 0.00898934063f, 0.00187757658f};
