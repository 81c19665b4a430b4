// fp32 convolutions with vectors of 16 floats: AVX-512.
#define VAELENS_PATH fp32_avx512
#define VAELENS_LANES 16
#define VAELENS_TILE_ROWS 14
#include "fp32.inl"
