// fp32 convolutions with vectors of 8 floats: AVX2 and FMA.
#define VAELENS_PATH fp32_avx2
#define VAELENS_LANES 8
#define VAELENS_TILE_ROWS 6
#include "fp32.inl"
