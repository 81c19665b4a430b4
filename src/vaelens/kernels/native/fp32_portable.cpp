// fp32 convolutions with vectors of 4 floats: the compiler's baseline.
#define VAELENS_PATH fp32_portable
#define VAELENS_LANES 4
#define VAELENS_TILE_ROWS 6
#include "fp32.inl"
